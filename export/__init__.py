"""Exporters: trained flaxvision models to ONNX, PyTorch and Keras, and back; comparison with PyTorch references."""

import lazy_loader

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
