"""One door: `flaxvision COMMAND`. Each command is a module; how all of them end is decided here alone."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Protocol, cast

import flaxvision
from flaxvision.cli.ending import LastWords, exit_status
from flaxvision.cli.parser import Call, Parser
from flaxvision.errors import UserError, unknown

PROGRAM = "flaxvision"
DESCRIPTION = "Fill experiment tables of small vision networks, report them, and export the networks."


class Command(Protocol):
    """What the module of a command holds. Importing it takes nothing along that takes long to import."""

    DESCRIPTION: str
    EXAMPLES: str  # a line each, with {program} in it

    def add_options(self, parser: Parser, /) -> None:
        """Tell the parser what may be typed."""

    def run(self, options: argparse.Namespace, call: Call, /) -> int:
        """Do it, and return the exit status; a mistake in what was given is a `UserError`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A command in the list of commands."""

    module: str
    summary: str


COMMANDS = {
    "sweep": Entry("flaxvision.cli.sweep", "fill a table: train its cells over several seeds, and report them"),
    "resume": Entry("flaxvision.cli.resume", "go on with a run that was ended, or add seeds to it"),
    "rerun": Entry("flaxvision.cli.rerun", "train one trial of a run again, and compare"),
    "runs": Entry("flaxvision.cli.runs", "list, show or remove runs"),
    "compare": Entry("flaxvision.cli.compare", "lay the tables of several runs side by side"),
    "predict": Entry("flaxvision.cli.predict", "classify images with a run's winner"),
    "evaluate": Entry("flaxvision.cli.evaluate", "score a run's winner on a data set or a folder of images"),
    "play": Entry("flaxvision.cli.play", "draw for a run's winner, and see what each layer makes of it"),
    "data": Entry("flaxvision.cli.data", "look at a data set, or list those there are"),
    "models": Entry("flaxvision.cli.models", "list the networks, or look at one"),
    "keys": Entry("flaxvision.cli.keys", "explain the keys of a sweep's TOML file"),
    "export": Entry("export._command", "write a network for ONNX, PyTorch or Keras, and compare it there"),
}


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line.

    Args:
        arguments: What is typed after the program's name; None: what was typed after that of this process.
        program: The program's name.

    Returns:
        0 for success, 2 for a mistake in what was given. `rerun` gives 1 for numbers that differ; `sweep`, `resume`,
        `predict` and `evaluate` give 3 where they came to an end although something failed: a trial, a file of the
        report, an image. What a signal ends has the status 128 + its number: 130 for Ctrl-C, 143 for SIGTERM, 129 for
        SIGHUP.
    """
    given, own_process = typed(arguments)
    if given and given[0] in COMMANDS:
        return enter(given[0], f"{program} {given[0]}", given[1:], own_process=own_process)
    return exit_status(lambda: _without_command(given, program), own_process=own_process)


def typed(arguments: Sequence[str] | None) -> tuple[list[str], bool]:
    """The arguments of a call, and whether it is what this process is there for: where none are given, its own are."""
    return list(sys.argv[1:] if arguments is None else arguments), arguments is None


def enter(name: str, program: str, given: Sequence[str], *, own_process: bool) -> int:
    """Run the command `name`, which is called `program` in messages; its status as that of `main`."""
    command = cast(Command, importlib.import_module(COMMANDS[name].module))
    call = Call(program, tuple(given), own_process, LastWords())
    parser = Parser(
        prog=program,
        description=command.DESCRIPTION,
        epilog=_examples(command, program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_options(parser)
    return exit_status(lambda: command.run(parser.parse(given), call), call.last_words, own_process=own_process)


def _examples(command: Command, program: str) -> str:
    lines = command.EXAMPLES.format(program=program).strip().splitlines()
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def _without_command(arguments: Sequence[str], program: str) -> int:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items())
    parser = Parser(
        prog=program,
        usage=f"{program} COMMAND …",
        description=DESCRIPTION,
        epilog=f"commands:\n{commands}\n\n{program} COMMAND --help says more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    if arguments and not arguments[0].startswith("-"):
        raise _no_command(arguments[0], program)
    parser.parse(arguments)
    parser.print_help()
    return 0


def _no_command(given: str, program: str) -> UserError:
    from flaxvision.sweep.parse import list_specs

    if given.endswith(".toml") or given in list_specs():
        return UserError(f"{given} is a sweep: type {program} sweep {given}")
    return unknown("command", given, COMMANDS)


def _version() -> str:
    """The version, with those on which numbers depend."""
    return f"flaxvision {flaxvision.__version__} (Python {platform.python_version()}, jax {metadata.version('jax')})"
