"""Text that can be written anywhere: what an encoding cannot hold is written in characters that it can."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterable, Iterator

_PLAIN = {"±": "+/-", "–": "-", "−": "-", "…": "...", "×": "x", "†": "*", "→": "->", "·": ".", "█": "#", "░": "."}


def _substitute(error: UnicodeError) -> tuple[str, int]:
    r"""Signs by their ASCII likeness, letters as \u732b, bytes of a file's name that are not UTF-8 as \xe9."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00  # a byte that Python found in a file's name
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()


SUBSTITUTE = "flaxvision.substitute"  # for `str.encode` and text streams, as "replace" or "backslashreplace"
codecs.register_error(SUBSTITUTE, _substitute)


@contextlib.contextmanager
def forgiving_output() -> Iterator[None]:
    """Standard output and error that hold every character, in ASCII terminals too; afterwards they are as before."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=SUBSTITUTE)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
