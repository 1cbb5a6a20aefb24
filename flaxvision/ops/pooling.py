"""Pools of maps by windows of any size: fast on a CPU, with maxima that break ties as PyTorch does.

A pool takes one of three forms. Windows of few values are compared (or added) value by value, in one pass over memory;
a maximum keeps the number of the value that it took, so that its gradient is one pass too. Of windows that do not
overlap, rows are reduced first, which lie in memory as long vectors. What is left is pooled along columns, then along
rows: there windows are made of windows half as wide, so that one of 112 takes seven passes. XLA's own pools take one
for every value of a window, and its gradient of maxima (select-and-scatter) 30 times as long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxvision.ops.windows import Pair, Window, adjoint_pair, window_slices

Numbered = tuple[jax.Array, jax.Array]  # values, and of each a number: its place
FEW_VALUES = 12  # of a window, on the map or along an axis, that are compared value by value: the fastest up to here
NONE, OUTSIDE = 255, 254  # numbers that no value of such a window has: nothing was taken, the place is outside


def max_pool(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Maximum over windows of `x` (B, H, W, C), without padding: (B, (H - h) // s + 1, (W - w) // s + 1, C).

    The gradient goes to the first maximum of each window in row order, as in PyTorch: the first maximum of a row, and
    the first row that has it.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), (2, 2)).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    return _pool(x, window, strides, _Forms(_max_of_few, _max_of_blocks, _max_of_segments, _sliding_max))


def mean_pool(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Mean over windows of `x` (B, H, W, C), without padding: (B, (H - h) // s + 1, (W - w) // s + 1, C)."""
    forms = _Forms(_sum_of_few, _sum_of_blocks, _sum_of_segments, _sliding_sum)
    return _pool(x, window, strides, forms) / math.prod(window)


class _Forms(NamedTuple):
    """The forms of a pool; those along an axis take (x, axis, length, stride)."""

    few: Callable[[jax.Array, Window], jax.Array]  # of windows of few values
    blocks: Callable[[jax.Array, Window], jax.Array]  # of windows that do not overlap
    segments: Callable[[jax.Array, int, int, int], jax.Array]  # along an axis, of such windows
    sliding: Callable[[jax.Array, int, int, int], jax.Array]  # along an axis, of others


def _pool(x: jax.Array, kernel: Pair, strides: Pair, forms: _Forms) -> jax.Array:
    """A pool of axes 1 and 2, in the form that is fastest for its window."""
    sides = zip(x.shape[1:3], kernel, strides, strict=True)
    down, right = (max(k, s) if side - k < s else s for side, k, s in sides)  # of one window, whatever it is
    window = Window((x.shape[1], x.shape[2]), kernel, (down, right))
    rows, columns = (kernel[0], down), (kernel[1], right)
    if math.prod(kernel) <= FEW_VALUES:
        return forms.few(x, window)
    if columns == (1, 1):
        return _along(x, 1, *rows, forms)
    if rows == (1, 1):
        return _along(x, 2, *columns, forms)
    if not _overlap(window):
        return forms.blocks(x, window)
    x = _pool(x, (1, kernel[1]), (1, right), forms)
    return _pool(x, (kernel[0], 1), (down, 1), forms)


def _overlap(window: Window) -> bool:
    return any(k > s for k, s in zip(window.kernel, window.strides, strict=True))


# Windows of few values.


def _given_back(g: jax.Array, window: Window, taken: jax.Array | None = None) -> jax.Array:
    """The sum over the windows above each place of the map of what they give back, `g`: (B, H, W, C).

    With `taken`, a window gives to the value of that number only. Places are counted within strides, so that all those
    that lie equally within one see the same windows: as many as there are strides within a window.
    """
    (height, width), (down, right) = window.size, window.strides
    above, left = ((k - 1) // s for k, s in zip(window.kernel, window.strides, strict=True))  # strides back, at most
    rows, columns = -(-height // down), -(-width // right)  # strides of the map
    shape = (g.shape[0], rows, down, columns, right, g.shape[3])
    config = [(0, 0, 0), (above, rows - g.shape[1], 0), (left, columns - g.shape[2], 0), (0, 0, 0)]
    nothing = jnp.zeros(shape, g.dtype)

    def windows(array: jax.Array, i: int, j: int) -> jax.Array:
        """Of each stride, the window that begins i and j strides before."""
        array = array[:, above - i : above - i + rows, left - j : left - j + columns]
        return lax.broadcast_in_dim(array, shape, (0, 1, 3, 5))

    g = lax.pad(g, jnp.zeros((), g.dtype), config)
    taken = None if taken is None else lax.pad(taken, jnp.full((), NONE, taken.dtype), config)
    total = None
    for i in range(above + 1):
        for j in range(left + 1):
            number = _numbers(window, i, j)
            given = windows(g, i, j)
            if taken is not None:
                given = lax.select(windows(taken, i, j) == number.astype(taken.dtype), given, nothing)
            elif OUTSIDE in number:
                given = lax.select(jnp.broadcast_to(number != OUTSIDE, shape), given, nothing)
            total = given if total is None else total + given
    assert total is not None
    return total.reshape(g.shape[0], rows * down, columns * right, g.shape[3])[:, :height, :width]


def _numbers(window: Window, i: int, j: int) -> np.ndarray:
    """The number in its window of each value of a stride, where the window begins i and j strides before."""
    row, column = (np.arange(s) + s * n for s, n in zip(window.strides, (i, j), strict=True))
    inside = np.logical_and.outer(row < window.kernel[0], column < window.kernel[1])
    numbers = np.where(inside, np.add.outer(row * window.kernel[1], column), OUTSIDE).astype(np.uint8)
    return numbers[None, None, :, None, :, None]  # of places (B, stride, row, stride, column, C)


_sum_of_few, _ = adjoint_pair(lambda x, window: functools.reduce(jnp.add, window_slices(x, window)), _given_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_few(x: jax.Array, window: Window) -> jax.Array:
    return functools.reduce(jnp.maximum, window_slices(x, window))


def _max_of_few_forward(x: jax.Array, window: Window) -> Numbered:
    values = window_slices(x, window)
    if _overlap(window):
        return _first_of(values, list(range(len(values))), np.uint8)
    # XLA would find the number again for every place of its window, but takes no root twice.
    y, square = _first_of(values, [n * n for n in range(len(values))], np.float32)
    return y, lax.round(lax.sqrt(square))


def _first_of(values: list[jax.Array], numbers: list[int], kind: type) -> Numbered:
    """The maximum of `values`, and the number of the first that has it.

    Which value equals the maximum may not be asked: XLA may compute what it is given twice, and round differently.
    """
    y, found = values[0], jnp.full(values[0].shape, numbers[0], kind)
    for value, number in zip(values[1:], numbers[1:], strict=True):
        found = lax.select(value > y, jnp.full(value.shape, number, kind), found)
        y = jnp.maximum(y, value)
    return y, found


_max_of_few.defvjp(_max_of_few_forward, lambda window, taken, g: (_given_back(g, window, taken),))


# Windows that do not overlap.


def _blocks(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """What each window holds, on a new axis after `axis`: a window begins every `stride` values."""
    count = (x.shape[axis] - length) // stride + 1
    x = _fitted(x, axis, count * stride)  # without what is left over, or with the last stride filled
    x = x.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
    return lax.slice_in_dim(x, 0, length, axis=axis + 1)


def _fitted(x: jax.Array, axis: int, length: int) -> jax.Array:
    """`x` with an axis of `length`: cropped, or filled with zeros."""
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (0, length - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _rows(x: jax.Array, window: Window) -> jax.Array:
    """The rows of each window's band: (B, bands, h, W * C)."""
    return _blocks(x.reshape(*x.shape[:2], -1), 1, window.kernel[0], window.strides[0])


def _columns(bands: jax.Array, window: Window) -> jax.Array:
    """The columns of each window, of bands (B, bands, W * C): (B, bands, windows, w, C)."""
    return _blocks(bands.reshape(*bands.shape[:2], window.size[1], -1), 2, window.kernel[1], window.strides[1])


def _sum_of_blocks(x: jax.Array, window: Window) -> jax.Array:
    return _columns(_rows(x, window).sum(2), window).sum(3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_blocks(x: jax.Array, window: Window) -> jax.Array:
    return _columns(_rows(x, window).max(2), window).max(3)


def _max_of_blocks_forward(x: jax.Array, window: Window) -> Numbered:
    rows, width = _rows(x, window), window.kernel[1]
    high, row = _first_largest(rows, lax.broadcasted_iota(np.int32, rows.shape, 2), 2)
    columns, row = _columns(high, window), _columns(row, window)
    return _first_largest(columns, row * width + lax.broadcasted_iota(np.int32, row.shape, 3), 3)


def _first_largest(x: jax.Array, number: jax.Array, axis: int) -> Numbered:
    """Along an axis, the maximum and its number; of several maxima the smallest. One reduction gives both."""

    def larger(a: Numbered, b: Numbered) -> Numbered:
        second = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        return lax.max(a[0], b[0]), lax.select(second, b[1], a[1])

    y, first = lax.reduce((x, number), (np.array(-np.inf, x.dtype), np.int32(2**31 - 1)), larger, (axis,))
    return y, first


def _max_of_blocks_backward(window: Window, taken: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    (height, width), (down, right) = window.size, window.strides
    batch, bands, count, channels = g.shape
    row, column = taken // window.kernel[1], taken % window.kernel[1]

    def widened(values: jax.Array) -> jax.Array:
        """`values` of windows, at each of their columns: (B, bands, 1, W * C)."""
        values = _fitted(values.reshape(batch, bands, count * right, channels), 2, width)
        return values.reshape(batch, bands, 1, width * channels)

    shape = (batch, bands, count, right, channels)
    here = column[:, :, :, None] == lax.broadcasted_iota(np.int32, shape, 3)
    row = widened(jnp.where(here, row[:, :, :, None], down))
    g = widened(jnp.broadcast_to(g[:, :, :, None], shape))
    here = row == lax.broadcasted_iota(np.int32, (batch, bands, down, width * channels), 2)
    dx = jnp.where(here, g, jnp.zeros((), g.dtype)).reshape(batch, bands * down, width, channels)
    return (_fitted(dx, 1, height),)


_max_of_blocks.defvjp(_max_of_blocks_forward, _max_of_blocks_backward)


# Windows along an axis: blocks of the greatest length that divides them, over which they slide.


def _along(x: jax.Array, axis: int, length: int, stride: int, forms: _Forms) -> jax.Array:
    if stride >= length:
        return forms.segments(x, axis, length, stride)
    common = math.gcd(length, stride)
    x = forms.segments(x, axis, common, common) if common > 1 else x
    return forms.sliding(x, axis, length // common, stride // common)


def _sum_of_segments(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    return _blocks(x, axis, length, stride).sum(axis + 1)


def _max_of_segments(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    return _max_along(_blocks(x, axis, length, stride), axis + 1, length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_along(x: jax.Array, axis: int, length: int) -> jax.Array:
    return x.max(axis)


def _max_along_forward(x: jax.Array, axis: int, length: int) -> Numbered:
    return _first_largest(x, lax.broadcasted_iota(np.int32, x.shape, axis), axis)


def _max_along_backward(axis: int, length: int, first: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    shape = (*g.shape[:axis], length, *g.shape[axis:])
    here = jnp.expand_dims(first, axis) == lax.broadcasted_iota(np.int32, shape, axis)
    return (jnp.where(here, jnp.expand_dims(g, axis), jnp.zeros((), g.dtype)),)


_max_along.defvjp(_max_along_forward, _max_along_backward)


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
