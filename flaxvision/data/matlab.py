"""Arrays of numbers in MATLAB 5 files. (SciPy's reader ends the process on some damaged ones.)"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

HEADER = 128  # bytes before the first element
MATRIX, COMPRESSED = 14, 15  # kinds of elements that hold others
# Kinds of numbers:
STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}  # kinds of numbers
NUMBERS = range(6, 16)  # classes of arrays, MATLAB's double to uint64


class TooLargeError(Exception):
    """A file's variables have more bytes than they may."""


def read_arrays(content: bytes, names: Collection[str], most: int) -> dict[str, np.ndarray]:
    """The arrays of these names, of those that are there, in the types in which their numbers are stored.

    Together the variables of the file may unpack to `most` bytes.

    Raises:
        TooLargeError: For a file that unpacks to more.
        ValueError: For what is no such file, is damaged, or has something else than numbers under a name.

    Source: MathWorks, "MAT-File Format", the chapter on level 5.
    """
    orders = {b"IM": "<", b"MI": ">"}
    if content[126:128] not in orders:
        raise ValueError("it does not begin as one")
    order, found = orders[content[126:128]], {}
    for kind, data in _elements(memoryview(content)[HEADER:], order):
        if kind == COMPRESSED:
            inflated = _inflated(data, most)
            most -= len(inflated)
            kind, data = next(_elements(memoryview(inflated), order), (0, memoryview(b"")))
        if kind == MATRIX:
            parts = list(itertools.islice(_elements(data, order), 4))
            name = bytes(parts[2][1]).decode("latin-1") if len(parts) > 2 else ""
            if name in names:
                found[name] = _array(name, parts, order)
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and bytes of one element after the other."""
    at = 0
    while at < len(content):
        if at + 8 > len(content):
            raise ValueError("it ends within an element")
        kind, size = struct.unpack_from(f"{order}2I", content, at)
        small = kind >> 16  # bytes, if they lie in the element's head
        start = at + (4 if small else 8)
        kind, size = (kind & 0xFFFF, small) if small else (kind, size)
        if start + size > len(content) or small > 4:
            raise ValueError("it ends within an element")
        yield kind, content[start : start + size]
        at = at + 8 if small else start + size + (-size % 8 if kind != COMPRESSED else 0)


def _inflated(data: memoryview, most: int) -> bytes:
    """What was compressed."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    if len(inflated) > most:
        raise TooLargeError
    if not inflater.eof:
        raise ValueError("it ends within what is compressed")
    return inflated


def _array(name: str, parts: list[tuple[int, memoryview]], order: str) -> np.ndarray:
    """The array of an element's parts: flags, shape, name and numbers."""
    flags = parts[0][1]
    numbers = len(flags) == 8 and flags[0 if order == "<" else 3] in NUMBERS
    if not numbers or len(parts) < 4 or parts[3][0] not in STORED or parts[1][0] != 5 or len(parts[1][1]) % 4:
        raise ValueError(f"{name} is no array of numbers")
    shape = np.frombuffer(parts[1][1], f"{order}i4").tolist()
    stored = np.dtype(order + STORED[parts[3][0]])
    if len(parts[3][1]) % stored.itemsize:
        raise ValueError(f"{name} ends within a number")
    values = np.frombuffer(parts[3][1], stored)
    if min(shape, default=0) < 0 or np.prod(shape, dtype=object) != len(values):
        raise ValueError(f"{name} has {len(values)} numbers for a shape of {tuple(shape)}")
    return values.reshape(shape, order="F")
