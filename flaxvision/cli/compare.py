"""`flaxvision compare RUN RUN…`: the tables of several runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from flaxvision.cli.parser import Call, Parser
from flaxvision.cli.text import print_table

DESCRIPTION = "Lay the tables of several runs side by side, with the settings, code and versions that differ."
EXAMPLES = """\
{program} runs/first runs/second
{program} runs/first runs/second --metric test_loss --latex > table.tex"""


def add_options(parser: Parser) -> None:
    """What may be typed."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory; two or more")
    metric = "by which cells are judged, such as test_top1 (default: the objective of the first run)"
    parser.add_argument("--metric", metavar="M", help=metric)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--latex", action="store_true", help="print the table as LaTeX")


def run(options: argparse.Namespace, call: Call) -> int:
    """Print the comparison."""
    from flaxvision.runs import compare

    found = compare(options.runs, metric=options.metric)
    if options.markdown or options.latex:
        print(found.markdown() if options.markdown else found.latex(), end="")
        return 0
    from rich.console import Console

    from flaxvision.report import terminal_table

    Console().print(terminal_table(found.result))
    section = found.section
    print(*section.notes, sep="\n", end="\n" * bool(section.notes))
    if section.rows:
        print(f"\n{section.title}")
        print_table(section.header, section.rows)
    return 0
