"""What the command lines share: a parser with errors of one line, how a program ends, the options for data."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from flaxvision._interrupts import ending
from flaxvision._text import forgiving_output, visible
from flaxvision.errors import UserError

Value = Any  # what TOML holds
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
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(left[0].partition("=")[0], options, n=1, cutoff=0.5)
            hint = f" did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown argument {left[0]!r}:{hint} Allowed: {', '.join(options)}")
        return namespace


def positive(kind: type[N]) -> Callable[[str], N]:
    """A parser of numbers above 0 for `add_argument(type=…)`."""

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < float("inf"):
            words = "a whole number, 1 or more" if kind is int else "a number above 0"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed: give {words}")
        return value

    return parse


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where published data sets lie."""
    parser.add_argument("--raw-dir", metavar="DIR", help="folder of original data files (FLAXVISION_RAW_DIR)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared data sets (FLAXVISION_DATA_DIR)")


def parse_setting(text: str, number: Callable[[str], float] = float) -> tuple[str, list[Value]]:
    """ "KEY=V1,V2" as the key and its values, each read as TOML, as a list "[V1,V2]", or as a bare string.

    Args:
        text: As it is typed after `--set`.
        number: What makes numbers with a point of their texts.

    Raises:
        UserError: Without a key or a value.

    >>> parse_setting("hidden=[8,4],[16]")
    ('hidden', [[8, 4], [16]])
    """
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key or not values.strip():
        raise UserError(f"--set {text!r}: give KEY=VALUE or KEY=VALUE1,VALUE2, such as --set learning_rate=0.1,0.01")
    try:
        return key, tomllib.loads(f"x = [{values}]", parse_float=number)["x"]
    except (ValueError, RecursionError):
        return key, [_value(part, number) for part in _parts(values)]


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no brackets; where brackets do not match, between all commas."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            break
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in (text.split(",") if depth else parts)]


def _value(text: str, number: Callable[[str], float]) -> Value:
    try:
        return tomllib.loads(f"x = {text}", parse_float=number)["x"]
    except (ValueError, RecursionError):
        if text.startswith("[") and text.endswith("]"):
            inner = text[1:-1].strip().removesuffix(",")
            return [_value(part, number) for part in _parts(inner)] if inner else []
        return text


@dataclasses.dataclass(slots=True)
class LastWords:
    """The line that a program says when a signal ends it, from "interrupted", as far as it has come."""

    of: Callable[[str], str] = str


def exit_status(program: Callable[[], int], last_words: LastWords | None = None, *, own_process: bool = False) -> int:
    """Run a program: its own status, 2 after a `UserError`, which is printed as one line, 130 when interrupted.

    In a process of its own signals end it as in `flaxvision._interrupts.ending`.
    """
    last_words = last_words or LastWords()
    with forgiving_output():
        try:
            with ending(lambda how: last_words.of(how)) if own_process else contextlib.nullcontext():
                status = program()
                sys.stdout.flush()
            return status
        except UserError as error:
            print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print(last_words.of("interrupted"), file=sys.stderr)
            return 130
