"""Tables and paragraphs on a terminal, or in a file where there is none."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence

from flaxvision._text import visible

SHOWN = 5  # damaged files that are named


def columns() -> int:
    """How many characters a line has: the terminal's, or 100."""
    return shutil.get_terminal_size((100, 24)).columns


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print a table; the columns `right` are numbers. What a terminal has no room for is folded."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:  # a line for each row, for programs
        console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print(table)


def print_notes(notes: Iterable[str]) -> None:
    """Print what is to be known beside a command's output."""
    for note in notes:
        print(visible(f"note: {note}"), file=sys.stderr)


def print_unread(damaged: Mapping[str, str]) -> None:
    """Name the files that gave no image, a few of them, and why."""
    for path, why in list(damaged.items())[:SHOWN]:
        print(visible(f"not read: {path} ({why})"), file=sys.stderr)
    if len(damaged) > SHOWN:
        print(f"not read: {len(damaged) - SHOWN:,} files more", file=sys.stderr)


def paragraph(text: str, indent: int = 0, first: str | None = None) -> str:
    """Text as a paragraph as wide as the terminal, its lines indented, the first one by `first`."""
    begin = " " * indent if first is None else first
    width = max(columns(), indent + 20)
    return textwrap.fill(text, width, initial_indent=begin, subsequent_indent=" " * indent, break_long_words=False)
