"""The IDX format of MNIST, Fashion-MNIST and EMNIST (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Mapping

import numpy as np

from flaxvision.data.raw import check_members
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


def format_idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an IDX file."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def unpack_npz(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """The four IDX files of MNIST that Keras's mnist.npz holds as arrays, byte for byte the published ones."""
    ((where, content),) = contents.items()
    names = {
        "train-images-idx3-ubyte": "x_train",
        "train-labels-idx1-ubyte": "y_train",
        "t10k-images-idx3-ubyte": "x_test",
        "t10k-labels-idx1-ubyte": "y_test",
    }
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            check_members(archive.zip, len(content), where)
            arrays = {file: np.asarray(archive[key]) for file, key in names.items()}
    except UserError:
        raise
    except Exception as error:  # zipfile's, zlib's and NumPy's own
        raise UserError(f"{where} cannot be read as Keras's {', '.join(names.values())} ({error})") from error
    for file, array in arrays.items():
        if array.dtype.kind not in "iu" or ((array < 0) | (array > 255)).any():
            raise UserError(f"{where}: {names[file]} is {array.dtype}: allowed are whole numbers from 0 to 255")
    return {file: format_idx(array.astype(np.uint8)) for file, array in arrays.items()}
