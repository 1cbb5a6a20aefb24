"""Pooling layers for NHWC maps, and a max-pool whose gradient is fast on a CPU and breaks ties as PyTorch does."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.errors import check_choice
from flaxvision.layers.patches import Pair, Window, add_slices, window_slices


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Maximum over windows of `x` (B, H, W, C), without padding: (B, (H - h) // s + 1, (W - w) // s + 1, C).

    Forward: maxima of strided slices. Gradient: to the first maximum of each window in row order, as in PyTorch.
    XLA's own gradient (select-and-scatter) takes some 30 times as long on a CPU.
    """
    slices = window_slices(x, Window((x.shape[1], x.shape[2]), window, strides))
    rows = [functools.reduce(jnp.maximum, row) for row in slices]
    return functools.reduce(jnp.maximum, rows)


def _max_pool_forward(x: jax.Array, window: Pair, strides: Pair) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = max_pool(x, window, strides)
    return y, (x, y)


def _max_pool_backward(
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
