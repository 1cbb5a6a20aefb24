"""Runs in the tools that draw their numbers while they train: TensorBoard, Weights & Biases, MLflow, or your own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
