"""The IDX format of MNIST, Fashion-MNIST and EMNIST (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

import math
import struct

import numpy as np

from flaxvision.errors import UserError


def parse_idx(content: bytes, ndim: int, where: str) -> np.ndarray:
    """The array of unsigned bytes that an IDX file holds.

    Args:
      content: the file: 00 00 08, one byte for the number of dimensions, each as a big-endian uint32, the values.
      ndim: how many dimensions it must have: 3 for images (N, H, W), 1 for labels (N,).
      where: the file's name, for errors.

    Returns:
      A read-only uint8 array that shares the memory of `content`.

    Raises:
      UserError: for another kind of file, or one with too few or too many bytes.
    """
    header = 4 + 4 * ndim
    magic = bytes((0, 0, 8, ndim))
    if content[:4] != magic:
        raise UserError(
            f"{where} is not an IDX file of {ndim}-dimensional unsigned bytes: "
            f"it starts with {content[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}"
        )
    if len(content) < header:
        raise UserError(f"{where} is truncated: it has {len(content)} bytes, its header alone has {header}")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        state = "is truncated" if len(content) < expected else "has trailing bytes"
        raise UserError(f"{where} {state}: it has {len(content)} bytes, its header {shape} says {expected}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
