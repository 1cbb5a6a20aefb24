"""A sweep's last step: its winner as an ONNX file, and the table that shows that it is the same network."""

from __future__ import annotations

from pathlib import Path

from export._compare import ParityTable, compare
from export._onnx import to_onnx
from flaxvision.data import Dataset
from flaxvision.models import load_model


def export_winner(directory: Path, dataset: Dataset, metadata: dict[str, object]) -> ParityTable:
    """Write winner.onnx, parity.md and parity.json to a run directory that has winner.safetensors.

    Args:
        directory: The run directory.
        dataset: The data set of the winner, for the comparison.
        metadata: What else to write into the file: data set, configuration, accuracy.

    Raises:
        UserError: If a layer of the winner cannot be exported.
    """
    model = load_model(directory / "winner.safetensors")
    path = to_onnx(model, directory / "winner.onnx", metadata=metadata)
    table = compare(model, dataset, onnx=path)
    table.write(directory)
    return table
