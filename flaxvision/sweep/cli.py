"""The command line: `python -m flaxvision.sweep`."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._cli import LastWords, Parser, add_data_options, exit_status, positive
from flaxvision._text import visible
from flaxvision.sweep.executors import CHECKPOINT_EVERY, EXECUTORS, check_executor

if TYPE_CHECKING:
    from flaxvision.sweep.spec import Spec

PROGRAM = "python -m flaxvision.sweep"
DESCRIPTION = """\
Fill an experiment table: train every cell over several seeds, and write results.csv, results.md, results.tex,
figures, report.html and the winner's weights to a run directory. Without a name it runs 'demo'."""
EPILOG = f"""\
examples:
  {PROGRAM}
  {PROGRAM} fashion-learning-rate --raw-dir DATA --seeds 5
  {PROGRAM} demo --set learning_rate=0.3,0.03 --set batch_size=32,64
  {PROGRAM} rerun RUN TRIAL      train one trial of a run again and compare"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 1 for a rerun that differs, 2 for a mistake in what was given, and 3 for a sweep that has ended
        although a trial failed, none was sound, or a file of the report could not be written. What a signal ends has
        the status 128 + its number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
    """
    own_process = arguments is None
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["rerun"]:  # no sub-parser of argparse, which would take the name of a sweep for a wrong command
        return exit_status(lambda: _rerun(given[1:], own_process), own_process=own_process)
    last_words = LastWords("{} before anything was trained".format)
    return exit_status(lambda: _sweep(given, own_process, last_words), last_words, own_process=own_process)


def _sweep(arguments: list[str], own_process: bool, last_words: LastWords) -> int:
    options = _sweep_parser().parse(arguments)
    from flaxvision.sweep.parse import list_specs, load_spec

    if options.list:
        for name in list_specs():
            print(f"{name:<24}{load_spec(name).title}")
        return 0

    from flaxvision.sweep.trials import override

    check_executor(options.executor)
    changes = {key: getattr(options, key) for key in ("dataset", "epochs", "seeds", "limit")}
    spec = override(load_spec(options.spec), **changes, settings=options.set)
    from flaxvision import runtime
    from flaxvision._after import EXPORT
    from flaxvision.sweep._run import run
    from flaxvision.sweep.progress import watcher

    if own_process:
        runtime.prepare()
    if options.dry_run:
        return _dry_run(spec, options)
    quiet, watch, words = options.quiet, watcher(options.quiet), [*PROGRAM.split(), *arguments]
    given = {key: getattr(options, key) for key in ("executor", "checkpoint_every", "resume", "raw_dir", "data_dir")}
    given |= {} if quiet else {"planned": lambda plan: print(*plan.data, sep="\n", file=sys.stderr)}
    nothing_yet = last_words.of

    def to_continue(how: str) -> str:
        directory = watch.directory or (options.out if options.resume else None)
        if directory is None:
            return nothing_yet(how)
        more = ([] if options.out else ["--out", str(directory)]) + ([] if options.resume else ["--resume"])
        typed = shlex.join(words + more)
        return f"{watch.undo}{how}; the trials that ended are kept in {directory}: to continue, type {typed}"

    last_words.of = to_continue
    result = run(spec, options.out, **given, command=shlex.join(words), export=not options.no_export, watch=watch)
    if not quiet:
        for note in result.provenance.get("notes", ()):
            print(visible(f"note: {note}"), file=sys.stderr)
        from rich.console import Console

        from flaxvision.report import terminal_table

        Console().print(terminal_table(result))
    for problem in result.problems:
        print(visible(str(problem)), file=sys.stderr)
    if result.winner is None:
        print("no winner: every trial diverged or failed", file=sys.stderr)
    if result.failures:
        print(f"{len(result.failures)} of {len(result.outcomes)} trials failed", file=sys.stderr)
    page = result.directory / "report.html"
    if not quiet and page.exists():
        print(visible(f"report: {page}"))
    whole = result.winner is not None and all(problem.what.startswith(EXPORT) for problem in result.problems)
    return 0 if whole and not result.failures else 3


def _dry_run(spec: Spec, options: argparse.Namespace) -> int:
    """Check what a run would check, and print what it would do."""
    from flaxvision.sweep._run import check
    from flaxvision.sweep.files import DataFolders
    from flaxvision.sweep.store import check_directory, check_identity, read_records, usable
    from flaxvision.sweep.trials import by_program

    folders = DataFolders(options.raw_dir, options.data_dir)
    plan, files = check(spec, options.out, folders, options.executor, resume=options.resume)
    check_directory(files.directory, plan.spec, resume=options.resume)
    records, _ = usable(read_records(files.directory), files)
    check_identity(files.directory, records, plan.identity)
    print(f"{plan.spec.heading}; winner by {plan.spec.objective}", *plan.data, sep="\n")
    groups = by_program(plan.trials, len(plan.trials))
    for number, group in enumerate(groups, start=1):
        for trial in group:
            cell = ", ".join(f"{key}={label}" for key, label in trial.cell)
            size = f"{plan.parameters[trial.id]:,} parameters"
            print(f"{trial.id}  program {number:<3} seed {trial.seed:<3} {size}  {cell}")
    before = ", besides a pretraining" if plan.stages else ""
    after = f", after them trials of the winner: {len(spec.final.seeds)}" if spec.final else ""
    print(f"programs: {len(groups)}, trials: {len(plan.trials)}{before}{after}; nothing was trained or written")
    return 0


def _rerun(arguments: list[str], own_process: bool) -> int:
    parser = Parser(prog=f"{PROGRAM} rerun", description="Train one trial of a run again and compare.")
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("trial", metavar="TRIAL", help="a trial's id, or the beginning of it")
    add_data_options(parser)
    options = parser.parse(arguments)

    from flaxvision import runtime
    from flaxvision.sweep._rerun import rerun

    if own_process:
        runtime.prepare()
    again = rerun(options.run, options.trial, raw_dir=options.raw_dir, data_dir=options.data_dir)
    for name, (old, new) in again.metrics.items():
        print(f"{name:<14}{old!s:>24}{new!s:>24}  {'equal' if old == new else 'differs'}")
    for line in again.changed:
        print(f"changed since: {line}")
    print(f"trial {again.trial}: " + ("equal bit for bit in every epoch" if again.equal else "differs from the record"))
    return 0 if again.equal else 1


def _sweep_parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    spec = "a sweep of the package (see --list) or a TOML file"
    add("spec", nargs="?", default="demo", metavar="NAME|SPEC.toml", help=spec)
    add("--list", action="store_true", help="list the sweeps of the package and stop")
    add("--dry-run", action="store_true", help="check everything, print data and trials, and stop")
    add("--out", metavar="DIR", type=Path, help="run directory (default: runs/NAME-TIMESTAMP)")
    add_data_options(parser)
    add("--dataset", metavar="D", help="train on another data set, such as glyphs, which needs no files")
    add("--epochs", metavar="N", type=positive(float), help="passes over the training examples")
    add("--seeds", metavar="N", type=positive(int), help="trials of every cell")
    add("--limit", metavar="N", type=positive(int), help="use the first N examples of every split")
    add("--set", metavar="KEY=V1,V2", nargs="+", action="extend", default=[], help="fix a setting, or vary it")
    add("--executor", metavar="E", default="auto", help=f"how trials run: {', '.join(EXECUTORS)} (default: auto)")
    every = "seconds between checkpoints, from which --resume continues (default: 60; or: never)"
    add("--checkpoint-every", metavar="S", type=_seconds, default=CHECKPOINT_EVERY, help=every)
    add("--resume", action="store_true", help="continue the run in --out, unfinished trials from their checkpoints")
    add("--no-export", action="store_true", help="leave out the winner's ONNX file and its comparison")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _seconds(text: str) -> float:
    """A number of seconds from 0 on, or "never"."""
    return math.inf if text == "never" else 0.0 if text.strip() == "0" else positive(float)(text)
