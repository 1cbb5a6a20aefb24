"""Networks: the reports' by name, or your own; parameter counts, summaries and weights files."""

from flaxvision._lazy import attach_stub

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
