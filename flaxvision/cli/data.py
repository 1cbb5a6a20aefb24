"""`flaxvision data`: shows what is in a data set."""

from __future__ import annotations

import argparse
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from flaxvision.cli.parser import Call, Parser, add_data_options, positive
from flaxvision.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from flaxvision.data.look import Look

DESCRIPTION = """\
Look at a data set before training on it: examples by split and class, shape, range, mean, checksum, and what was left
out, converted or looks doubtful; and a page with samples of every class. Without a name it lists the data sets."""
EXAMPLES = """\
{program} mnist --raw-dir DATA
{program} images:photos --size 64 --fit pad --validation 0.1
{program} npz:FOLDER --out samples.html"""
CLASSES = 40  # at most in the terminal; the page has all


def add_options(parser: Parser) -> None:
    """What may be typed."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a data set, such as mnist, glyphs, images:FOLDER or npz:FOLDER")
    add_data_options(parser)
    add("--limit", metavar="N", type=positive(int), help="use N examples of every split")
    add("--validation", metavar="F", type=positive(float), help="hold out this fraction of the training examples")
    add("--size", metavar="N|WxH", type=_size, help="pixels of an image folder's or of drawn examples")
    add("--channels", metavar="N", type=positive(int), help="channels of an image folder's or of drawn examples")
    add("--fit", metavar="HOW", help="how an image folder's images come to --size: crop, pad or stretch")
    add("--skip-damaged", action="store_true", help="leave out an image folder's images that cannot be read")
    add("--examples", metavar="N", type=positive(int), help="training examples to draw, for glyphs and glyphs47")
    add("--out", metavar="PAGE.html", type=Path, help="the page (default: data-NAME.html)")


def run(options: argparse.Namespace, call: Call) -> int:
    """Show a data set; where an error tells what to type in a sweep, tell the option of this command."""
    try:
        return _show(options)
    except UserError as error:
        words = str(error).replace("--set skip_damaged=true", "--skip-damaged")  # those of `data/image_folder.py`
        raise UserError(re.sub(r"--set (size|fit|channels)=", r"--\1 ", words)) from error


def _show(options: argparse.Namespace) -> int:
    from flaxvision import data

    if options.name is None:
        print(*data.list_datasets(), sep="\n")
        return 0

    from rich.console import Console

    from flaxvision._files import write_atomically
    from flaxvision.data.look import look
    from flaxvision.data.page import data_page
    from flaxvision.data.published import PUBLISHED

    if options.raw_dir is not None and options.name not in PUBLISHED:
        raise UserError(f"--raw-dir is for published sets, and has no effect on {options.name}: leave it out")
    dataset = data.load(
        options.name,
        raw_dir=options.raw_dir,
        data_dir=options.data_dir,
        limit=options.limit,
        validation=options.validation,
        size=options.size,
        channels=options.channels,
        fit=options.fit,
        skip_damaged=options.skip_damaged,
        examples=options.examples,
    )
    seen = look(dataset)
    page = write_atomically(options.out or default_page(dataset.name), data_page(dataset, seen))
    console = Console()
    for title, table in ((seen.name, _facts(seen)), ("Splits", _splits(seen)), ("Classes", _classes(seen))):
        console.print(_text(title, "bold"))
        console.print(table)
        console.print()
    if len(seen.classes) > CLASSES:
        print(f"and {len(seen.classes) - CLASSES:,} classes more: see the page")
    for note in (*dataset.loading_notes, *seen.notes):
        print(f"note: {note}")
    print(f"samples of every class: {page}")
    return 0


def default_page(name: str) -> Path:
    """data-NAME.html in the current folder; of a folder of one's own, its last name.

    >>> str(default_page("images:/home/me/My pets/"))
    'data-My-pets.html'
    """
    last = PurePath(name.partition(":")[2] or name).name or "folder"
    plain = re.sub(r"\W+", "-", last).strip("-")
    return Path(f"data-{plain}.html")


def _facts(seen: Look) -> Table:
    table = _table("", "", labels=2)
    for fact in seen.facts:
        table.add_row(*map(_text, fact))
    table.show_header = False
    return table


def _splits(seen: Look) -> Table:
    table = _table("split", "examples", "range", "mean", "std")
    for split in seen.splits:
        table.add_row(*map(_text, (split.name, f"{split.examples:,}", split.range, split.mean, split.std)))
    return table


def _classes(seen: Look) -> Table:
    table = _table("", "class", *(split.name for split in seen.splits), labels=2)
    for number, name in enumerate(seen.classes[:CLASSES]):
        counts = [split.counts[number] for split in seen.splits]
        table.add_row(str(number), _text(name), *(f"{n:,}" if n else _text("0", "bold red") for n in counts))
    return table


def _table(*columns: str, labels: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for i, name in enumerate(columns):
        table.add_column(_text(name), justify="left" if i < labels else "right", overflow="fold")
    return table


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _size(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
