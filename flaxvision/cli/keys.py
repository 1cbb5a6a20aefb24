"""`flaxvision keys`: every key of a sweep's TOML file, made of the documentation of the fields themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable

from flaxvision.cli.parser import Call, Parser
from flaxvision.cli.text import paragraph
from flaxvision.errors import unknown
from flaxvision.sweep.keys import Key, Table, names, tables

DESCRIPTION = (
    "Explain the keys of a sweep's TOML file: type, allowed values, default, meaning. Without a key, all of them."
)
EXAMPLES = """\
{program}
{program} momentum schedule
{program} --markdown > keys.md"""
PAGE = """\
# Keys of a sweep

What may stand in a sweep's TOML file, and, by the same names, after `--set`, in `settings=` and `grid=` of
`fv.sweep.run`, and as arguments of `fv.Recipe` and `fv.data.load`. `flaxvision keys` prints the same, and `flaxvision
keys KEY` one of them. This page is written by `flaxvision keys --markdown`.
"""
INDENT = 4
_HEADING, _CODE = re.compile(r"\[+[\w.]+\]+"), r"`\g<0>`"  # a table's name


def add_options(parser: Parser) -> None:
    """What may be typed."""
    parser.add_argument("keys", nargs="*", metavar="KEY", help="a key (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print all as Markdown, as in the documentation")


def run(options: argparse.Namespace, call: Call) -> int:
    """Print them."""
    found = tables()
    if options.markdown:
        print(as_markdown(found), end="")
        return 0
    if options.keys:
        everything = [name for table in found for name in names(table.keys)]
        for name in options.keys:
            if name not in everything:
                raise unknown("key", name, dict.fromkeys(everything))
        asked = set(options.keys)
        found = [Table(t.heading, t.meaning, tuple(k for k in t.keys if asked & {*names([k])})) for t in found]
        found = [table for table in found if table.keys]
    print("\n\n".join(map(_as_text, found)))
    return 0


def _as_text(table: Table) -> str:
    meaning = [paragraph(table.meaning, INDENT)] if table.meaning else []
    return "\n".join([table.heading, *meaning, *(line for key in table.keys for line in _lines(key))])


def _lines(key: Key) -> Iterable[str]:
    default = f" (default: {key.default})" if key.default else ""
    yield paragraph(f"{key.name}: {_type(key)}{default}", 2 * INDENT, first="  ")
    yield paragraph(key.meaning, 2 * INDENT)


def _type(key: Key) -> str:
    """Its type and what it may be, in one phrase."""
    if not key.allowed:
        return key.type
    return key.allowed if key.type in key.allowed else f"{key.type}: {key.allowed}"


def as_markdown(found: Iterable[Table]) -> str:
    """The page of the documentation."""
    from flaxvision.report.tables import markdown_table, markdown_text

    parts = [PAGE]
    for table in found:
        parts.append(f"## {_HEADING.sub(_CODE, table.heading)}\n")
        if table.meaning:
            parts.append(f"{markdown_text(table.meaning)}\n")
        rows = [
            [
                ", ".join(f"`{name}`" for name in names([key])),
                key.type,
                markdown_text(key.default),
                markdown_text(key.allowed),
                markdown_text(key.meaning),
            ]
            for key in table.keys
        ]
        if rows:
            parts.append(markdown_table(["key", "type", "default", "allowed", "meaning"], rows, labels=5) + "\n")
    return "\n".join(parts)
