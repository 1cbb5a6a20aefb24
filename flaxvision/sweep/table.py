"""From outcomes to the table: cells, the winner, and verdicts on published numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flaxvision.sweep.results import Cell, Outcome, Verdict
from flaxvision.sweep.spec import Published, Spec
from flaxvision.sweep.trials import Trial
from flaxvision.training.metrics import PARAMETERS, metric_of


def cells_of(spec: Spec, trials: Sequence[Trial], outcomes: dict[str, Outcome]) -> tuple[Cell, ...]:
    """The cells of finished trials in the order of `trials`."""
    groups: dict[tuple, list[Outcome]] = {}
    for trial in trials:
        groups.setdefault((trial.stage, trial.cell), []).append(outcomes[trial.id])
    cells = []
    for (stage, labels), group in groups.items():
        cell = Cell(stage, dict(labels), tuple(sorted(group, key=lambda outcome: outcome.seed)), ())
        cells.append(Cell(stage, cell.where, cell.outcomes, tuple(_verdict(p, cell) for p in _fitting(spec, cell))))
    return tuple(cells)


def best_cell(cells: Sequence[Cell], objective: str) -> Cell | None:
    """The cell with the best mean objective, the first of equal ones; None where every trial diverged or failed.

    A cell of whose trials a smaller share diverged or failed comes first, whatever its mean, which is over the others.
    """
    sound = [cell for cell in cells if cell.sound]
    return min(sound, key=lambda cell: rank(cell, objective), default=None)


def rank(cell: Cell, metric: str) -> tuple[float, float]:
    """Smaller for a better cell: the share of its trials that diverged or failed, then its mean."""
    mean = cell.mean(metric)
    value = math.inf if mean is None else mean if metric_of(metric).lower_is_better else -mean
    return 1 - cell.sound / cell.n, value


def nearest_to_mean(cell: Cell, objective: str) -> Outcome:
    """The seed whose objective is nearest the cell's mean: a typical trial, not the luckiest; a sound one."""
    metric = objective if cell.values(objective) else objective.replace("val_", "test_")
    mean = cell.mean(metric)

    def distance(outcome: Outcome) -> tuple[bool, float]:
        value = outcome.final.get(metric)
        return outcome.status != "ok", math.inf if value is None or mean is None else abs(value - mean)

    return min(cell.outcomes, key=distance)


def _fitting(spec: Spec, cell: Cell) -> list[Published]:
    return [p for p in spec.published if p.stage == cell.stage and p.where.items() <= cell.where.items()]


def _verdict(published: Published, cell: Cell) -> Verdict:
    ours = cell.parameters if published.metric == PARAMETERS.key else cell.mean(published.metric)
    if ours is None:
        verdict = "missing"
    else:
        verdict = "within" if abs(ours - published.value) <= published.tolerance else "outside"
    ours = ours if ours is None else float(ours)
    return Verdict(published.metric, published.value, published.tolerance, published.source, ours, verdict)
