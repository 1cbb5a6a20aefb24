"""What cannot be read, in one line: where it stands in the user's code, what it is, what would do instead."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import CodeType, TracebackType
from typing import NamedTuple

import torch

from flaxvision.errors import UserError

_NOT_THEIRS = tuple(os.path.dirname(os.path.abspath(file)) + os.sep for file in (torch.__file__, __file__))


class Line(NamedTuple):
    """A line of the user's code."""

    file: str
    number: int

    def __str__(self) -> str:
        path = Path(self.file)
        here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"{here}, line {self.number}"


def line_at_hand(entry: CodeType) -> Line | None:
    """The innermost line of the user's code that is running, above the function whose code is `entry`."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not entry:
        if _is_theirs(frame.f_code.co_filename):
            return Line(frame.f_code.co_filename, frame.f_lineno)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def line_of(trace: TracebackType | None, entry: CodeType) -> Line | None:
    """The innermost line of the user's code in a traceback, below the function whose code is `entry`."""
    frames = [(frame.f_code, number) for frame, number in traceback.walk_tb(trace)]
    starts = [index for index, (code, _) in enumerate(frames) if code is entry]
    inner = frames[starts[-1] + 1 :] if starts else frames
    theirs = [Line(code.co_filename, number) for code, number in inner if _is_theirs(code.co_filename)]
    return theirs[-1] if theirs else None


def _is_theirs(file: str) -> bool:
    return not file.startswith((*_NOT_THEIRS, "<frozen"))


def refusal(where: object, what: str, instead: str) -> UserError:
    """The error that `what`, at `where`, cannot be read, and what to write `instead`."""
    return UserError(f"{where}: {what} cannot be read as a flaxvision network: {instead}")
