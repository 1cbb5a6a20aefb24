"""How a command ends: its status, and the one line that an error or a signal leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable

from flaxvision._interrupts import ending
from flaxvision._text import forgiving_output, visible
from flaxvision.errors import UserError


@dataclasses.dataclass(slots=True)
class LastWords:
    """The line that a program says when a signal ends it, from "interrupted", as far as it has come."""

    of: Callable[[str], str] = str


def exit_status(program: Callable[[], int], last_words: LastWords | None = None, *, own_process: bool = False) -> int:
    """Run a program: its own status, 2 after a `UserError` or `OSError`, which is one line, 130 when interrupted.

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
        except OSError as error:  # of a file or a folder, such as one below a folder that one may not look into
            reason = error.strerror or str(error) or type(error).__name__
            where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
            print(f"error: {visible(' '.join(f'{where}{reason}'.split()))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(last_words.of("interrupted"), file=sys.stderr)
            return 130
