"""ONNX files back into models, as `flaxvision.models` has it."""

from flaxvision.models._from_onnx import from_onnx

__all__ = ["from_onnx"]
