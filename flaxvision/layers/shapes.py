"""Layers that only move or re-express values: Flatten, and the polar transform of report C1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.layers.context import Context
from flaxvision.layers.kinds import MisfitError, Shape, light, no_tensors, register
from flaxvision.ops.maps import Maps, flattened

__all__ = ["Flatten", "PolarTransform"]


class Flatten(nnx.Module):
    """(B, H, W, C) to (B, C * H * W), in PyTorch's order: channel, row, column.

    With it no exporter permutes a weight, whatever follows. With the batch last, (C, H, W, B), it costs nothing.

    Args:
        channels_last: Whether the order is row, column, channel instead, as in Keras.

    >>> Flatten()(jnp.arange(4.0).reshape(1, 1, 2, 2)).tolist()  # channel 0, then channel 1
    [[0.0, 2.0, 1.0, 3.0]]
    """

    def __init__(self, channels_last: bool = False):
        self.channels_last = channels_last

    def __call__(self, x: jax.Array) -> jax.Array:
        """Flatten all axes of `x` but the first; what is not a map keeps its order."""
        if x.ndim == 4 and not self.channels_last:
            x = x.transpose(0, 3, 1, 2)
        return x.reshape(x.shape[0], -1)


class PolarTransform(nnx.Module):
    """Cartesian points (x, y) to polar ones (r, phi), phi = atan2(y, x) in (-pi, pi]; report C1."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Transform `x` of shape (B, 2)."""
        return jnp.stack([jnp.hypot(x[:, 0], x[:, 1]), jnp.arctan2(x[:, 1], x[:, 0])], axis=1)


def _flatten(layer: Flatten, maps: Sequence[Maps], context: Context) -> Maps:
    if layer.channels_last or maps[0].array.ndim != 4:
        return Maps(layer(maps[0].first()))
    return flattened(maps[0])


def _polar_shape(layer: PolarTransform, shapes: Sequence[Shape]) -> Shape:
    if shapes[0] != (2,):
        raise MisfitError(f"takes points of shape (2,), not {shapes[0]}: use a data set of 2-D points")
    return shapes[0]


def _polar(layer: PolarTransform, maps: Sequence[Maps], context: Context) -> Maps:
    return Maps(layer(maps[0].first()))


register(light(Flatten, (), lambda layer, shapes: (math.prod(shapes[0]),), _flatten, no_tensors))
register(light(PolarTransform, (), _polar_shape, _polar, no_tensors))
