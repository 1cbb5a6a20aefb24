"""Networks: by name, or your own; parameter counts, summaries and weights files."""

import lazy_loader

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
