"""Whether the files of a data set are still those that were read, without reading them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flaxvision._files import expanded
from flaxvision.data import _load, tfds_sets
from flaxvision.data.files import state_of
from flaxvision.data.published import PUBLISHED


def stamp(
    name: str,
    *,
    raw_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> str:
    """What is equal as long as nobody writes to the files of a data set; "" for sets that are generated.

    Args:
      name: as `load` takes it.
      raw_dir: as `load` takes it.
      data_dir: as `load` takes it; where `tfds:NAME` lies.
    """
    path = name.partition(":")[2]
    files: Sequence[Path]
    if name.startswith("tfds:"):
        with _load.readable(Path(path)):
            files = [tfds_sets.folder_of(name, Path(data_dir) if data_dir else None)]
    elif path:
        files = [expanded(path)]
    else:
        located = _load.located(PUBLISHED[name], raw_dir) if name in PUBLISHED else None
        if located is None:
            return ""
        files = located.paths
    return state_of(files)
