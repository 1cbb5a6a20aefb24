"""What people read of a result, before it becomes Markdown, LaTeX, HTML or a terminal's: tables, data, cautions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flaxvision.report import formats
from flaxvision.sweep.results import Cell, Outcome, SweepResult, Verdict
from flaxvision.training.metrics import METRICS, SHOWN_METRICS, Metric, metric_of

FIRST = ("test_top1", "test_balanced", "test_top3", "test_loss")  # metrics that stand before the others
# The columns that a table which is too wide can do without, first what it can best do without.
DISPENSABLE = (
    "seconds", "train_loss", "best_epoch", "val_top1", "val_loss", "val_balanced", "test_top3",
    "parameters", "test_loss", "n", "verdict",
)  # fmt: skip
DIFFERENT = 0.005  # a metric that is nearer to the one beside which it stands is not worth a column


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one place of a table."""

    text: str
    best: bool = False
    verdict: str = ""  # "within", "outside" or "missing", where the text is a verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of a table as text."""

    key: str  # a metric's name, or one of DISPENSABLE; no table shows it
    heading: str
    entries: tuple[Entry, ...]
    needed: bool = False  # whether it stays in a table that is too wide

    @property
    def texts(self) -> list[str]:
        """Its heading and entries."""
        return [self.heading, *(entry.text for entry in self.entries)]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table as text."""

    caption: str
    columns: tuple[Column, ...]
    labels: int  # so many leading columns name the row
    across: str = ""  # the key whose values are the other columns' headings
    notes: tuple[str, ...] = ()

    @property
    def header(self) -> tuple[str, ...]:
        """The headings."""
        return tuple(column.heading for column in self.columns)

    @property
    def rows(self) -> tuple[tuple[Entry, ...], ...]:
        """The entries row by row."""
        return tuple(zip(*(column.entries for column in self.columns), strict=True))


def display_tables(result: SweepResult) -> tuple[Table, ...]:
    """The table with a row a cell; before it, for two varied keys, the two-way table of the objective."""
    rows = _row_table(result)
    return (_two_way_table(result), rows) if len(result.keys) == 2 else (rows,)


def narrow(table: Table, limit: float, width: Callable[[Table], float]) -> tuple[Table, list[str]]:
    """The table without the columns that make it wider than `limit`, and their names.

    The keys, the objective and what was published stay.
    """
    left_out: list[str] = []
    for key in () if table.across else DISPENSABLE:
        if width(table) <= limit:
            break
        dropped = [column for column in table.columns if column.key == key and not column.needed]
        left_out += formats.distinct(column.heading for column in dropped)
        table = dataclasses.replace(table, columns=tuple(c for c in table.columns if c not in dropped))
    return table, left_out


def _two_way_table(result: SweepResult) -> Table:
    """First key down, second key across."""
    metric = formats.shown_metric(result)
    down, across = result.keys
    rows, columns, cells = formats.two_way([cell for cell in result.cells if cell.stage != "final"], result.keys)
    best = formats.best_cells(result, metric)

    def entry(cell: Cell | None) -> Entry:
        return Entry(f"{formats.score(cell, metric)}{formats.mark(cell)}", cell in best) if cell else Entry("–")

    values = [Column(metric, column, tuple(entry(cells.get((row, column))) for row in rows)) for column in columns]
    caption = f"{formats.metric_name(metric)}, {_spread(result)}".capitalize()
    notes = (*_best_notes(result, metric), *_marked_notes(result))
    return Table(caption, (_label(down, rows), *values), 1, across, notes)


def _row_table(result: SweepResult) -> Table:
    """One row a cell, published numbers beside ours."""
    metric, cells = formats.shown_metric(result), result.cells
    columns = [_label(key, (cell.where.get(key, "") for cell in cells)) for key in result.keys]
    if any(cell.stage == "final" for cell in cells):
        columns.append(_label("stage", (cell.stage for cell in cells)))
    labels = len(columns)
    columns.append(_column("n", (f"{cell.n}{formats.mark(cell)}" for cell in cells)))
    for shown in _metric_columns(result):
        best = formats.best_cells(result, shown) if shown == metric else []
        published = _published_columns(result, shown)
        entries = tuple(Entry(formats.score(cell, shown), cell in best) for cell in cells)
        columns.append(Column(shown, formats.metric_name(shown), entries, shown == metric or bool(published)))
        columns += published
    columns += [*_count_columns(result), _column("seconds", (formats.seconds(cell.mean("seconds")) for cell in cells))]
    notes = (*_best_notes(result, metric), *_marked_notes(result), *_other_notes(result))
    return Table(_spread(result).capitalize(), tuple(columns), labels, notes=notes)


def _label(key: str, values: Iterable[str]) -> Column:
    """A column that names the rows."""
    return Column(key, key, tuple(map(Entry, values)), needed=True)


def _column(key: str, texts: Iterable[str]) -> Column:
    return Column(key, key.replace("_", " "), tuple(map(Entry, texts)))


def _metric_columns(result: SweepResult) -> list[str]:
    """The objective first, then the usual metrics, and any that was published."""
    objective = formats.shown_metric(result)
    told = {m.key for m in METRICS.values() if len(result.classes) >= m.column_classes and tells_more(result, m)}
    wanted = {objective, *(verdict.metric for cell in result.cells for verdict in cell.verdicts)}
    wanted |= {name for name in SHOWN_METRICS if metric_of(name).key in told}
    order = formats.distinct([objective, *FIRST, *result.metrics])
    return [metric for metric in order if metric in result.metrics and metric in wanted]


def tells_more(result: SweepResult, metric: Metric) -> bool:
    """Whether a metric tells more than the one beside which it stands: on the test set they differ in a cell."""
    if not metric.beside:
        return True
    pairs = ([cell.mean(f"test_{key}") for key in (metric.key, metric.beside)] for cell in result.cells)
    return any(a is not None and b is not None and abs(a - b) > DIFFERENT for a, b in pairs)


def _published_columns(result: SweepResult, metric: str) -> list[Column]:
    """The published number and the verdict with the difference; nothing where nothing was published."""
    found = [formats.verdict_on(cell, metric) for cell in result.cells]
    if not any(found):
        return []
    published = _column("published", (formats.given(metric, v.published) if v else "–" for v in found))
    verdicts = tuple(Entry(_verdict_text(v), verdict=v.verdict) if v else Entry("–") for v in found)
    return [published, Column("verdict", "verdict", verdicts)]


def _verdict_text(verdict: Verdict) -> str:
    if verdict.ours is None:
        return verdict.verdict
    return f"{verdict.verdict} ({formats.difference(verdict.metric, verdict.ours - verdict.published)})"


def _count_columns(result: SweepResult) -> list[Column]:
    """Epochs and parameters, where they tell cells apart."""
    cells = result.cells
    columns = []
    if len({epoch for cell in cells for epoch in cell.values("best_epoch")}) > 1:
        columns.append(_column("best_epoch", (formats.mean_count(cell.values("best_epoch")) for cell in cells)))
    if result.convergence_threshold is not None:
        columns.append(_column("converged_at", (formats.mean_count(cell.values("converged_epoch")) for cell in cells)))
    if len({cell.parameters for cell in cells if cell.parameters}) > 1:
        columns.append(_column("parameters", (f"{c.parameters:,}" if c.parameters else "–" for c in cells)))
    return columns


def _spread(result: SweepResult) -> str:
    """What the numbers are, by the numbers of seeds."""
    counts = sorted({cell.n for cell in result.cells})
    if counts == [1]:
        return "one seed a cell"
    return f"mean ± sample standard deviation over n = {' or '.join(map(str, counts))} seeds"


def _best_notes(result: SweepResult, metric: str) -> list[str]:
    if not formats.best_cells(result, metric):
        return []
    extreme = "lowest" if metric_of(metric).lower_is_better else "highest"
    marked = any(cell.sound < cell.n for cell in result.cells)
    among = " among the cells with the fewest seeds that diverged or failed" if marked else ""
    return [f"Bold: the {extreme} mean {formats.metric_name(metric, unit=False)}{among}."]


def _marked_notes(result: SweepResult) -> list[str]:
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


def _other_notes(result: SweepResult) -> list[str]:
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
    notes += formats.distinct(note for name in _metric_columns(result) if (note := metric_of(name).note))
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
