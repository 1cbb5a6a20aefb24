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
    """Fill the folder of a sweep's winner, and compare it with PyTorch and Keras, for the page.

    What could not be done, and why, `failed` is told.
    """

    def without(name: str, error: Exception) -> None:
        failed(f"{EXPORT}: {name}", error)

    try:
        table = importlib.import_module("export").export_winner(result, dataset, without)
    except Exception as error:
        failed(f"{EXPORT}: nothing is written", error)
        return []
    return [] if table is None else [table.section()]
