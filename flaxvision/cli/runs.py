"""`flaxvision runs`: lists runs, shows one, removes some."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._text import visible
from flaxvision.cli.parser import Call, Parser
from flaxvision.cli.text import print_table
from flaxvision.errors import UserError

if TYPE_CHECKING:
    from flaxvision.runs import Run
    from flaxvision.sweep.results import Outcome

DESCRIPTION = "List runs, show one, or remove some. Without list, show or rm it lists those in the folder runs."
EXAMPLES = """\
{program}
{program} show runs/demo-20260101-120000 --trials
{program} rm runs/demo-20260101-120000"""


def add_options(parser: Parser) -> None:
    """What may be typed."""
    verbs = parser.add_subparsers(dest="verb", metavar="list|show|rm", parser_class=Parser)
    command = verbs.add_parser("list", help="a line for each run", description="A line for each run of a folder.")
    command.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="where the runs are (default: runs)")
    words = "what a run was, its table, winner and files"
    command = verbs.add_parser("show", help=words, description=f"Show {words}.")
    command.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--trials", action="store_true", help="list every trial, by its id")
    command = verbs.add_parser("rm", help="remove runs", description="Remove runs with all that lies in them.")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace, call: Call) -> int:
    """List, show or remove."""
    if options.verb == "show":
        return _show(options.run, trials=options.trials)
    if options.verb == "rm":
        return _remove(options.runs, sure=options.yes)
    return _list(getattr(options, "folder", None))


def _list(given: Path | None) -> int:
    from flaxvision.runs._list import find_runs

    folder = given or Path("runs")
    runs, broken = find_runs(folder) if given or folder.is_dir() else ([], {})
    for why in broken.values():
        print(visible(f"passed over: {why}"), file=sys.stderr)
    if not runs:
        print(f"no runs in {folder}: flaxvision sweep makes one", file=sys.stderr)
        return 0
    rows = [
        (each.name, _date(each), each.data, str(len(each.table)), _state(each), best_of(each), size_text(each.size))
        for each in runs
    ]
    header = ("run", "date", "data", "cells", "state", "best", "size")
    print_table(header, rows, right=(3, 6))
    return 0


def _show(directory: Path, *, trials: bool) -> int:
    from rich.console import Console

    from flaxvision.report import terminal_table
    from flaxvision.runs import open as open_run

    found = open_run(directory)
    facts = {
        "directory": str(found.directory),
        "state": _state(found),
        "last trial": _date(found),
        "data": found.data,
        "command": found.result.provenance.get("command", ""),
        "device": found.result.provenance.get("device", ""),
        "size": size_text(found.size),
    }
    print(visible(found.result.title))
    for name, fact in facts.items():
        if fact:
            print(visible(f"{name:<12}{fact}"))
    print()
    if found.table:
        Console().print(terminal_table(found.result))
    if found.winner is not None:
        print(
            f"best so far: {best_of(found)}" if found.state != "complete" else f"winner: trial {_trial(found.winner)}"
        )
    for note in (*found.notes, *map(str, found.result.problems)):
        print(visible(f"note: {note}"), file=sys.stderr)
    if trials:
        print()
        rows = [_row(found, each) for each in found.trials]
        print_table(("trial", "cell", "seed", "status", found.spec.objective), rows, right=(2, 4))
    page = found.directory / "report.html"
    if page.exists():
        print(visible(f"report: {page}"))
    return 0


def _remove(directories: list[Path], *, sure: bool) -> int:
    from flaxvision.runs import open as open_run
    from flaxvision.sweep.lock import HOLDER, filled_by
    from flaxvision.sweep.records import TRIALS

    runs = [open_run(directory) for directory in {each.absolute(): each for each in directories}.values()]
    for each in runs:
        folder = each.directory
        if not any((folder / name).exists() for name in ("trials", TRIALS)):  # one of one's own, with a spec.toml
            raise UserError(f"{folder} has a spec.toml but was not written by a sweep: remove it yourself")
        if each.state == "running":
            raise UserError(
                f"{filled_by(folder)} is filling {folder}: wait until it has ended; if it was killed, remove "
                f"{folder / HOLDER}"
            )
    for each in runs:
        print(visible(f"{each.directory}: {_state(each)}, {_date(each)}, {size_text(each.size)}, best {best_of(each)}"))
    if not sure:
        if not sys.stdin.isatty():
            raise UserError("nothing is removed: add --yes where nobody can be asked")
        answer = input(f"Remove {'it' if len(runs) == 1 else f'these {len(runs)} runs'} for good? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing is removed")
            return 0
    for each in runs:
        if each.directory.is_symlink():
            each.directory.unlink()
        else:
            shutil.rmtree(each.directory)
        print(visible(f"removed {each.directory}"))
    return 0


def best_of(run: Run) -> str:
    """The best cell's mean so far, and which cell that is: "97.07 % (learning_rate 0.1)"."""
    from flaxvision.report import formats
    from flaxvision.sweep.results import winning_cell

    metric = run.spec.objective
    best = winning_cell(run.table, metric)
    mean = None if best is None else best.mean(metric)
    if best is None or mean is None:
        return "–"
    where = ", ".join(f"{key} {value}" for key, value in best.where.items())
    return formats.with_unit(metric, mean) + (f" ({where})" if where else "")


def size_text(size: int) -> str:
    """A number of bytes for people.

    >>> size_text(812), size_text(3_400_000)
    ('1 kB', '3.4 MB')
    """
    value, units = size / 1000, ["kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{max(value, 1):.0f} {units[0]}" if value >= 10 or units[0] == "kB" else f"{value:.1f} {units[0]}"


def _state(run: Run) -> str:
    """How far it is: "complete", "running, 3 of 12 trials", and how many failed."""
    failed = f", {len(run.result.failures)} failed" if run.result.failures else ""
    there = "" if run.state == "complete" else f", {len(run.trials)} of {run.expected} trials"
    return f"{run.state}{there}{failed}"


def _date(run: Run) -> str:
    return f"{run.ended:%Y-%m-%d %H:%M}"


def _trial(trial: Outcome) -> str:
    return f"{trial.id} ({', '.join([*(f'{key} {label}' for key, label in trial.cell), f'seed {trial.seed}'])})"


def _row(run: Run, trial: Outcome) -> tuple[str, ...]:
    from flaxvision.report import formats

    value = trial.final.get(run.spec.objective)
    cell = ", ".join([*(f"{key} {label}" for key, label in trial.cell), *(["final"] if trial.stage == "final" else [])])
    score = "–" if value is None else formats.with_unit(run.spec.objective, value)
    return trial.id, cell, str(trial.seed), trial.status, score
