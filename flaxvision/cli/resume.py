"""`flaxvision resume RUN`: goes on with a run by what lies in it."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from flaxvision.cli.filling import add_filling_options, fill
from flaxvision.cli.parser import Call, Parser, positive

DESCRIPTION = """\
Go on with a run: its own spec.toml says what is trained, with all changes that were typed for it. Trials that ended
are kept, those that a kill cut short go on from their checkpoints, those that failed are tried again, and the report is
written anew. Where the code of a network of your own is gone, or has changed, the copy in the run is taken."""
EXAMPLES = """\
{program} runs/demo-20260101-120000
{program} runs/demo-20260101-120000 --seeds 5"""


def add_options(parser: Parser) -> None:
    """What may be typed."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("--seeds", metavar="N", type=positive(int), help="trials of every cell, if more than so far")
    add_filling_options(parser)


def run(options: argparse.Namespace, call: Call) -> int:
    """Train what is left."""
    call.last_words.of = "{} before anything was trained".format
    from flaxvision.sweep.progress import watcher

    watch = watcher(options.quiet)
    with watch.starting():
        call.prepare()
        from flaxvision.sweep._resume import resume

    start = functools.partial(resume, options.run, seeds=options.seeds)
    return fill(start, options, call, watch, options.run)
