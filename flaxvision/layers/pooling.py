"""Pooling layers for NHWC maps, and a max-pool whose gradient is fast on a CPU and breaks ties as PyTorch does."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.errors import check_choice

Pair = tuple[int, int]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def overlap_add(taps: list[jax.Array], axis: int, stride: int, length: int) -> jax.Array:
    """Sum `taps` into an axis of `length`: element t of tap j lands on position j + stride * t.

    The adjoint of taking the strided slices `x[j : j + stride * (t - 1) + 1 : stride]`.
    """
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


def _window_slices(x: jax.Array, window: Pair, strides: Pair) -> list[list[jax.Array]]:
    """The strided slice of `x` (B, H, W, C) under each tap of the window, row by row."""
    height, width = ((size - w) // s + 1 for size, w, s in zip(x.shape[1:3], window, strides, strict=True))
    return [
        [
            x[:, i : i + (height - 1) * strides[0] + 1 : strides[0], j : j + (width - 1) * strides[1] + 1 : strides[1]]
            for j in range(window[1])
        ]
        for i in range(window[0])
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Maximum over windows of `x` (B, H, W, C), without padding: (B, (H - h) // s + 1, (W - w) // s + 1, C).

    Forward: maxima of strided slices. Gradient: to the first maximum of each window in row order, as in PyTorch.
    XLA's own gradient (select-and-scatter) takes some 30 times as long on a CPU.
    """
    rows = [functools.reduce(jnp.maximum, row) for row in _window_slices(x, window, strides)]
    return functools.reduce(jnp.maximum, rows)


def _max_pool_forward(x: jax.Array, window: Pair, strides: Pair) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = max_pool(x, window, strides)
    return y, (x, y)


def _max_pool_backward(
    window: Pair, strides: Pair, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array]:
    x, y = saved
    taken = jnp.zeros(y.shape, bool)
    rows = []
    for row in _window_slices(x, window, strides):
        taps = []
        for values in row:
            first = (values == y) & ~taken
            taken = taken | first
            taps.append(jnp.where(first, g, jnp.zeros((), g.dtype)))
        rows.append(overlap_add(taps, 2, strides[1], x.shape[2]))
    return (overlap_add(rows, 1, strides[0], x.shape[1]),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


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
        return nnx.avg_pool(
            x, window_shape=self.window, strides=self.strides, padding=self.padding, count_include_pad=False
        )


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
