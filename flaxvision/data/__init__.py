"""Data sets in memory: published ones (through tensorflow-datasets), generated ones, the user's own arrays and folders.

>>> import flaxvision as fv
>>> fv.data.load("two_clusters").input_shape
(2,)
"""

from __future__ import annotations

from flaxvision.data._load import list_datasets, load
from flaxvision.data.arrays import from_arrays
from flaxvision.data.dataset import Dataset, Source, Split

__all__ = ["Dataset", "Source", "Split", "from_arrays", "list_datasets", "load"]


def __dir__() -> list[str]:
    return __all__
