"""Where windows lie on maps: slices and patches, and their adjoints, of which convolutions and pools are made.

An array (A, H, W, B) is a batch of maps, channels last (N, H, W, C) or batch last (C, H, W, N): all that counts here is
that the map lies on axes 1 and 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

S = TypeVar("S", bound=Hashable)
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((above, below), (left, right)); zeros are added
FEW_CHANNELS = 32  # with fewer, the batch is the better axis to vectorize over, and is laid innermost
WHOLE_CHANNELS = 16  # fill a vector of the kernels in C++, for which the channels are innermost


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Where the windows of a convolution or pool lie on a map.

    >>> Window((28, 28), kernel=(5, 5), pads=((2, 2), (2, 2))).count
    (28, 28)
    """

    size: Pair  # (H, W) of the map, before padding
    kernel: Pair
    strides: Pair = (1, 1)
    pads: Pads = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)  # distance of a window's values on the map

    @property
    def reach(self) -> Pair:
        """How much of the map a window spans along each axis."""
        height, width = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return height, width

    @property
    def padded(self) -> Pair:
        """(H, W) with padding."""
        (height, width), ((above, below), (left, right)) = self.size, self.pads
        return height + above + below, width + left + right

    @property
    def count(self) -> Pair:
        """How many windows there are along each axis."""
        pairs = zip(self.padded, self.reach, self.strides, strict=True)
        height, width = ((side - reach) // stride + 1 for side, reach, stride in pairs)
        return height, width


def adjoint_pair(
    forward: Callable[[jax.Array, S], jax.Array], adjoint: Callable[[jax.Array, S], jax.Array]
) -> tuple[Callable[[jax.Array, S], jax.Array], Callable[[jax.Array, S], jax.Array]]:
    """Two linear functions of (array, static settings), each of which has the other as its derivative.

    Reverse-mode derivatives of any order follow. JAX would derive the adjoint of many overlapping slices as a sum of
    as many padded arrays, which on a CPU is several times slower than one overlap-add.
    """
    there, back = (jax.custom_vjp(function, nondiff_argnums=(1,)) for function in (forward, adjoint))
    there.defvjp(lambda x, settings: (there(x, settings), None), lambda settings, _, g: (back(g, settings),))
    back.defvjp(lambda y, settings: (back(y, settings), None), lambda settings, _, g: (there(g, settings),))
    return there, back


def pad_map(x: jax.Array, pads: Pads) -> jax.Array:
    """`x` with zeros around its maps; negative pads crop."""
    if not any(map(any, pads)):
        return x
    config = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def window_slices(x: jax.Array, window: Window) -> list[jax.Array]:
    """The strided slice of the padded `x` (A, H, W, B) under each tap of the window, row by row."""
    x = pad_map(x, window.pads)
    (height, width), (down, right), (rows, columns) = window.count, window.strides, window.dilation
    return [
        x[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * right + 1 : right]
        for i in range(0, window.reach[0], rows)
        for j in range(0, window.reach[1], columns)
    ]


def overlap_add(taps: list[jax.Array], axis: int, stride: int, length: int, dilation: int = 1) -> jax.Array:
    """Sum `taps` into an axis of `length`: element t of tap j lands on position j * dilation + stride * t.

    The adjoint of taking the strided slices `x[j : j + stride * (t - 1) + 1 : stride]` of every j * dilation.
    """
    if dilation > 1:
        nothing = jnp.zeros_like(taps[0])
        taps = [taps[j // dilation] if j % dilation == 0 else nothing for j in range((len(taps) - 1) * dilation + 1)]
    total = None
    for start in range(0, len(taps), stride):
        group = taps[start : start + stride]
        group += [jnp.zeros_like(group[0])] * (stride - len(group))
        block = group[0] if stride == 1 else jnp.stack(group, axis + 1)
        shape = list(taps[0].shape)
        shape[axis] *= stride
        padding = [(0, 0, 0)] * len(shape)
        padding[axis] = (start, length - start - shape[axis], 0)
        block = lax.pad(block.reshape(shape), jnp.zeros((), block.dtype), padding)
        total = block if total is None else total + block
    assert total is not None
    return total


def add_slices(taps: list[jax.Array], window: Window) -> jax.Array:
    """The adjoint of `window_slices`: (A, H, W, B)."""
    (height, width), wide = window.padded, window.kernel[1]
    rows = [
        overlap_add(taps[i : i + wide], 2, window.strides[1], width, window.dilation[1])
        for i in range(0, len(taps), wide)
    ]
    padded = overlap_add(rows, 1, window.strides[0], height, window.dilation[0])
    (above, below), (left, right) = window.pads
    return pad_map(padded, ((-above, -below), (-left, -right)))


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
    return add_slices([lax.index_in_dim(p, i, axis, keepdims=False) for i in range(p.shape[axis])], window)


patches, from_patches = adjoint_pair(_patches, _from_patches)
patches.__doc__ = """What lies under each window of `x` (A, H, W, B): the taps, row by row, as a new axis.

The settings are (window, axis).
"""
from_patches.__doc__ = "The adjoint of `patches`: every value is added to where its patch came from, (A, H, W, B)."
