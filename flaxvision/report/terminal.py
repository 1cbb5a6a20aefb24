"""The tables in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flaxvision.report.display import Table, display_tables, narrow
from flaxvision.report.remarks import cautions
from flaxvision.sweep.results import SweepResult

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

_VERDICT_STYLES = {"within": "green", "outside": "bold red", "missing": "yellow", "": ""}
_GAP = 2  # spaces between two columns: rich's divider and one of padding


@dataclasses.dataclass(frozen=True, slots=True)
class TerminalTables:
    """What rich prints: the tables, without the columns for which the terminal has no room."""

    title: str
    tables: tuple[Table, ...]
    cautions: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for table in self.tables:
            shown, left_out = narrow(table, options.max_width, _width)
            room = [f"No room for {', '.join(left_out)}: see results.md."] if left_out else []
            yield _rich_table(f"{self.title}. {shown.caption}", shown, [*shown.notes, *room])
        yield from map(Text, self.cautions)


def terminal_table(result: SweepResult) -> TerminalTables:
    """The tables for `rich.print`."""
    return TerminalTables(result.title, display_tables(result), tuple(cautions(result)))


def _width(table: Table) -> int:
    from rich.cells import cell_len  # a Chinese sign takes two places

    return sum(max(map(cell_len, column.texts)) + _GAP for column in table.columns)


def _rich_table(title: str, table: Table, notes: Sequence[str]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(title, style="bold"),
        caption=Text("\n".join(notes), style="dim"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, _GAP - 1, 0, 0),
        show_edge=False,
    )
    for i, name in enumerate(table.header):
        heading = f"{name} / {table.across}" if table.across and i == 0 else name
        shown.add_column(Text(heading), justify="left" if i < table.labels else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(e.text, style="bold" if e.best else _VERDICT_STYLES[e.verdict]) for e in row))
    return shown
