"""What people must know beside the numbers: notes under a table, the data, cautions, which rows are equal."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from flaxvision._text import data_name
from flaxvision.errors import UserError
from flaxvision.report import formats
from flaxvision.sweep._differences import LEVEL, MOST, Differences
from flaxvision.sweep.results import Cell, Outcome, SweepResult
from flaxvision.training.metrics import metric_of

FEW = 4  # cells that a note names


def best_notes(result: SweepResult, metric: str) -> list[str]:
    """What bold means."""
    if not formats.best_cells(result, metric):
        return []
    extreme = "lowest" if metric_of(metric).lower_is_better else "highest"
    marked = any(cell.sound < cell.n for cell in result.cells)
    among = " among the cells with the fewest seeds that diverged or failed" if marked else ""
    return [f"Bold: the {extreme} mean {formats.metric_name(metric, unit=False)}{among}."]


def tied_notes(found: Differences) -> list[str]:
    """What the mark of cells means that cannot be distinguished from the best."""
    if not found.decided:
        return []
    how = f"{100 * LEVEL:.0f} % for all cells at once, see flaxvision.sweep.differences"
    if any(found.tied(cell) for cell in found.others):
        return [
            f"{formats.TIED} not distinguishable from the best: the interval of the paired difference over seeds "
            f"contains 0 ({how})."
        ]
    return [
        f"Every other cell is distinguishable from the best: no interval of a paired difference contains 0 ({how})."
    ]


def seeds_notes(result: SweepResult, found: Differences) -> list[str]:
    """How many seeds would decide what the differences to the best cell leave open."""
    if found.best is None:
        return []
    if not found.decided:
        return ["One seed a cell cannot tell a difference from chance: give three seeds or more (--seeds 3)."]
    tied = [cell for cell, difference in found.others.items() if found.tied(cell) and difference.mean]
    counts = sorted(((found.enough(cell) or MOST + 1, cell) for cell in tied), key=lambda pair: pair[0])
    if not counts:
        return []
    start = "If means and spreads stay as they are, what is open takes"
    if len(counts) <= FEW:
        needs = [f"{_seeds(n)} for {formats.cell_label(cell, result.keys)}" for n, cell in counts]
        return [f"{start} {'; '.join(needs)}."]
    half, most = counts[(len(counts) - 1) // 2][0], counts[-1][0]
    return [f"{start} {_seeds(half)} for half of the {len(counts)} cells so marked, and {_seeds(most)} for all."]


def _seeds(count: int) -> str:
    return f"about {count} seeds" if count <= MOST else f"more than {MOST:,} seeds"


def marked_notes(result: SweepResult) -> list[str]:
    """What the marks of cells mean of which a seed diverged or failed."""
    notes = []
    names = [formats.cell_label(cell, result.keys) or "all" for cell in result.cells]
    for mark, what, counts in (
        (
            formats.DIVERGED,
            "Seeds with a loss or weight that is not finite",
            [cell.diverged for cell in result.cells],
        ),
        (formats.FAILED, "Seeds that failed", [cell.failed for cell in result.cells]),
    ):
        found = [f"{name}: {k} of {cell.n}" for name, k, cell in zip(names, counts, result.cells, strict=True) if k]
        if found:
            notes.append(f"{mark} {what} ({'; '.join(found)}); means are over finite values.")
    return notes


def other_notes(result: SweepResult, metrics: Iterable[str]) -> list[str]:
    """Rows that differ in a setting which made no difference; what was published; what columns mean."""
    notes = []
    equal = [" = ".join(formats.cell_label(cell, result.keys) for cell in group) for group in equal_cells(result)]
    if equal:
        notes.append(f"Equal in every number, so what differs had no effect: {'; '.join(equal)}.")
    published = [verdict for cell in result.cells for verdict in cell.verdicts]
    for metric in formats.distinct(verdict.metric for verdict in published):
        verdicts = [verdict for verdict in published if verdict.metric == metric]
        extremes = (f(v.tolerance for v in verdicts) for f in (min, max))
        tolerance = " to ±".join(formats.distinct(formats.given(metric, value) for value in extremes))
        sources = "; ".join(formats.distinct(v.source for v in verdicts))
        unit = " points" if metric_of(metric).percent else ""
        notes.append(f"Published {formats.metric_name(metric, unit=False)}: {sources}; tolerance ±{tolerance}{unit}.")
    notes += formats.distinct(note for name in metrics if (note := metric_of(name).note))
    if result.convergence_threshold is not None:
        threshold = f"{100 * result.convergence_threshold:g}"
        notes.append(f"Converged at: the epoch after which test top-1 changes by less than {threshold} points.")
    parameters = {cell.parameters for cell in result.cells if cell.parameters}
    return [*notes, *(f"{count:,} parameters." for count in parameters if len(parameters) == 1)]


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
    return tuple(
        DataUsed(name, tuple(source.get("counts", {}).items()), source.get("note", ""), tuple(source.get("notes", ())))
        for name, source in provenance_shown(result).get("data sets", {}).items()
    )


def provenance_shown(result: SweepResult) -> Mapping[str, Any]:
    """The provenance as pages have it, its data sets by names that do not tell where they lie."""
    sources: Mapping[str, Mapping[str, Any]] = result.provenance.get("data sets", {})
    named: dict[str, Mapping[str, Any]] = {}
    for name, source in sources.items():
        plain = data_name(name)
        same = itertools.chain([plain], (f"{plain} ({number})" for number in itertools.count(2)))
        named[next(each for each in same if each not in named)] = source
    return {**result.provenance, "data sets": named} if sources else result.provenance


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
    if not outcome.final or (config.get("select") != "best" and not config.get("early_stopping")):
        return ""
    return config.get("select_on") or ("val_loss" if "val_loss" in outcome.final else "test_loss")


def equal_cells(result: SweepResult) -> list[list[Cell]]:
    """Groups of cells whose trials are equal in every number, although their settings differ."""
    sound = [cell for cell in result.cells if cell.outcomes and cell.sound == cell.n]
    alike = _groups(sound, lambda cell: (cell.stage, *map(_scores, cell.outcomes)))  # histories lie in files
    return [group for cells in alike for group in _groups(cells, lambda cell: tuple(map(_losses, cell.outcomes)))]


def _groups(cells: Iterable[Cell], key: Callable[[Cell], Hashable]) -> list[list[Cell]]:
    """The cells whose key others have, too."""
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return [group for group in groups.values() if len(group) > 1]


def _scores(outcome: Outcome) -> Hashable:
    return outcome.seed, outcome.parameters, outcome.best_epoch, tuple(sorted(outcome.final.items()))


def _losses(outcome: Outcome) -> Hashable:
    try:
        arrays = [outcome.history.get(name) for name in ("train_loss", "test_loss")]
    except UserError:  # it is gone, and not known to be equal to any other
        return object()
    return tuple(None if rows is None else rows.tobytes() for rows in arrays)
