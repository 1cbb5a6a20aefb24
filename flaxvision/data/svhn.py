"""SVHN, cropped digits (Netzer et al., 2011): MATLAB files of images X (32, 32, 3, N) and labels y (N, 1)."""

from __future__ import annotations

import numpy as np

from flaxvision.data.matlab import TooLargeError, read_arrays
from flaxvision.data.raw import PACKED, SMALL, allowed, check_unpacked
from flaxvision.errors import UserError


def parse_svhn(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels (N,) of one file, in which the label of a zero is 10.

    Raises:
        UserError: For a file of another kind, or one that unpacks to more than it may.
    """
    most = max(PACKED * len(content), SMALL)
    try:
        found = read_arrays(content, ("X", "y"), allowed(most))
    except TooLargeError:
        check_unpacked(allowed(most) + 1, most, where)
        raise
    except ValueError as error:
        raise UserError(f"{where} is not a MATLAB file of X and y ({error})") from error
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        raise UserError(f"{where} is not a MATLAB file of X and y (there is no {missing[0]})")
    images, labels = found["X"], found["y"].ravel()
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where} holds X of {images.dtype} {images.shape} and y of {labels.dtype}: "
            "the published file has images uint8 (32, 32, 3, N) and whole numbers"
        )
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10
