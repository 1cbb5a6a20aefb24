"""What `sweep` and `resume` share: how a table is filled, and what is said of it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._text import visible
from flaxvision.cli.parser import Call, Parser, add_data_options, seconds
from flaxvision.logs import LOGGERS
from flaxvision.sweep.executors import CHECKPOINT_EVERY, EXECUTORS

if TYPE_CHECKING:
    from flaxvision.sweep.progress import Watcher
    from flaxvision.sweep.results import SweepResult


def add_filling_options(parser: Parser) -> None:
    """The options that do not change what is trained."""
    add_data_options(parser)
    add = parser.add_argument
    add("--executor", metavar="E", default="auto", help=f"how trials run: {', '.join(EXECUTORS)} (default: auto)")
    every = "seconds between checkpoints, from which a resumed run continues (default: 60; or: never)"
    add("--checkpoint-every", metavar="S", type=seconds, default=CHECKPOINT_EVERY, help=every)
    part = "fill only part I of N of the table, in the --out DIR of all parts; resume puts them together"
    add("--part", metavar="I/N", help=part)
    log = f"also draw every trial in {', '.join(LOGGERS)} while it trains; may be given several times"
    add("--log", metavar="TOOL", action="append", default=[], help=log)
    add("--no-export", action="store_true", help="leave out the winner's ONNX file and its comparison")
    add("--quiet", action="store_true", help="print nothing but errors")


def fill(
    train: Callable[..., SweepResult],
    options: argparse.Namespace,
    call: Call,
    watch: Watcher,
    continued: Path | None = None,
) -> int:
    """Fill a table and say how it went.

    Args:
        train: `flaxvision.sweep.run` or `resume`, of what is to be trained.
        options: Those of `add_filling_options`.
        call: The call, whose last words become how to continue.
        watch: Says how far it is.
        continued: The run directory, if it is there already.

    Returns:
        The exit status: 3 if a trial failed, none was sound or a file of the report could not be written.
    """
    from flaxvision._after import EXPORT

    quiet, nothing_yet = options.quiet, call.last_words.of

    def to_continue(how: str) -> str:
        directory = watch.directory or continued
        if directory is None:
            return nothing_yet(how)
        typed = _resume_command(directory, options, call)
        return f"{watch.undo}{how}; the trials that ended are kept in {directory}: to continue, type {typed}"

    call.last_words.of = to_continue
    given = {key: getattr(options, key) for key in ("raw_dir", "data_dir", "executor", "checkpoint_every", "part")}
    given |= {} if quiet else {"planned": lambda plan: print(*plan.data, sep="\n", file=sys.stderr)}
    result = train(**given, command=call.typed, export=not options.no_export, watch=watch, log=options.log)
    if not quiet:
        for note in result.provenance.get("notes", ()):
            print(visible(f"note: {note}"), file=sys.stderr)
        from rich.console import Console

        from flaxvision.report import terminal_table

        Console().print(terminal_table(result))
    for problem in result.problems:
        print(visible(str(problem)), file=sys.stderr)
    if options.part:
        typed = shlex.join([*call.sibling("resume").split(), str(result.directory)])
        if not quiet:
            print(visible(f"part {options.part} is over: when all parts are, type {typed}"))
    elif result.winner is None:
        print("no winner: every trial diverged or failed", file=sys.stderr)
    if result.failures:
        print(f"{len(result.failures)} of {len(result.outcomes)} trials failed", file=sys.stderr)
    page = result.directory / "report.html"
    if not quiet and page.exists():
        print(visible(f"report: {page}"))
    if options.part:
        return 3 if result.failures or result.problems else 0
    whole = result.winner is not None and all(problem.what.startswith(EXPORT) for problem in result.problems)
    return 0 if whole and not result.failures else 3


def _resume_command(directory: Path, options: argparse.Namespace, call: Call) -> str:
    """What continues a run, with the options of this call that the run does not keep (it keeps its executor)."""
    words = [*call.sibling("resume").split(), str(directory)]
    for key in ("raw_dir", "data_dir"):
        words += [f"--{key.replace('_', '-')}", value] if (value := getattr(options, key)) else []
    every = options.checkpoint_every
    words += ["--checkpoint-every", "never" if every == float("inf") else f"{every:g}"] * (every != CHECKPOINT_EVERY)
    words += [word for tool in options.log for word in ("--log", tool)]
    words += ["--part", options.part] if options.part else []
    words += ["--no-export"] * options.no_export + ["--quiet"] * options.quiet
    return shlex.join(words)
