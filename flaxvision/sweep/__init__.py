"""Sweeps: experiment tables filled by one command, `flaxvision sweep`, or from Python.

>>> import flaxvision as fv
>>> result = fv.sweep.run("demo", "runs/demo", epochs=2)  # doctest: +SKIP
"""

import lazy_loader

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
