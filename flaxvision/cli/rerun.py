"""`flaxvision rerun RUN TRIAL`: whether a trial gives the same numbers again."""

from __future__ import annotations

import argparse
import sys

from flaxvision._text import visible
from flaxvision.cli.parser import Call, Parser, add_data_options

DESCRIPTION = "Train one trial of a run again, by itself, and compare every number with the record."
EXAMPLES = "{program} runs/demo-20260101-120000 3f09"


def add_options(parser: Parser) -> None:
    """What may be typed."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    trial = "a trial's id, or the beginning of it (flaxvision runs show RUN --trials lists them)"
    parser.add_argument("trial", metavar="TRIAL", help=trial)
    add_data_options(parser)


def run(options: argparse.Namespace, call: Call) -> int:
    """Train it; 1 if a number differs."""
    call.prepare()
    from flaxvision.sweep._rerun import rerun

    again = rerun(options.run, options.trial, raw_dir=options.raw_dir, data_dir=options.data_dir)
    for note in again.notes:
        print(visible(f"note: {note}"), file=sys.stderr)
    for name, (old, new) in again.metrics.items():
        print(f"{name:<14}{old!s:>24}{new!s:>24}  {'equal' if old == new else 'differs'}")
    for line in again.changed:
        print(f"changed since: {line}")
    print(f"trial {again.trial}: " + ("equal bit for bit in every epoch" if again.equal else "differs from the record"))
    return 0 if again.equal else 1
