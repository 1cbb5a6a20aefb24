"""flaxvision fills experiment tables: it trains the cells together, reports them, and exports the networks.

Importing it is quick: JAX and everything else is imported when first used.
"""

import lazy_loader

__version__ = "0.1.0"

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
