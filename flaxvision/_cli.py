"""What the command lines share: a parser with errors of one line, how a program ends, the options for data."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from flaxvision._text import forgiving_output
from flaxvision.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(message)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Like `parse_args`, naming the nearest option for an unknown one."""
        namespace, left = self.parse_known_args(arguments)
        if left:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(left[0].partition("=")[0], options, n=1, cutoff=0.5)
            hint = f" did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown argument {left[0]!r}:{hint} Allowed: {', '.join(options)}")
        return namespace


def positive(kind: type) -> Callable[[str], Any]:
    """A parser of numbers above 0 for `add_argument(type=…)`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            words = "a whole number, 1 or more" if kind is int else "a number above 0"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give {words}")
        return value

    return parse


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where published data sets lie."""
    parser.add_argument("--raw-dir", metavar="DIR", help="folder of original data files (FLAXVISION_RAW_DIR)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared data sets (FLAXVISION_DATA_DIR)")


def exit_status(program: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """Run a program: its own status, 2 after a `UserError`, which is printed as one line, 130 when interrupted."""
    with forgiving_output():
        try:
            status = program()
            sys.stdout.flush()
            return status
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print(interrupted, file=sys.stderr)
            return 130
