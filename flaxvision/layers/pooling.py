"""Pooling layers for NHWC maps, of windows of any size: fast on a CPU, with maxima that break ties as PyTorch does.

A pool of a map is a pool along its columns, then along its rows. Along one axis, windows that do not overlap are a
reduction of blocks; overlapping ones are made of windows half as wide, so that a window of 112 takes seven passes.
XLA's own pools take one for every value of a window, and its gradient of maxima (select-and-scatter) 30 times as long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from flaxvision.errors import check_choice
from flaxvision.layers.patches import Pair, Window, add_slices, pad_map, window_slices

TAPS = 4  # windows of so few values, on the map or along an axis, are compared value by value: the fastest then


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def max_pool(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Maximum over windows of `x` (B, H, W, C), without padding: (B, (H - h) // s + 1, (W - w) // s + 1, C).

    The gradient goes to the first maximum of each window in row order, as in PyTorch: the first maximum of a row, and
    the first row that has it.
    """
    if math.prod(window) <= TAPS:
        return _max_of_taps(x, window, strides)
    return _pool(x, window, strides, _max_along)


def mean_pool(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Mean over windows of `x` (B, H, W, C), without padding: (B, (H - h) // s + 1, (W - w) // s + 1, C)."""
    return _pool(x, window, strides, _sum_along) / math.prod(window)


Along = Callable[[jax.Array, int, int, int], jax.Array]  # (maps, axis, length of a window, stride) -> pooled


def _pool(x: jax.Array, window: Pair, strides: Pair, along: Along) -> jax.Array:
    """A pool of axes 1 and 2, columns first; of the whole map as of one axis."""
    if window == x.shape[1:3]:
        values = math.prod(window)
        return along(x.reshape(x.shape[0], values, 1, x.shape[3]), 1, values, values)
    for axis in (2, 1):
        x = along(x, axis, window[axis - 1], strides[axis - 1])
    return x


def _max_along(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    if length <= TAPS:
        window, strides = ((length, 1), (stride, 1)) if axis == 1 else ((1, length), (1, stride))
        return _max_of_taps(x, window, strides)
    if stride >= length:
        return _max_of_blocks(x, axis, length, stride)
    common = math.gcd(length, stride)  # a window is whole blocks of so many values
    x = _max_of_blocks(x, axis, common, common) if common > 1 else x
    return _sliding_max(x, axis, length // common, stride // common)


def _sum_along(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    if stride >= length:
        return _blocks(x, axis, length, stride).sum(axis + 1)
    common = math.gcd(length, stride)
    x = _blocks(x, axis, common, common).sum(axis + 1) if common > 1 else x
    return _sliding_sum(x, axis, length // common, stride // common)


# Windows that do not overlap.


def _blocks(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """What each window holds, on a new axis after `axis`: a window begins every `stride` values."""
    count = (x.shape[axis] - length) // stride + 1
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (0, count * stride - x.shape[axis], 0)  # crops what is left over, fills the last stride
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
    return lax.slice_in_dim(x, 0, length, axis=axis + 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_of_blocks(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    return _blocks(x, axis, length, stride).max(axis + 1)


def _max_of_blocks_forward(
    x: jax.Array, axis: int, length: int, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_of_blocks(x, axis, length, stride)
    return y, (x, y)


def _max_of_blocks_backward(
    axis: int, length: int, stride: int, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array]:
    x, y = saved
    blocks, back = jax.vjp(functools.partial(_blocks, axis=axis, length=length, stride=stride), x)
    place = lax.broadcasted_iota(jnp.int32, blocks.shape, axis + 1)
    maximal = blocks == jnp.expand_dims(y, axis + 1)
    first = jnp.where(maximal, place, length).min(axis + 1, keepdims=True)
    return back(jnp.where(place == first, jnp.expand_dims(g, axis + 1), jnp.zeros((), g.dtype)))


_max_of_blocks.defvjp(_max_of_blocks_forward, _max_of_blocks_backward)


# Windows that overlap.


@jax.custom_vjp
def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.maximum(a, b)


def _larger_backward(first: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    zero = jnp.zeros((), g.dtype)
    return jnp.where(first, g, zero), jnp.where(first, zero, g)


_larger.defvjp(lambda a, b: (jnp.maximum(a, b), a >= b), _larger_backward)


def _shifted(x: jax.Array, axis: int, shift: int) -> tuple[jax.Array, jax.Array]:
    """The values that have another one `shift` places on, and those."""
    length = x.shape[axis]
    return lax.slice_in_dim(x, 0, length - shift, axis=axis), lax.slice_in_dim(x, shift, length, axis=axis)


def _sliding_max(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """Maxima over windows of twice the width, as often as that fits, and two that cover `length` together."""
    width = 1
    while 2 * width <= length:
        x, width = _larger(*_shifted(x, axis, width)), 2 * width
    if width < length:
        x = _larger(*_shifted(x, axis, length - width))
    return lax.slice_in_dim(x, 0, x.shape[axis], stride, axis)


def _sliding_sum(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """Sums over windows of 1, 2, 4, … values, of which those that make up `length` are added."""
    count = (x.shape[axis] - length) // stride + 1
    parts: list[jax.Array] = []
    start, width = 0, 1
    while start < length:
        if length & width:
            parts.append(lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis))
            start += width
        if start < length:
            x, width = jnp.add(*_shifted(x, axis, width)), 2 * width
    return functools.reduce(jnp.add, parts)


# Small windows.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_of_taps(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """The largest of strided slices."""
    slices = window_slices(x, Window((x.shape[1], x.shape[2]), window, strides))
    rows = [functools.reduce(jnp.maximum, row) for row in slices]
    return functools.reduce(jnp.maximum, rows)


def _max_of_taps_forward(x: jax.Array, window: Pair, strides: Pair) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_of_taps(x, window, strides)
    return y, (x, y)


def _max_of_taps_backward(
    window: Pair, strides: Pair, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array]:
    x, y = saved
    windows = Window((x.shape[1], x.shape[2]), window, strides)
    taken = jnp.zeros(y.shape, bool)
    taps: list[list[jax.Array]] = []
    for row in window_slices(x, windows):
        taps.append([])
        for values in row:
            first = (values == y) & ~taken
            taken = taken | first
            taps[-1].append(jnp.where(first, g, jnp.zeros((), g.dtype)))
    return (add_slices(taps, windows),)


_max_of_taps.defvjp(_max_of_taps_forward, _max_of_taps_backward)


class _Pool(nnx.Module):
    def __init__(self, window: int | Pair, strides: int | Pair | None = None, padding: str = "VALID"):
        check_choice("padding", padding, ("VALID", "SAME"))
        self.window = _pair(window)
        self.strides = self.window if strides is None else _pair(strides)
        self.padding = padding


class MaxPool(_Pool):
    """Maximum over windows; `strides` defaults to the window; "SAME" pads with minus infinity.

    Args:
        window: Height and width of the window, or one number for both.
        strides: Step between windows; None for the window's own size.
        padding: "VALID" or "SAME".
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C)."""
        if self.padding == "SAME":
            pads = lax.padtype_to_pads(x.shape[1:3], self.window, self.strides, "SAME")
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
        return max_pool(x, self.window, self.strides)


class AvgPool(_Pool):
    """Mean over windows; "SAME" padding does not count towards the mean.

    Args:
        window: Height and width of the window, or one number for both.
        strides: Step between windows; None for the window's own size.
        padding: "VALID" or "SAME".
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C)."""
        if self.padding == "VALID":
            return mean_pool(x, self.window, self.strides)
        rows, columns = lax.padtype_to_pads(x.shape[1:3], self.window, self.strides, "SAME")
        mean = mean_pool(pad_map(x, (rows, columns)), self.window, self.strides)
        shares = np.multiply.outer(self._counted(x.shape[1], rows, 0), self._counted(x.shape[2], columns, 1))
        return mean / jnp.asarray(shares[None, :, :, None], x.dtype)

    def _counted(self, side: int, pads: Pair, axis: int) -> np.ndarray:
        """Which share of each window along an axis is no padding."""
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones(side), pads), self.window[axis])
        return windows[:: self.strides[axis]].mean(axis=1)


class GlobalMaxPool(nnx.Module):
    """Maximum over the whole map, (B, H, W, C) to (B, 1, 1, C): PyTorch's AdaptiveMaxPool2d(1)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C)."""
        return max_pool(x, (x.shape[1], x.shape[2]), (1, 1))


class GlobalAvgPool(nnx.Module):
    """Mean over the whole map, (B, H, W, C) to (B, 1, 1, C): PyTorch's AdaptiveAvgPool2d(1)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C)."""
        return x.mean(axis=(1, 2), keepdims=True)
