"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): in their binary versions records of labels and the R, G and B planes.

A record of CIFAR-100 has two labels, a coarse one and the class. The Python versions hold the same images in the same
order, in pickles.
"""

from __future__ import annotations

import numpy as np

from flaxvision.data.pickled import load_plain
from flaxvision.errors import UserError

SIDE = 32  # pixels
RECORD = 1 + 3 * SIDE * SIDE  # bytes


def parse_cifar(content: bytes, where: str, labels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels uint8 (N,) of one file; `UserError` for a size that does not fit.

    Of several `labels` a record, it gives the last.
    """
    record = RECORD - 1 + labels
    if not content or len(content) % record:
        raise UserError(
            f"{where} is truncated or has trailing bytes: it has {len(content)} bytes, not a multiple of {record}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    planes = records[:, labels:].reshape(-1, 3, SIDE, SIDE)
    return planes.transpose(0, 2, 3, 1), records[:, labels - 1]


def unpickle_cifar(content: bytes, where: str, keys: tuple[str, ...] = ("labels",)) -> bytes:
    """A file of the Python version as one of the binary version, byte for byte the published one.

    `keys` names the labels: of CIFAR-10, or ("coarse_labels", "fine_labels").
    """
    name = "CIFAR-10" if len(keys) == 1 else "CIFAR-100"
    batch = load_plain(content, where)
    names = {key.decode() if isinstance(key, bytes) else key: key for key in batch} if isinstance(batch, dict) else {}
    if not {"data", *keys} <= set(names):
        raise UserError(f"{where} is not a batch of {name}: it has no {' and '.join(('data', *keys))}")
    pixels, labels = np.asarray(batch[names["data"]]), [np.asarray(batch[names[key]]) for key in keys]
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != RECORD - 1
        or any(each.shape != pixels.shape[:1] for each in labels)
    ):
        shapes = " and ".join(str(each.shape) for each in labels)
        raise UserError(
            f"{where} is not a batch of {name}: data are {pixels.dtype} {pixels.shape} and labels {shapes}, "
            f"not uint8 (N, {RECORD - 1}) and (N,)"
        )
    if any(each.dtype.kind not in "iu" or ((each < 0) | (each > 255)).any() for each in labels):
        last = 9 if len(keys) == 1 else 99
        raise UserError(f"{where} is not a batch of {name}: its labels are not whole numbers from 0 to {last}")
    return np.concatenate([*(each.astype(np.uint8)[:, None] for each in labels), pixels], axis=1).tobytes()
