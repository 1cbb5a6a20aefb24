"""CIFAR-10 (Krizhevsky, 2009). In its binary version a record is a label and the R, G and B planes, row by row.

Its Python version holds the same images in the same order, in pickles.
"""

from __future__ import annotations

import numpy as np

from flaxvision.data.pickled import load_plain
from flaxvision.errors import UserError

SIDE = 32  # pixels
RECORD = 1 + 3 * SIDE * SIDE  # bytes


def parse_cifar(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels uint8 (N,) of one batch file; `UserError` for a size that does not fit."""
    if not content or len(content) % RECORD:
        raise UserError(
            f"{where} is truncated or has trailing bytes: it has {len(content)} bytes, not a multiple of {RECORD}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return planes.transpose(0, 2, 3, 1), records[:, 0]


def unpickle_cifar(content: bytes, where: str) -> bytes:
    """A batch file of the Python version as one of the binary version, byte for byte the published one."""
    batch = load_plain(content, where)
    names = {key.decode() if isinstance(key, bytes) else key: key for key in batch} if isinstance(batch, dict) else {}
    if not {"data", "labels"} <= set(names):
        raise UserError(f"{where} is not a batch of CIFAR-10: it has no data and labels")
    pixels, labels = np.asarray(batch[names["data"]]), np.asarray(batch[names["labels"]])
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != RECORD - 1
        or labels.shape != pixels.shape[:1]
    ):
        raise UserError(
            f"{where} is not a batch of CIFAR-10: data are {pixels.dtype} {pixels.shape} and labels {labels.shape}, "
            f"not uint8 (N, {RECORD - 1}) and (N,)"
        )
    if labels.dtype.kind not in "iu" or ((labels < 0) | (labels > 255)).any():
        raise UserError(f"{where} is not a batch of CIFAR-10: its labels are not whole numbers from 0 to 9")
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1).tobytes()
