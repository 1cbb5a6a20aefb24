"""Convolutions written out in NumPy, which compiles nothing."""

from __future__ import annotations

import numpy as np

from flaxvision.ops.windows import Window


def convolution(x: np.ndarray, w: np.ndarray, g: np.ndarray, window: Window) -> tuple[np.ndarray, ...]:
    """The convolution of `x` (N, H, W, I) with `w` (h, w, I, O), or depthwise with (h, w, 1, I), tap by tap; and the
    gradients by both of its inner product with `g`.
    """
    pads, (down, across) = window.pads, window.strides
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    y, by_padded, by_w = np.zeros_like(g), np.zeros_like(padded), np.zeros_like(w)
    for row, column in np.ndindex(w.shape[:2]):
        there = np.s_[:, row : row + down * g.shape[1] : down, column : column + across * g.shape[2] : across]
        taken, tap = padded[there], w[row, column]
        if w.shape[2] < x.shape[3]:
            y += taken * tap[0]
            by_padded[there] += g * tap[0]
            by_w[row, column, 0] = (taken * g).sum((0, 1, 2))
        else:
            y += taken @ tap
            by_padded[there] += g @ tap.T
            by_w[row, column] = np.tensordot(taken, g, ((0, 1, 2), (0, 1, 2)))
    (above, _), (left, _) = pads
    return y, by_padded[:, above : above + x.shape[1], left : left + x.shape[2]], by_w
