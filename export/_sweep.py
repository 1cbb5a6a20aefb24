"""A sweep's last step: its winner as an ONNX file, and the table that shows that it is the same network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export._compare import ParityTable, compare
from export._onnx import to_onnx
from flaxvision.data import Dataset
from flaxvision.layers import Chain
from flaxvision.models.files import assign, build_model, read
from flaxvision.sweep import config_hash

WINNER = "winner.safetensors"


def export_winner(directory: Path, dataset: Dataset) -> ParityTable:
    """Write winner.onnx, parity.md and parity.json to a run directory that has winner.safetensors.

    Args:
        directory: The run directory.
        dataset: The data set of the winner, for the comparison.

    Raises:
        UserError: If a layer of the winner cannot be exported.
    """
    model, notes = load_noted(directory / WINNER)
    path = to_onnx(model, directory / "winner.onnx", metadata=about(notes))
    table = compare(model, dataset, onnx=path)
    table.write(directory)
    return table


def load_noted(path: Path) -> tuple[Chain, dict[str, Any]]:
    """The model of a weights file, and what was noted with it.

    Raises:
        UserError: As `flaxvision.models.load_model`.
    """
    tensors, described = read(path)
    model = build_model(described["model"])
    assign(model, tensors, str(path))
    return model, described["notes"]


def about(notes: Mapping[str, Any]) -> dict[str, object]:
    """The notes as metadata of an exported file: of a sweep's trial the data set, configuration hash and metrics."""
    entries = {key: value for key, value in notes.items() if key not in ("trial", "final")}
    if "trial" in notes:
        entries |= {"data set": notes["trial"].get("dataset"), "config hash": config_hash(notes["trial"])}
        if notes["trial"].get("test_time_flip"):
            entries["metrics"] = "of the mean output for an image and its mirror image; the file is the network alone"
    return entries | notes.get("final", {})
