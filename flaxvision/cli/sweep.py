"""`flaxvision sweep`: fills the table of a sweep."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from flaxvision.cli.filling import add_filling_options, fill
from flaxvision.cli.parser import Call, Parser, positive
from flaxvision.errors import UserError
from flaxvision.sweep.executors import check_executor

DESCRIPTION = """\
Fill an experiment table: train every cell over several seeds, and write results.csv, results.md, results.tex,
figures, report.html and the winner's weights to a run directory. Without a name it runs 'demo'."""
EXAMPLES = """\
{program}
{program} fashion-learning-rate --raw-dir DATA --seeds 5
{program} demo --set learning_rate=0.3,0.03 --set batch_size=32,64
{program} my-sweep.toml --dry-run"""


def add_options(parser: Parser) -> None:
    """What may be typed."""
    add = parser.add_argument
    spec = "a sweep of the package (see --list) or a TOML file"
    add("spec", nargs="?", default="demo", metavar="NAME|SPEC.toml", help=spec)
    add("--list", action="store_true", help="list the sweeps of the package and stop")
    add("--dry-run", action="store_true", help="check everything, say what would be trained on what, and stop")
    measure = "with --dry-run: train every network for seconds, to say how long the sweep takes and have it compiled"
    add("--measure", action="store_true", help=measure)
    add("--out", metavar="DIR", type=Path, help="run directory (default: runs/NAME-TIMESTAMP)")
    add("--dataset", metavar="D", help="train on another data set, such as glyphs, which needs no files")
    add("--epochs", metavar="N", type=positive(float), help="passes over the training examples")
    add("--seeds", metavar="N", type=positive(int), help="trials of every cell")
    add("--limit", metavar="N", type=positive(int), help="use the first N examples of every split")
    add("--set", metavar="KEY=V1,V2", nargs="+", action="extend", default=[], help="fix a setting, or vary it")
    add("--resume", action="store_true", help="continue the run in --out, unfinished trials from their checkpoints")
    add_filling_options(parser)


def run(options: argparse.Namespace, call: Call) -> int:
    """Train the table, unless something else is asked for."""
    call.last_words.of = "{} before anything was trained".format
    from flaxvision.sweep.parse import list_specs, load_spec

    if options.list:
        for name in list_specs():
            print(f"{name:<24}{load_spec(name).title}")
        return 0

    if options.measure and not options.dry_run:
        raise UserError("--measure has no effect without --dry-run: add it, or leave --measure out")

    from flaxvision.cli.dry_run import check_measurable, dry_run
    from flaxvision.logs import opens
    from flaxvision.sweep.progress import watcher

    check_measurable(options.executor, measure=options.measure)  # before Ray is asked for
    check_executor(options.executor)
    for tool in options.log:
        opens(tool)
    watch = watcher(options.quiet)
    with watch.starting():
        from flaxvision.sweep.overrides import override

        changes = {key: getattr(options, key) for key in ("dataset", "epochs", "seeds", "limit")}
        spec = override(load_spec(options.spec), **changes, settings=options.set)
        call.prepare()
        from flaxvision.sweep._run import run as train
    if options.dry_run:
        if options.part:
            raise UserError("--part has no effect on --dry-run, which shows the whole table: leave it out")

        return dry_run(spec, options)
    start = functools.partial(train, spec, options.out, resume=options.resume)
    return fill(start, options, call, watch, options.out if options.resume else None)
