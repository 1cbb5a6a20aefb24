"""Confusion matrices as their entries that are not zero: never more of them than examples, however many classes."""

from __future__ import annotations

import numpy as np


def confusion_pairs(matrix: np.ndarray) -> np.ndarray:
    """The entries of a matrix (C, C; rows true, columns predicted) that are not zero, row by row.

    Returns:
        int32 (pairs, 3): true class, predicted class, how many examples.

    >>> confusion_pairs(np.array([[5, 2], [0, 7]])).tolist()
    [[0, 0, 5], [0, 1, 2], [1, 1, 7]]
    """
    true, predicted = np.nonzero(matrix)
    return np.stack([true, predicted, matrix[true, predicted]], axis=1).astype(np.int32)


def confusion_matrix(pairs: np.ndarray, classes: int) -> np.ndarray:
    """The matrix, int64 (classes, classes; rows true, columns predicted), of what `confusion_pairs` gave."""
    matrix = np.zeros((classes, classes), np.int64)
    matrix[pairs[:, 0], pairs[:, 1]] = pairs[:, 2]
    return matrix


def as_pairs(arrays: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
    """A history's arrays with the pairs of the selected `epoch` in place of a matrix for every epoch.

    So were they written before: (epochs, C, C) of every split.
    """
    kept = {name: rows for name, rows in arrays.items() if not name.endswith("_confusion")}
    for split in ("val", "test"):
        matrices = arrays.get(f"{split}_confusion")
        if matrices is not None and len(matrices) >= epoch:
            kept[f"{split}_pairs"] = confusion_pairs(matrices[epoch - 1])
    return kept
