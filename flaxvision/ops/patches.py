"""Patches of maps, and their adjoint: the linear maps of which fast convolutions are made.

An array (A, H, W, B) is a batch of maps, channels last (N, H, W, C) or batch last (C, H, W, N): all that counts here is
that the map lies on axes 1 and 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from flaxvision.ops.windows import Window, add_slices, adjoint_pair, pad_map


def _patches(x: jax.Array, settings: tuple[Window, int]) -> jax.Array:
    window, axis = settings
    x = pad_map(x, window.pads)
    for along in (1, 0):  # under each column of the window, then each row: h + w slices in place of h * w
        side = 1 + along + (axis == 0 and along == 0)
        reach, stride, count = (pair[along] for pair in (window.reach, window.strides, window.count))
        starts = range(0, reach, window.dilation[along])
        taps = [lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, side) for i in starts]
        x = jnp.stack(taps, axis)  # (..., w, ...), then (..., h, w, ...)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _from_patches(p: jax.Array, settings: tuple[Window, int]) -> jax.Array:
    window, axis = settings
    height, width = window.kernel
    taps = [lax.index_in_dim(p, i, axis, keepdims=False) for i in range(height * width)]
    return add_slices([taps[i * width : (i + 1) * width] for i in range(height)], window)


patches, from_patches = adjoint_pair(_patches, _from_patches)
patches.__doc__ = """What lies under each window of `x` (A, H, W, B): the taps, row by row, as a new axis.

The settings are (window, axis).
"""
from_patches.__doc__ = "The adjoint of `patches`: every value is added to where its patch came from, (A, H, W, B)."
