"""What a reader must know beside the numbers: how the winner was chosen, what the data were, which rows are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxvision.report import formats
from flaxvision.sweep.results import Cell, Outcome, SweepResult


@dataclasses.dataclass(frozen=True, slots=True)
class DataUsed:
    """A data set as the report describes it."""

    name: str
    counts: tuple[tuple[str, int], ...]  # (split, examples)
    note: str  # how it was made; "" where there is nothing to say
    notes: tuple[str, ...]  # what was left out, converted or looks doubtful

    @property
    def line(self) -> str:
        """Its name, counts and note in one line."""
        counts = ", ".join(f"{split} {count:,}" for split, count in self.counts)
        return "; ".join(filter(None, (f"{self.name}: {counts}" if counts else self.name, self.note)))


def data_used(result: SweepResult) -> tuple[DataUsed, ...]:
    """The data sets of a result, from its provenance."""
    sources: Mapping[str, Mapping[str, Any]] = result.provenance.get("data sets", {})
    return tuple(
        DataUsed(name, tuple(source.get("counts", {}).items()), source.get("note", ""), tuple(source.get("notes", ())))
        for name, source in sources.items()
    )


def cautions(result: SweepResult) -> list[str]:
    """What was chosen on the test set, which makes its numbers optimistic, with the option that would not."""
    before = "--set " if "val_loss" in result.metrics else "--set validation=0.1 "
    said = []
    compared = [cell for cell in result.cells if cell.stage == "sweep"]
    if result.winner is not None and len(compared) > 1 and result.objective.startswith("test_"):
        said.append(
            f"The winner is chosen on the test set, so its {formats.metric_name(result.objective, unit=False)} is "
            f"optimistic: {before}objective={result.objective.replace('test_', 'val_')} chooses on examples that "
            "are held out."
        )
    chosen = [metric for metric in map(_epoch_by, result.outcomes) if metric.startswith("test_")]
    if chosen:
        said.append(
            f"The epoch of a trial is chosen on the test set (the best {formats.metric_name(chosen[0], unit=False)}), "
            f"so its numbers are optimistic: {before}select_on={chosen[0].replace('test_', 'val_')} chooses on "
            "examples that are held out."
        )
    return said


def _epoch_by(outcome: Outcome) -> str:
    """The metric that chose a trial's epoch; "" for the last one, and for a trial that has none."""
    config = outcome.config
    if not outcome.history or (config.get("select") != "best" and not config.get("early_stopping")):
        return ""
    return config.get("select_on") or ("val_loss" if "val_loss" in outcome.history else "test_loss")


def equal_cells(result: SweepResult) -> list[list[Cell]]:
    """Groups of cells whose trials are equal in every number, although their settings differ."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in result.cells:
        if cell.outcomes and all(outcome.status == "ok" for outcome in cell.outcomes):
            groups.setdefault((cell.stage, *map(_numbers, cell.outcomes)), []).append(cell)
    return [group for group in groups.values() if len(group) > 1]


def _numbers(outcome: Outcome) -> tuple:
    """All that a trial scored, as a key."""
    arrays = (outcome.history.get(name) for name in ("train_loss", "test_loss"))
    return outcome.seed, outcome.parameters, *(None if rows is None else rows.tobytes() for rows in arrays)
