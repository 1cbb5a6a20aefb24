"""The tables that people read of a result, before they become Markdown, LaTeX, HTML or a terminal's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

from flaxvision.errors import unknown
from flaxvision.report import formats
from flaxvision.report.remarks import best_notes, marked_notes, other_notes, seeds_notes, tied_notes
from flaxvision.sweep._differences import Differences, differences
from flaxvision.sweep.results import Cell, SweepResult, Verdict, ranked
from flaxvision.training.metrics import METRICS, SHOWN_METRICS, Metric, metric_of

FIRST = ("test_top1", "test_balanced", "test_top3", "test_loss")  # metrics that stand before the others
# The columns that a table which is too wide can do without, first what it can best do without.
DISPENSABLE = (
    "seconds", "train_loss", "best_epoch", "val_top1", "val_loss", "val_balanced", "test_top3",
    "parameters", "test_loss", "n", "difference", "verdict",
)  # fmt: skip
LONG, BEST, WORST = 200, 20, 10  # a table of more rows than the first shows so many: nobody reads them all
DIFFERENT = 0.005  # a metric that is nearer to the one beside which it stands is not worth a column


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one place of a table."""

    text: str
    best: bool = False
    verdict: str = ""  # "within", "outside" or "missing", where the text is a verdict
    tied: bool = False  # whether it cannot be distinguished from the best


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of a table as text."""

    key: str  # a metric's name, or one of DISPENSABLE; no table shows it
    heading: str
    entries: tuple[Entry, ...]
    needed: bool = False  # whether it stays in a table that is too wide

    @property
    def texts(self) -> list[str]:
        """Its heading and entries, with room for marks."""
        mark = f" {formats.TIED}" * self.marked
        return [self.heading, *(f"{entry.text}{mark}" for entry in self.entries)]

    @property
    def marked(self) -> bool:
        """Whether an entry has a mark, for which the others then leave room."""
        return any(entry.tied for entry in self.entries)


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
        headings = [column.heading for column in self.columns]
        if self.across:
            headings[0] += f" / {self.across}"
        return tuple(headings)

    @property
    def rows(self) -> tuple[tuple[Entry, ...], ...]:
        """The entries row by row."""
        return tuple(zip(*(column.entries for column in self.columns), strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What tables show, where that is not left to the result."""

    columns: tuple[str, ...] = ()  # keys of columns in order, beside those that name the rows; () chooses
    digits: Mapping[str, int] = dataclasses.field(default_factory=dict)  # metric -> decimals


def excerpt(result: SweepResult) -> SweepResult:
    """The result with its best and worst cells alone, where there are too many to be read; the best come first.

    What was published stays, and the final stage.
    """
    if len(result.cells) <= LONG:
        return result
    order = ranked(result.cells, formats.shown_metric(result))
    ends = {*order[:BEST], *order[-WORST:]}
    shown = tuple(cell for cell in order if cell in ends or cell.verdicts or cell.stage == "final")
    return dataclasses.replace(result, cells=shown)


def display_tables(result: SweepResult, choice: Choice | None = None) -> tuple[Table, ...]:
    """The table with a row a cell; before it, for two varied keys, the two-way table of the objective.

    Of more than `LONG` cells it has those of `excerpt`, and says so.

    Raises:
        UserError: If a chosen column or metric is none of the result's.
    """
    choice = choice or Choice()
    for metric in choice.digits:
        if metric not in result.metrics:
            raise unknown("metric", metric, result.metrics)
    found = differences(result.cells, formats.shown_metric(result))
    shown = excerpt(result)
    rows = _row_table(shown, found, choice)
    if shown is not result:
        name = formats.metric_name(found.metric, unit=False)
        said = f"The best {BEST} and the worst {WORST} of {len(result.cells):,} cells by {name}: results.csv has all."
        return (dataclasses.replace(rows, notes=(said, *rows.notes)),)
    return (_two_way_table(result, found, choice), rows) if len(result.keys) == 2 and not choice.columns else (rows,)


def fitting(
    tables: Iterable[Table], limit: float, width: Callable[[Table], float]
) -> Iterator[tuple[Table, list[str]]]:
    """The tables as they have room, and what has none.

    A two-way table that is too wide has its keys swapped, or stays out, as one with a row a cell follows it.
    """
    left_out: list[str] = []
    for table in tables:
        if table.across and width(table) > limit:
            name = f"the table of {table.columns[0].key} by {table.across}"
            table = min(table, _swapped(table), key=width)
            if width(table) > limit:
                left_out.append(name)
                continue
        table, columns = narrow(table, limit, width)
        yield table, [*left_out, *columns]
        left_out = []


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


def _two_way_table(result: SweepResult, found: Differences, choice: Choice) -> Table:
    """First key down, second key across."""
    metric = found.metric
    down, across = result.keys
    rows, columns, cells = formats.two_way([cell for cell in result.cells if cell.stage != "final"], result.keys)
    best, digits = formats.best_cells(result, metric), choice.digits.get(metric)

    def entry(cell: Cell | None) -> Entry:
        if cell is None:
            return Entry("–")
        return Entry(f"{formats.score(cell, metric, digits)}{formats.mark(cell)}", cell in best, tied=found.tied(cell))

    values = [Column(metric, column, tuple(entry(cells.get((row, column))) for row in rows)) for column in columns]
    caption = f"{formats.metric_name(metric)}, {_spread(result)}".capitalize()
    notes = (*best_notes(result, metric), *tied_notes(found), *marked_notes(result))
    return Table(caption, (_label(down, rows), *values), 1, across, notes)


def _swapped(table: Table) -> Table:
    """A two-way table with its rows as columns."""
    labels, *columns = table.columns
    rows = zip(*(column.entries for column in columns), strict=True)
    turned = [Column(columns[0].key, label.text, row) for label, row in zip(labels.entries, rows, strict=True)]
    head = _label(table.across, (column.heading for column in columns))
    return dataclasses.replace(table, columns=(head, *turned), across=labels.key)


def _row_table(result: SweepResult, found: Differences, choice: Choice) -> Table:
    """One row a cell, published numbers beside ours."""
    cells, final = result.cells, any(cell.stage == "final" for cell in result.cells)
    labels = [_label(key, (cell.where.get(key, "") for cell in cells)) for key in result.keys]
    labels += [_label("stage", (cell.stage for cell in cells))] if final else []
    columns = [_column("n", (f"{cell.n}{formats.mark(cell)}" for cell in cells))]
    metrics = _metric_columns(result, choice)
    for metric in metrics:
        columns += _metric_with_published(result, metric, found, choice)
    columns += _count_columns(result, choice)
    columns.append(_column("seconds", (formats.seconds(cell.mean("seconds")) for cell in cells)))
    notes = [*best_notes(result, found.metric), *tied_notes(found), *seeds_notes(result, found)]
    notes += [*marked_notes(result), *other_notes(result, metrics)]
    if choice.columns:
        known = {column.key: column for column in reversed(columns)}
        for key in choice.columns:
            if key not in known:
                raise unknown("column", key, known)
        columns = [dataclasses.replace(known[key], needed=True) for key in choice.columns]
    return Table(_spread(result).capitalize(), (*labels, *columns), len(labels), notes=tuple(notes))


def _metric_with_published(result: SweepResult, metric: str, found: Differences, choice: Choice) -> list[Column]:
    """The column of a metric; beside that of the objective the differences; what was published beside either."""
    main, digits = metric == found.metric, choice.digits.get(metric)
    best = formats.best_cells(result, metric) if main else []
    entries = tuple(
        Entry(formats.score(cell, metric, digits), cell in best, tied=main and found.tied(cell))
        for cell in result.cells
    )
    published = _published_columns(result, metric)
    columns = [Column(metric, formats.metric_name(metric), entries, main or bool(published)), *published]
    if main and found.decided:
        columns.append(_column("difference", (_beside_best(cell, found) for cell in result.cells), "to the best"))
    return columns


def _beside_best(cell: Cell, found: Differences) -> str:
    if cell is found.best:
        return "best"
    return formats.beside(found.metric, found.others[cell]) if cell in found.others else "–"


def _label(key: str, values: Iterable[str]) -> Column:
    """A column that names the rows."""
    return Column(key, key, tuple(map(Entry, values)), needed=True)


def _column(key: str, texts: Iterable[str], heading: str = "") -> Column:
    return Column(key, heading or key.replace("_", " "), tuple(map(Entry, texts)))


def _metric_columns(result: SweepResult, choice: Choice) -> list[str]:
    """The objective first, then the usual metrics, and any that was published; or all that can be chosen."""
    if choice.columns:
        return list(result.metrics)
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


def _count_columns(result: SweepResult, choice: Choice) -> list[Column]:
    """Epochs and parameters, where they tell cells apart, or may be chosen."""
    cells, every = result.cells, bool(choice.columns)
    columns = []
    if every or len({epoch for cell in cells for epoch in cell.values("best_epoch")}) > 1:
        columns.append(_column("best_epoch", (formats.mean_count(cell.values("best_epoch")) for cell in cells)))
    if result.convergence_threshold is not None:
        columns.append(_column("converged_at", (formats.mean_count(cell.values("converged_epoch")) for cell in cells)))
    if every or len({cell.parameters for cell in cells if cell.parameters}) > 1:
        columns.append(_column("parameters", (f"{c.parameters:,}" if c.parameters else "–" for c in cells)))
    return columns


def _spread(result: SweepResult) -> str:
    """What the numbers are, by the numbers of seeds."""
    counts = sorted({cell.n for cell in result.cells})
    if counts == [1]:
        return "one seed a cell"
    return f"mean ± sample standard deviation over n = {' or '.join(map(str, counts))} seeds"
