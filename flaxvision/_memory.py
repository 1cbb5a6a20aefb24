"""Arrays without copies: where JAX takes them on a CPU as they are, and rows that change places."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

BOUNDARY = 64  # bytes: XLA takes no array that begins elsewhere, and NumPy's own begin 16 after
_PARTS = 32  # of a row that are moved in turn: the share of the array that is held twice


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
    """An array of `shape` whose memory begins on a boundary of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + BOUNDARY, np.uint8)
    start = -memory.ctypes.data % BOUNDARY
    return memory[start : start + size].view(dtype).reshape(shape)


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
