"""The binary version of CIFAR-10 (Krizhevsky, 2009): a record is a label and the R, G and B planes, row by row."""

from __future__ import annotations

import numpy as np

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
