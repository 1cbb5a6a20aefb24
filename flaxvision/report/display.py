"""The tables that people read, before they become Markdown, LaTeX, HTML or a terminal's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from flaxvision.report import formats
from flaxvision.report.remarks import equal_cells
from flaxvision.sweep.results import Cell, SweepResult, Verdict

# What a table that is too wide can do without, first what it can best do without.
DISPENSABLE = (
    "seconds", "train loss", "best epoch", "val top-1 (%)", "val loss", "val balanced (%)", "test top-3 (%)",
    "parameters", "test loss", "n", "verdict",
)  # fmt: skip
MAIN_METRICS = ("test_top1", "test_loss", "val_top1", "val_loss", "train_loss")
BALANCED = 0.005  # a mean accuracy over classes that is this near top-1 is not worth a column


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one place of a table."""

    text: str
    best: bool = False
    verdict: str = ""  # "within", "outside" or "missing", where the text is a verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table as text."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    labels: int  # so many leading columns name the row
    across: str = ""  # the key whose values are the other columns' headings
    notes: tuple[str, ...] = ()


def display_tables(result: SweepResult) -> tuple[Table, ...]:
    """The table with a row a cell; before it, for two varied keys, the two-way table of the objective."""
    rows = _row_table(result)
    return (_two_way_table(result), rows) if len(result.keys) == 2 else (rows,)


def narrow(table: Table, limit: float, width: Callable[[Table], float]) -> tuple[Table, list[str]]:
    """The table without the columns that make it wider than `limit`, and their names.

    The keys, the objective and what was published stay.
    """
    left_out = []
    for name in () if table.across else DISPENSABLE:
        if width(table) <= limit:
            break
        heads = [*table.header, ""]
        needed = {i for i, head in enumerate(heads[:-1]) if i < table.labels or heads[i + 1] == "published"}
        objective = next(i for i, head in enumerate(heads) if i >= table.labels and head != "n")
        keep = [i for i, head in enumerate(table.header) if head != name or i in needed or i == objective]
        if len(keep) < len(table.header):
            left_out.append(name)
        rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
        table = dataclasses.replace(table, header=tuple(table.header[i] for i in keep), rows=rows)
    return table, left_out


def _two_way_table(result: SweepResult) -> Table:
    """First key down, second key across."""
    metric = formats.shown_metric(result)
    down, across = result.keys
    cells = {
        (cell.where.get(down, ""), cell.where.get(across, "")): cell for cell in result.cells if cell.stage != "final"
    }
    columns = formats.distinct(column for _, column in cells)
    best = formats.best_cells(result, metric)
    rows = []
    for row in formats.distinct(row for row, _ in cells):
        entries = [_two_way_entry(cells.get((row, column)), metric, best) for column in columns]
        rows.append((Entry(row), *entries))
    caption = f"{formats.metric_name(metric)}, {_spread(result)}".capitalize()
    notes = (*_best_notes(result, metric), *_marked_notes(result))
    return Table(caption, (down, *columns), tuple(rows), 1, across, notes)


def _two_way_entry(cell: Cell | None, metric: str, best: list[Cell]) -> Entry:
    if cell is None:
        return Entry("–")
    entry = _metric_entry(cell, metric, best)
    return dataclasses.replace(entry, text=entry.text + formats.mark(cell))


def _row_table(result: SweepResult) -> Table:
    """One row a cell, published numbers beside ours."""
    metric = formats.shown_metric(result)
    columns = [[Entry(key), *(Entry(cell.where.get(key, "")) for cell in result.cells)] for key in result.keys]
    if any(cell.stage == "final" for cell in result.cells):
        columns.append([Entry("stage"), *(Entry(cell.stage) for cell in result.cells)])
    labels = len(columns)
    columns.append([Entry("n"), *(Entry(f"{c.n}{formats.mark(c)}") for c in result.cells)])
    for shown in _metric_columns(result):
        best = formats.best_cells(result, shown) if shown == metric else []
        columns.append([Entry(formats.metric_name(shown)), *(_metric_entry(c, shown, best) for c in result.cells)])
        columns.extend(_published_columns(result, shown))
    columns.extend(_count_columns(result))
    columns.append([Entry("seconds"), *(Entry(_seconds(cell)) for cell in result.cells)])
    header, *rows = zip(*columns, strict=True)
    notes = (*_best_notes(result, metric), *_marked_notes(result), *_equal_notes(result), *_other_notes(result))
    return Table(_spread(result).capitalize(), tuple(e.text for e in header), tuple(rows), labels, notes=notes)


def _metric_columns(result: SweepResult) -> list[str]:
    """The objective first, then the usual metrics, and any that was published."""
    wanted = {formats.shown_metric(result), *MAIN_METRICS, *(verdict.metric for verdict in _verdicts(result))}
    if len(result.classes) > 10:  # among few classes, being one of three guesses says little
        wanted.add("test_top3")
    if imbalanced(result):
        wanted |= {"test_balanced", "val_balanced"}
    order = [formats.shown_metric(result), "test_top1", "test_balanced", "test_top3", "test_loss", *result.metrics]
    return [metric for metric in formats.distinct(order) if metric in result.metrics and metric in wanted]


def imbalanced(result: SweepResult) -> bool:
    """Whether the mean accuracy over classes tells more than top-1: they differ in a cell."""
    pairs = [(cell.mean("test_top1"), cell.mean("test_balanced")) for cell in result.cells]
    return any(a is not None and b is not None and abs(a - b) > BALANCED for a, b in pairs)


def _metric_entry(cell: Cell, metric: str, best: list[Cell]) -> Entry:
    mean = cell.mean(metric)
    if mean is None:
        return Entry(formats.without_number(cell))
    return Entry(formats.number(metric, mean, cell.std(metric)), best=cell in best)


def _published_columns(result: SweepResult, metric: str) -> list[list[Entry]]:
    """The published number and the verdict with the difference; nothing where nothing was published."""
    found = [next((v for v in cell.verdicts if v.metric == metric), None) for cell in result.cells]
    if not any(found):
        return []
    return [
        [Entry("published"), *(Entry(formats.given(metric, v.published) if v else "–") for v in found)],
        [Entry("verdict"), *(Entry(verdict_text(v), verdict=v.verdict) if v else Entry("–") for v in found)],
    ]


def verdict_text(verdict: Verdict) -> str:
    """A verdict with the difference that it rests on."""
    if verdict.ours is None:
        return verdict.verdict
    return f"{verdict.verdict} ({formats.difference(verdict.metric, verdict.ours - verdict.published)})"


def _count_columns(result: SweepResult) -> list[list[Entry]]:
    """Epochs and parameters, where they tell cells apart."""
    columns = []
    if len({epoch for cell in result.cells for epoch in cell.values("best_epoch")}) > 1:
        columns.append([Entry("best epoch"), *(_count(cell, "best_epoch") for cell in result.cells)])
    if result.convergence_threshold is not None:
        columns.append([Entry("converged at"), *(_count(cell, "converged_epoch") for cell in result.cells)])
    if len(_parameters(result)) > 1:
        columns.append(
            [Entry("parameters"), *(Entry(f"{c.parameters:,}" if c.parameters else "–") for c in result.cells)]
        )
    return columns


def _count(cell: Cell, name: str) -> Entry:
    return Entry(formats.mean_count(cell.values(name)))


def _seconds(cell: Cell) -> str:
    mean = cell.mean("seconds")
    return "–" if mean is None else formats.seconds(mean)


def _parameters(result: SweepResult) -> set[int]:
    return {cell.parameters for cell in result.cells if cell.parameters}


def _verdicts(result: SweepResult) -> list[Verdict]:
    return [verdict for cell in result.cells for verdict in cell.verdicts]


def _spread(result: SweepResult) -> str:
    """What the numbers are, by the numbers of seeds."""
    counts = sorted({cell.n for cell in result.cells})
    if counts == [1]:
        return "one seed a cell"
    return f"mean ± sample standard deviation over n = {' or '.join(str(n) for n in counts)} seeds"


def _best_notes(result: SweepResult, metric: str) -> list[str]:
    if not formats.best_cells(result, metric):
        return []
    extreme = "highest" if formats.is_accuracy(metric) else "lowest"
    marked = any(cell.sound < cell.n for cell in result.cells)
    among = " among the cells with the fewest seeds that diverged or failed" if marked else ""
    return [f"Bold: the {extreme} mean {formats.metric_name(metric, unit=False)}{among}."]


def _marked_notes(result: SweepResult) -> list[str]:
    notes = []
    for mark, count, what in (
        (formats.DIVERGED, lambda cell: cell.diverged, "Seeds whose training loss was not finite"),
        (formats.FAILED, lambda cell: cell.failed, "Seeds that failed"),
    ):
        found = [
            f"{formats.cell_label(cell, result.keys) or 'all'}: {count(cell)} of {cell.n}"
            for cell in result.cells
            if count(cell)
        ]
        if found:
            notes.append(f"{mark} {what} ({'; '.join(found)}); means are over finite values.")
    return notes


def _equal_notes(result: SweepResult) -> list[str]:
    """Rows that differ in a setting which made no difference."""
    groups = [" = ".join(formats.cell_label(cell, result.keys) for cell in group) for group in equal_cells(result)]
    if not groups:
        return []
    return [f"Equal in every number, so what differs had no effect: {'; '.join(groups)}."]


def _other_notes(result: SweepResult) -> list[str]:
    notes = []
    for metric in formats.distinct(verdict.metric for verdict in _verdicts(result)):
        verdicts = [verdict for verdict in _verdicts(result) if verdict.metric == metric]
        extremes = (f(v.tolerance for v in verdicts) for f in (min, max))
        tolerance = " to ±".join(formats.distinct(formats.given(metric, value) for value in extremes))
        sources = "; ".join(formats.distinct(v.source for v in verdicts))
        unit = " points" if formats.is_accuracy(metric) else ""
        notes.append(f"Published {formats.metric_name(metric, unit=False)}: {sources}; tolerance ±{tolerance}{unit}.")
    if any(metric.endswith("_balanced") for metric in _metric_columns(result)):
        notes.append("Balanced: the mean accuracy over classes, each of the same weight.")
    if result.convergence_threshold is not None:
        threshold = f"{100 * result.convergence_threshold:g}"
        notes.append(f"Converged at: the epoch after which test top-1 changes by less than {threshold} points.")
    if len(_parameters(result)) == 1:
        notes.append(f"{next(iter(_parameters(result))):,} parameters.")
    return notes
