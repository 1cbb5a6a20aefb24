"""A sweep's last step: its winner as an ONNX file, and the table that shows that it is the same network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export._compare import ParityTable, compare
from export._onnx import to_onnx
from flaxvision._files import WINNER
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.models.files import load_noted
from flaxvision.sweep import config_hash


def export_winner(directory: Path, dataset: Dataset) -> ParityTable:
    """Write winner.onnx, parity.md and parity.json to a run directory that has winner.safetensors.

    Args:
        directory: The run directory.
        dataset: The data set of the winner, for the comparison.

    Raises:
        UserError: If a layer of the winner cannot be exported, or the winner does not score what is on record.
    """
    model, notes = load_noted(directory / WINNER)
    path = to_onnx(model, directory / "winner.onnx", metadata=about(notes))
    table = compare(model, dataset, onnx=path)
    check_accuracy(table, notes)
    table.write(directory)
    return table


def check_accuracy(table: ParityTable, notes: Mapping[str, Any]) -> None:
    """Raise `UserError` unless the network gets as many images right as when it was trained.

    Images may differ whose best scores are nearly equal, or on which the runtimes differ. What was trained in another
    precision or scored with mirrored images is scored otherwise here.
    """
    trial, recorded = notes.get("trial", {}), notes.get("final", {}).get("test_top1")
    flax = next(row for row in table.rows if row.runtime == "Flax")
    if recorded is None or flax.accuracy is None or trial.get("test_time_flip"):
        return
    if trial.get("precision") in ("bfloat16", "float64"):
        return
    doubtful = max(table.near_ties, *(table.images - (row.agreeing or 0) for row in table.rows))
    if abs(flax.accuracy - recorded) * table.images > doubtful + 0.5:
        raise UserError(
            f"{WINNER} gets {100 * flax.accuracy:.2f} % of the test images right, and {100 * recorded:.2f} % are on "
            "record: its weights, its record or the data set are not what they were; train it again in another folder"
        )


def about(notes: Mapping[str, Any]) -> dict[str, object]:
    """The notes as metadata of an exported file: of a sweep's trial the data set, configuration hash and metrics."""
    entries = {key: value for key, value in notes.items() if key not in ("trial", "final")}
    if "trial" in notes:
        entries |= {"data set": notes["trial"].get("dataset"), "config hash": config_hash(notes["trial"])}
        if notes["trial"].get("test_time_flip"):
            entries["metrics"] = "of the mean output for an image and its mirror image; the file is the network alone"
    return entries | notes.get("final", {})
