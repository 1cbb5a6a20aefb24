"""What follows a sweep: the export of its winner, for which alone the library looks `export` up."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxvision.data import Dataset
    from flaxvision.report.tables import Section
    from flaxvision.report.writer import Failed
    from flaxvision.sweep.results import SweepResult

    After = Callable[[SweepResult, Dataset, Failed], Sequence[Section]]

EXPORT = "export"  # how a problem of the export begins, which leaves the sweep whole


def export_winner(result: SweepResult, dataset: Dataset, failed: Failed) -> list[Section]:
    """Write a sweep's winner as ONNX, and compare it with PyTorch and Keras where those are installed, for the page.

    What could not be done, and why, `failed` is told.
    """
    onnx = result.directory / "winner.onnx"
    onnx.unlink(missing_ok=True)  # of an earlier run with fewer trials
    try:
        return [importlib.import_module("export").export_winner(result.directory, dataset).section()]
    except Exception as error:
        done = f"{onnx.name} is written, but not compared" if onnx.exists() else "nothing is written"
        failed(f"{EXPORT}: {done}", error)
        return []
