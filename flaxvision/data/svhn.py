"""SVHN, cropped digits (Netzer et al., 2011): MATLAB files of images X (32, 32, 3, N) and labels y (N, 1)."""

from __future__ import annotations

import io

import numpy as np

from flaxvision.errors import UserError


def parse_svhn(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels (N,) of one file, in which the label of a zero is 10.

    Raises:
        UserError: For a file of another kind.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
        images, labels = found["X"], found["y"].ravel()
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{where} is not a MATLAB file of X and y ({error or type(error).__name__})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where} holds X of {images.dtype} {images.shape} and y of {labels.dtype}: "
            "the published file has images uint8 (32, 32, 3, N) and whole numbers"
        )
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10
