"""Text that can be written anywhere: what an encoding cannot hold is written in characters that it can."""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import PurePath

_PLAIN = {
    "±": "+/-", "–": "-", "−": "-", "…": "...", "×": "x", "†": "*", "→": "->", "·": ".", "≈": "~", "█": "#", "░": ".",
}  # fmt: skip


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


# What a terminal, an editor or an XML file would take for more than a sign: control characters (ANSI sequences begin
# with one), marks that turn the direction of writing, ends of lines and paragraphs, code points that are no characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]")


def visible(text: str, keep: str = "") -> str:
    r"""Text from outside with nothing hidden in it: what would act, or be no XML, as \x1b, \u202e, …, but for `keep`.

    Titles, labels, class names and messages pass through it where they enter, so that every output may show them.

    >>> print(visible("red \x1b[31m, \u202egnp.exe"))
    red \x1b[31m, \u202egnp.exe
    """
    return _UNSEEN.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def data_name(dataset: object) -> str:
    """A data set as titles and whatever is handed on name it: of a folder of one's own the last part of its path.

    >>> data_name("images:/home/me/pets"), data_name("mnist")
    ('images:pets', 'mnist')
    """
    name = visible(str(dataset))
    kind, colon, folder = name.partition(":")
    if kind not in ("images", "npz"):
        return name
    return f"{kind}{colon}{PurePath(folder).name or folder}"


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
