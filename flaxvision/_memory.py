"""Arrays where JAX takes them on a CPU as they are, in place of a copy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

BOUNDARY = 64  # bytes: XLA takes no array that begins elsewhere, and NumPy's own begin 16 after


def empty(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """An array of `shape` whose memory begins on a boundary of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + BOUNDARY, np.uint8)
    start = -memory.ctypes.data % BOUNDARY
    return memory[start : start + size].view(dtype).reshape(shape)
