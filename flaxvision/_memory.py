"""Arrays without copies: where JAX takes them on a CPU as they are, and rows that change places."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from flaxvision._limits import free_memory
from flaxvision.errors import UserError

BOUNDARY = 64  # bytes: XLA takes no array that begins elsewhere, and NumPy's own begin 16 after
CHECKED = 2**26  # bytes from which on the free memory is looked at before
_PARTS = 32  # of a row that are moved in turn: the share of the array that is held twice


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
    """An array of `shape` whose memory begins on a boundary of 64 bytes.

    Raises:
        UserError: If there is no memory for it: the system would give it, and end the process where it is filled.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > CHECKED and size > (free := free_memory()):
        raise UserError(
            f"{size / 2**30:,.1f} GB of examples have no room in the {free / 2**30:,.1f} GB of memory that are free: "
            "give a smaller limit, or smaller images"
        )
    memory = np.empty(size + BOUNDARY, np.uint8)
    start = -memory.ctypes.data % BOUNDARY
    return memory[start : start + size].view(dtype).reshape(shape)


def taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of the rows of an array, on a boundary."""
    copy = empty((len(rows), *array.shape[1:]), array.dtype)
    return array.take(rows, axis=0, out=copy, mode="clip")  # which, unlike "raise", writes where it is told


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays one behind the other: a view where they lie so in memory, else a copy.

    >>> whole = np.arange(6).reshape(3, 2)
    >>> np.shares_memory(joined([whole[:1], whole[1:]]), whole), joined([whole, whole[:1]]).tolist()
    (True, [[0, 1], [2, 3], [4, 5], [0, 1]])
    """
    first, shape = arrays[0], (sum(map(len, arrays)), *arrays[0].shape[1:])
    if len(arrays) == 1:
        return first
    starts = np.cumsum([0, *(array.nbytes for array in arrays[:-1])]) + first.ctypes.data
    in_turn = all(array.ctypes.data == start for array, start in zip(arrays, starts, strict=True))
    if in_turn and len({id(_owner(array)) for array in arrays}) == 1 and all(a.flags.c_contiguous for a in arrays):
        return np.lib.stride_tricks.as_strided(first, shape, writeable=first.flags.writeable)
    return np.concatenate(arrays, out=empty(shape, first.dtype))


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array lies in a file, whose pages the kernel reads when they are needed."""
    return isinstance(_owner(array), mmap.mmap)


def map_of(array: np.ndarray) -> np.memmap | None:
    """The whole of the mapped file that an array lies in."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array if isinstance(array, np.memmap) else None


def _owner(array: np.ndarray) -> object:
    """What an array's memory belongs to."""
    owner: object = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


def reorder(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows `order` of a contiguous array, brought to its front; the others are lost.

    Returns:
        A view of them: a copy would take their memory once more.

    >>> reorder(np.arange(6).reshape(3, 2), np.array([2, 0])).tolist()
    [[4, 5], [0, 1]]
    """
    flat = array.reshape(len(array), -1).view(np.uint8)
    step = max(1, flat.shape[1] // _PARTS)
    for start in range(0, flat.shape[1], step):
        part = flat[:, start : start + step]
        part[: len(order)] = part[order]
    return array[: len(order)]
