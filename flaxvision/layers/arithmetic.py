"""Layers that take several values, and the constant scale and shift."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers.context import Context
from flaxvision.layers.kinds import MapsLayer, MisfitError, Shape, light, no_tensors, on_maps, one_or_each, register
from flaxvision.ops.maps import Maps, alike

__all__ = ["Add", "Affine", "Concat", "Divide", "Multiply", "Subtract"]


class Add(nnx.Module):
    """The sum of two or more values; an axis of size 1 is broadcast."""

    def __call__(self, *values: jax.Array) -> jax.Array:
        """Add `values`, shapes (B, ...) of one number of axes."""
        return functools.reduce(operator.add, values)


class Subtract(nnx.Module):
    """The first value less the second; an axis of size 1 is broadcast."""

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Subtract `b` from `a`, shapes (B, ...) of one number of axes."""
        return a - b


class Divide(nnx.Module):
    """The first value by the second; an axis of size 1 is broadcast."""

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Divide `a` by `b`, shapes (B, ...) of one number of axes."""
        return a / b


class Multiply(nnx.Module):
    """The product of two or more values; an axis of size 1 is broadcast, so that (B, 1, 1, C) gates (B, H, W, C).

    >>> Multiply()(jnp.ones((1, 2, 2, 3)), jnp.full((1, 1, 1, 3), 0.5)).shape
    (1, 2, 2, 3)
    """

    def __call__(self, *values: jax.Array) -> jax.Array:
        """Multiply `values`, shapes (B, ...) of one number of axes."""
        return functools.reduce(operator.mul, values)


class Concat(nnx.Module):
    """The channels, or features, of two or more values one after the other.

    >>> Concat()(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 5))).shape
    (1, 2, 2, 8)
    """

    def __call__(self, *values: jax.Array) -> jax.Array:
        """Concatenate `values`, shapes (B, ..., C) that differ in C only, along their last axis."""
        return jnp.concatenate(values, -1)


class Affine(MapsLayer):
    """A constant scale and shift, `scale * x + shift`: one number each, or one a channel. Nothing learns.

    Args:
        scale: A number, or a sequence of one a channel.
        shift: A number, or a sequence of one a channel.

    >>> Affine(2.0, (0.0, 1.0))(jnp.ones((1, 2))).tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, scale: float | Sequence[float] = 1.0, shift: float | Sequence[float] = 0.0):
        self.scale = _constant("scale", scale)
        self.shift = _constant("shift", shift)

    def on(self, maps: Maps) -> Maps:
        """Scale and shift maps in any layout."""
        scale, shift = (
            maps.along_features(jnp.asarray(np.atleast_1d(value), maps.array.dtype))
            for value in (self.scale, self.shift)
        )
        return maps._replace(array=maps.array * scale + shift)


def _constant(name: str, value: float | Sequence[float]) -> float | tuple[float, ...]:
    array = np.asarray(value, np.float64)
    if array.ndim > 1 or not array.size or not np.isfinite(array).all():
        raise UserError(f"{name} is {value!r}: give a number, or a sequence of one a channel")
    return array.item() if array.ndim == 0 else tuple(array.tolist())


def broadcast(layer: nnx.Module, shapes: Sequence[Shape]) -> Shape:
    """The shape of what is computed of values of `shapes`, of which an axis of 1 goes with any."""
    listed = " and ".join(map(str, shapes))
    if len({len(shape) for shape in shapes}) > 1:
        raise MisfitError(f"takes values of one number of axes, not {listed}: flatten the map, or pool to 1 x 1")
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise MisfitError(f"takes values of one shape, or of 1 along an axis, not {listed}") from error


def _concatenated(layer: Concat, shapes: Sequence[Shape]) -> Shape:
    if len({shape[:-1] for shape in shapes}) > 1:
        listed = " and ".join(map(str, shapes))
        raise MisfitError(f"takes maps that differ in channels only, not {listed}: pool or pad them to one height")
    return *shapes[0][:-1], sum(shape[-1] for shape in shapes)


def _together(layer: Callable[..., jax.Array], maps: Sequence[Maps], context: Context) -> Maps:
    same = alike(*maps)
    return same[0]._replace(array=layer(*(each.array for each in same)))


def _concat(layer: Concat, maps: Sequence[Maps], context: Context) -> Maps:
    same = alike(*maps)
    return same[0]._replace(array=jnp.concatenate([each.array for each in same], same[0].features))


def _affine_shape(layer: Affine, shapes: Sequence[Shape]) -> Shape:
    for name, value in (("scale", layer.scale), ("shift", layer.shift)):
        one_or_each(len(value) if isinstance(value, tuple) else 1, f"numbers of {name}", shapes[0])
    return shapes[0]


register(light(Add, (), broadcast, _together, no_tensors, inputs=None))
register(light(Subtract, (), broadcast, _together, no_tensors, inputs=2))
register(light(Divide, (), broadcast, _together, no_tensors, inputs=2))
register(light(Multiply, (), broadcast, _together, no_tensors, inputs=None))
register(light(Concat, (), _concatenated, _concat, no_tensors, inputs=None))
register(light(Affine, ("scale", "shift"), _affine_shape, on_maps, no_tensors))
