"""Runs: what sweeps left in their directories, read without the data sets and the code that they were made of.

>>> import flaxvision as fv
>>> run = fv.runs.open("runs/demo")  # doctest: +SKIP
>>> run.to_frame()  # doctest: +SKIP
"""

import lazy_loader

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
