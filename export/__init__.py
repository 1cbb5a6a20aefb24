"""Exporters: trained flaxvision models to ONNX, PyTorch and Keras, and back; comparison with PyTorch references."""

from typing import TYPE_CHECKING

from flaxvision._lazy import attach

if TYPE_CHECKING:
    from export._compare import Parity, ParityTable, compare
    from export._from_keras import from_keras
    from export._from_onnx import from_onnx
    from export._keras import to_keras
    from export._onnx import to_onnx
    from export._sweep import export_winner
    from export._torch import from_torch, save_torch, to_torch
    from export._trajectory import Parting, Trajectory, trajectory

__all__ = [
    "Parity",
    "ParityTable",
    "Parting",
    "Trajectory",
    "compare",
    "export_winner",
    "from_keras",
    "from_onnx",
    "from_torch",
    "save_torch",
    "to_keras",
    "to_onnx",
    "to_torch",
    "trajectory",
]

__getattr__ = attach(
    __name__,
    {
        **dict.fromkeys(("Parity", "ParityTable", "compare"), "_compare"),
        **dict.fromkeys(("from_torch", "save_torch", "to_torch"), "_torch"),
        **dict.fromkeys(("Parting", "Trajectory", "trajectory"), "_trajectory"),
        "export_winner": "_sweep",
        "from_keras": "_from_keras",
        "from_onnx": "_from_onnx",
        "to_keras": "_keras",
        "to_onnx": "_onnx",
    },
)
