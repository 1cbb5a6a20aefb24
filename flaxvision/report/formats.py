"""How numbers, metrics and cells are named and printed, the same in every table, figure and page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flaxvision.sweep._differences import Difference
from flaxvision.sweep.results import Cell, SweepResult, Verdict, best_cell
from flaxvision.training.metrics import SPLITS, metric_of

DIVERGED, FAILED, TIED = "†", "‡", "≈"


def metric_name(metric: str, unit: bool = True) -> str:
    """A metric as a reader names it.

    >>> metric_name("test_top1")
    'test top-1 (%)'
    """
    split, found = metric.partition("_")[0], metric_of(metric)
    name = f"{split} {found.label}" if split in SPLITS else found.label
    return f"{name} (%)" if unit and found.percent else name


def number(metric: str, mean: float, std: float | None = None, digits: int | None = None) -> str:
    """A metric's mean and sample standard deviation: percent with two decimals, losses with four digits.

    `digits` says how many decimals they have in place of that.

    >>> number("test_top1", 0.87024, 0.0031), number("test_loss", 23.9, 0.316), number("val_loss", 3.85)
    ('87.02 ± 0.31', '23.90 ± 0.32', '3.850')
    >>> number("test_top1", 0.87024, 0.0031, digits=1)
    '87.0 ± 0.3'
    """
    found = metric_of(metric)
    if found.percent or digits is not None:
        decimals = 2 if digits is None else digits
        return " ± ".join(f"{found.scale * value:.{decimals}f}" for value in (mean, std) if value is not None)
    text = f"{mean:#.4g}".rstrip(".")
    if std is None:
        return text
    return f"{text} ± {std:.1e}" if "e" in text else f"{text} ± {std:.{len(text.partition('.')[2])}f}"


def with_unit(metric: str, value: float) -> str:
    """A metric where no heading says the unit.

    >>> with_unit("test_top3", 0.97)
    '97.00 %'
    """
    return number(metric, value) + (" %" if metric_of(metric).percent else "")


def given(metric: str, value: float) -> str:
    """A published number or tolerance, without digits that were never published.

    >>> given("test_top1", 0.87), given("val_loss", 3.851)
    ('87', '3.851')
    """
    return f"{round(100 * value, 6) if metric_of(metric).percent else value:.6g}"


def difference(metric: str, value: float) -> str:
    """A signed difference, in points or in loss.

    >>> difference("test_top1", -0.0123)
    '−1.23'
    """
    text = f"{100 * value:+.2f}" if metric_of(metric).percent else f"{round(value, 4):+.3g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def beside(metric: str, found: Difference) -> str:
    """A cell's difference to the best one, with its interval.

    >>> beside("test_top1", Difference(3, -0.0123, -0.02, -0.0046))
    '−1.23 (−2.00 to −0.46)'
    """
    bounds = (difference(metric, bound) for bound in (found.low, found.high))
    return f"{difference(metric, found.mean)} ({' to '.join(bounds) if found.seeds > 1 else 'one seed'})"


def mean_count(values: Sequence[float]) -> str:
    """The mean of counts, such as epochs: whole if all are the same.

    >>> mean_count([10, 10]), mean_count([9, 10, 10]), mean_count([])
    ('10', '9.7', '–')
    """
    if not values:
        return "–"
    return f"{values[0]:.0f}" if len(set(values)) == 1 else f"{sum(values) / len(values):.1f}"


def seconds(value: float | None) -> str:
    """A duration: one decimal below 100 s."""
    return "–" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def distinct(values: Iterable[str]) -> list[str]:
    """The values in the order of their first appearance."""
    return list(dict.fromkeys(values))


def cell_label(cell: Cell, keys: Sequence[str]) -> str:
    """A cell by its values; the final stage's is marked as such."""
    values = [cell.where.get(key, "") for key in keys]
    return ", ".join((["final"] if cell.stage == "final" else []) + [value for value in values if value])


def key_label(keys: Sequence[str]) -> str:
    """The names that belong to the values of `cell_label`."""
    return ", ".join(key.replace("_", " ") for key in keys)


def score(cell: Cell, metric: str, digits: int | None = None) -> str:
    """A cell's metric over its seeds, or what became of them."""
    mean = cell.mean(metric)
    if mean is None:
        return "failed" if cell.failed == cell.n else "diverged" if cell.diverged else "–"
    return number(metric, mean, cell.std(metric), digits)


def mark(cell: Cell) -> str:
    """What stands behind the number of a cell of whose seeds some diverged or failed."""
    return DIVERGED * bool(cell.diverged) + FAILED * bool(cell.failed)


def two_way(cells: Sequence[Cell], keys: Sequence[str]) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
    """Cells by their values of two keys: those of the first, those of the second, and the cells by both."""
    down, across = keys
    found = {(cell.where.get(down, ""), cell.where.get(across, "")): cell for cell in cells}
    return distinct(row for row, _ in found), distinct(column for _, column in found), found


def verdict_on(cell: Cell, metric: str) -> Verdict | None:
    """What was published of a cell's metric, beside ours."""
    return next((verdict for verdict in cell.verdicts if verdict.metric == metric), None)


def shown_metric(result: SweepResult) -> str:
    """The metric that stands for a cell where there is room for one: the objective, if any trial has it."""
    metrics = result.metrics
    return next((m for m in (result.objective, "test_top1", "test_loss", *metrics) if m in metrics), result.objective)


def best_cells(result: SweepResult, metric: str) -> list[Cell]:
    """The best cell of each stage that has several, as the winner is chosen: see `best_cell`."""
    best = []
    for stage in distinct(cell.stage for cell in result.cells):
        cells = [cell for cell in result.cells if cell.stage == stage]
        scored = [cell for cell in cells if cell.mean(metric) is not None]
        if len(cells) > 1 and (chosen := best_cell(scored, metric)):
            best.append(chosen)
    return best
