"""What commands share: a parser with errors of one line, what a call knows, options that several have."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import shlex
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from flaxvision.cli.ending import LastWords
from flaxvision.errors import UserError

N = TypeVar("N", int, float)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(message)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Like `parse_args`, naming the nearest option for an unknown one."""
        namespace, left = self.parse_known_args(arguments)
        if left:
            options = list(_chosen(self, namespace)._option_string_actions)
            near = difflib.get_close_matches(left[0].partition("=")[0], options, n=1, cutoff=0.5)
            hint = f" did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown argument {left[0]!r}:{hint} Allowed: {', '.join(options)}")
        return namespace


def _chosen(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the innermost command that was given."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = action.choices.get(getattr(namespace, action.dest, None) or "")
            return parser if found is None else _chosen(found, namespace)
    return parser


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a command."""

    program: str  # "flaxvision sweep"
    words: tuple[str, ...]  # what was typed after it
    own_process: bool  # whether the process is there for this call alone
    last_words: LastWords

    @property
    def typed(self) -> str:
        """The whole call, as a shell takes it."""
        return shlex.join([*self.program.split(), *self.words])

    def sibling(self, command: str) -> str:
        """The program name of another command, for what a message says to type."""
        words = self.program.split()
        return " ".join(["python", "-m", "flaxvision", command] if "-m" in words else [words[0], command])

    def prepare(self) -> None:
        """Prepare a process of its own for training, see `flaxvision.runtime`."""
        if self.own_process:
            from flaxvision import runtime

            runtime.prepare()


def positive(kind: type[N]) -> Callable[[str], N]:
    """A parser of numbers above 0 for `add_argument(type=…)`."""

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < math.inf:
            words = "a whole number, 1 or more" if kind is int else "a number above 0"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give {words}")
        return value

    return parse


def seconds(text: str) -> float:
    """A number of seconds from 0 on, or "never", for `add_argument(type=…)`."""
    return math.inf if text == "never" else 0.0 if text.strip() == "0" else positive(float)(text)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where published data sets lie."""
    parser.add_argument("--raw-dir", metavar="DIR", help="folder of original data files (FLAXVISION_RAW_DIR)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared data sets (FLAXVISION_DATA_DIR)")
