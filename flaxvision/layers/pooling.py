"""Pooling layers, and their counterparts: upsampling and interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from flaxvision.errors import UserError
from flaxvision.layers.context import Context
from flaxvision.layers.kinds import Shape, as_map, light, no_tensors, non_empty, register
from flaxvision.ops.maps import Maps
from flaxvision.ops.pooling import max_pool, mean_pool
from flaxvision.ops.windows import Pads, Pair, pad_map

__all__ = ["AvgPool", "GlobalAvgPool", "GlobalMaxPool", "MaxPool", "Resize", "Upsample"]

Padding = str | int | Pair


def as_pair(value: int | Sequence[int]) -> Pair:
    """One number for both axes, or one for each."""
    if isinstance(value, int):
        return value, value
    height, width = map(int, value)
    return height, width


class _Pool(nnx.Module):
    def __init__(self, window: int | Pair, strides: int | Pair | None = None, padding: Padding = "VALID"):
        self.window = as_pair(window)
        self.strides = self.window if strides is None else as_pair(strides)
        self.padding = padding if isinstance(padding, (str, int)) else as_pair(padding)
        if isinstance(padding, str):
            if padding not in ("VALID", "SAME"):
                raise UserError(f"padding is {padding!r}: allowed are VALID, SAME, pixels")
        elif any(not 0 <= pad <= side // 2 for pad, side in zip(as_pair(padding), self.window, strict=True)):
            raise UserError(f"padding is {padding}: give pixels from 0 to half of the window {self.window}")

    def pads(self, sides: Sequence[int]) -> Pads:
        """((above, below), (left, right)) of a map with such sides."""
        if isinstance(self.padding, str):
            rows, columns = lax.padtype_to_pads(tuple(sides), self.window, self.strides, self.padding)
            return (int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1]))
        height, width = as_pair(self.padding)
        return (height, height), (width, width)


class MaxPool(_Pool):
    """Maximum over windows; padding is minus infinity.

    Args:
        window: Height and width of the window, or one number for both.
        strides: Step between windows; None for the window's own size.
        padding: "VALID", "SAME", or pixels on each side (of height and width), at most half of the window.

    >>> MaxPool(2)(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C), or any other with the map on axes 1 and 2."""
        pads = self.pads(x.shape[1:3])
        if any(map(any, pads)):
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
        return max_pool(x, self.window, self.strides)


class AvgPool(_Pool):
    """Mean over windows.

    Args:
        window: Height and width of the window, or one number for both.
        strides: Step between windows; None for the window's own size.
        padding: "VALID", "SAME", or pixels on each side (of height and width), at most half of the window.
        count_include_pad: Whether padding counts towards the mean, as zeros; PyTorch's default is that it does.

    >>> AvgPool(2)(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    def __init__(
        self,
        window: int | Pair,
        strides: int | Pair | None = None,
        padding: Padding = "VALID",
        count_include_pad: bool = False,
    ):
        super().__init__(window, strides, padding)
        self.count_include_pad = count_include_pad

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C), or any other with the map on axes 1 and 2."""
        rows, columns = pads = self.pads(x.shape[1:3])
        if not any(map(any, pads)):
            return mean_pool(x, self.window, self.strides)
        mean = mean_pool(pad_map(x, pads), self.window, self.strides)
        if self.count_include_pad:
            return mean
        shares = np.multiply.outer(self._counted(x.shape[1], rows, 0), self._counted(x.shape[2], columns, 1))
        return mean / jnp.asarray(shares[None, :, :, None], x.dtype)

    def _counted(self, side: int, pads: Pair, axis: int) -> np.ndarray:
        """Which share of each window along an axis is not padding."""
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones(side), pads), self.window[axis])
        return windows[:: self.strides[axis]].mean(axis=1)


class GlobalMaxPool(nnx.Module):
    """Maximum over the whole map, (B, H, W, C) to (B, 1, 1, C): PyTorch's AdaptiveMaxPool2d(1)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C), or any other with the map on axes 1 and 2."""
        return max_pool(x, (x.shape[1], x.shape[2]), (1, 1))


class GlobalAvgPool(nnx.Module):
    """Mean over the whole map, (B, H, W, C) to (B, 1, 1, C): PyTorch's AdaptiveAvgPool2d(1)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x` of shape (B, H, W, C), or any other with the map on axes 1 and 2."""
        return x.mean(axis=(1, 2), keepdims=True)


class Upsample(nnx.Module):
    """Every value repeated along height and width: PyTorch's nearest upsampling by whole numbers.

    Args:
        scale: How often, along height and width, or one number for both.

    >>> Upsample(2)(jnp.arange(2.0).reshape(1, 1, 2, 1)).squeeze().tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """

    def __init__(self, scale: int | Pair):
        self.scale = as_pair(scale)
        if min(self.scale) < 1:
            raise UserError(f"scale is {scale}: give whole numbers, 1 or more")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Repeat the values of `x` of shape (B, H, W, C), or any other with the map on axes 1 and 2."""
        (down, across), (before, height, width, after) = self.scale, x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (before, height, down, width, across, after))
        return x.reshape(before, height * down, width * across, after)


class Resize(nnx.Module):
    """Bilinear interpolation of the map to another size, without smoothing: PyTorch's `interpolate`.

    Args:
        size: Height and width to make, or one number for both.
        align_corners: Whether the middles of the corner pixels stay where they are, rather than the map's edges.

    >>> Resize((1, 4))(jnp.arange(2.0).reshape(1, 1, 2, 1)).squeeze().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """

    def __init__(self, size: int | Pair, align_corners: bool = False):
        self.size = as_pair(size)
        self.align_corners = align_corners
        if min(self.size) < 1:
            raise UserError(f"size is {size}: give pixels, 1 or more")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Interpolate `x` of shape (B, H, W, C), or any other with the map on axes 1 and 2."""
        rows, columns = (
            jnp.asarray(self._shares(side, new), x.dtype) for side, new in zip(x.shape[1:3], self.size, strict=True)
        )
        x = jnp.einsum("rh,ahwb->arwb", rows, x, precision="highest")
        return jnp.einsum("cw,arwb->arcb", columns, x, precision="highest")

    def _shares(self, side: int, new: int) -> np.ndarray:
        """What each pixel along an axis gives to each new one, (new, side)."""
        place, step = (0.0, (side - 1) / max(new - 1, 1)) if self.align_corners else (side / new / 2 - 0.5, side / new)
        at = np.clip(place + step * np.arange(new), 0, side - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(side)))


def _pooled_shape(layer: MaxPool | AvgPool, shapes: Sequence[Shape]) -> Shape:
    *sides, channels = as_map(shapes[0])
    axes = zip(sides, layer.pads(sides), layer.window, layer.strides, strict=True)
    pooled = [(side + low + high - k) // stride + 1 for side, (low, high), k, stride in axes]
    return non_empty(shapes[0], (*pooled, channels))


def _global_shape(layer: nnx.Module, shapes: Sequence[Shape]) -> Shape:
    return 1, 1, as_map(shapes[0])[2]


def _upsampled_shape(layer: Upsample, shapes: Sequence[Shape]) -> Shape:
    height, width, channels = as_map(shapes[0])
    return height * layer.scale[0], width * layer.scale[1], channels


def _resized_shape(layer: Resize, shapes: Sequence[Shape]) -> Shape:
    return *layer.size, as_map(shapes[0])[2]


def _apply(layer: Callable[[jax.Array], jax.Array], maps: Sequence[Maps], context: Context) -> Maps:
    x = maps[0].few_last(context.policy.batch_last_below)
    return x._replace(array=layer(x.array))  # the map lies on axes 1 and 2 in either layout


register(light(MaxPool, ("window", "strides", "padding"), _pooled_shape, _apply, no_tensors))
register(light(AvgPool, ("window", "strides", "padding"), _pooled_shape, _apply, no_tensors))
register(light(GlobalMaxPool, (), _global_shape, _apply, no_tensors))
register(light(GlobalAvgPool, (), _global_shape, _apply, no_tensors))
register(light(Upsample, ("scale",), _upsampled_shape, _apply, no_tensors))
register(light(Resize, ("size",), _resized_shape, _apply, no_tensors))
