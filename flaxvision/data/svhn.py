"""SVHN, cropped digits (Netzer et al., 2011): MATLAB files of images X (32, 32, 3, N) and labels y (N, 1)."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np

from flaxvision.data.raw import PACKED, SMALL, allowed, check_unpacked
from flaxvision.errors import UserError

HEADER, COMPRESSED = 128, 15  # of a MATLAB 5 file: bytes before the first variable, type of a compressed one
PIECE = 2**16  # bytes that are inflated at a time, to no more than 68 MB


def parse_svhn(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels (N,) of one file, in which the label of a zero is 10.

    Raises:
        UserError: For a file of another kind, or one that claims or unpacks to more than it may hold.
    """
    from scipy.io import loadmat, whosmat

    most = max(PACKED * len(content), SMALL)
    try:
        check_unpacked(unpacked_size(content, allowed(most)), most, where)
        for name, _, kind in whosmat(io.BytesIO(content)):
            if name in ("X", "y") and not kind.lstrip("u").startswith("int"):
                raise ValueError(f"{name} is {kind}")  # cells and structures take the memory that their shapes claim
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
        images, labels = found["X"], found["y"].ravel()
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{where} is not a MATLAB file of X and y ({error or type(error).__name__})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where} holds X of {images.dtype} {images.shape} and y of {labels.dtype}: "
            "the published file has images uint8 (32, 32, 3, N) and whole numbers"
        )
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10


def unpacked_size(content: bytes, most: int) -> int:
    """How many bytes the variables of a MATLAB 5 file have once they are inflated; counted no further than `most`."""
    order = "<" if content[126:128] == b"IM" else ">"
    at, total = HEADER, 0
    while at + 8 <= len(content) and total <= most:
        kind, size = struct.unpack_from(f"{order}2I", content, at)
        end = min(at + 8 + size, len(content))
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            for start in range(at + 8, end, PIECE):
                total += len(inflater.decompress(content[start : min(start + PIECE, end)]))
                if total > most:
                    break
        else:
            total += end - at
        at = end
    return total
