"""Tensors that are no layer's in PyTorch: parameters of a block itself, and what a network only carries along."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from flaxvision.errors import check_choice
from flaxvision.layers.kinds import MapsLayer, MisfitError, Shape, Tensor, light, on_maps, one_or_each, register
from flaxvision.ops.arrays import filled
from flaxvision.ops.maps import Maps

__all__ = ["Carried", "Scale"]

OPERATIONS = {"multiply": jnp.multiply, "add": jnp.add}


class Scale(MapsLayer):
    """Numbers that learn, one or one a channel, by which values are multiplied or which are added to them.

    Args:
        size: How many numbers: 1, or as many as there are channels.
        operation: "multiply" or "add".

    Reference: Touvron et al., "Going deeper with Image Transformers", ICCV 2021 (LayerScale).

    >>> Scale(2, "add")(jnp.ones((1, 2))).tolist()  # of zeros at first
    [[1.0, 1.0]]
    """

    def __init__(self, size: int, operation: str = "multiply"):
        check_choice("operation", operation, OPERATIONS)
        self.size = size
        self.operation = operation
        self.weight = nnx.Param(filled(size, float(operation == "multiply")))

    def on(self, maps: Maps) -> Maps:
        """Scale or shift maps in either layout."""
        numbers = maps.along_features(self.weight[...].astype(maps.array.dtype))
        return maps._replace(array=OPERATIONS[self.operation](maps.array, numbers))


class Fixed(nnx.Variable):
    """Numbers that no step changes."""


class Carried(nnx.Module):
    """A tensor of the network that this one came from, which it does not use and gives back as it was.

    Args:
        shape: The tensor's.
        dtype: Its type.
    """

    def __init__(self, shape: Sequence[int], dtype: str = "float32"):
        self.shape = tuple(shape)
        self.dtype = dtype
        self.value = Fixed(filled(self.shape, 0.0, dtype))


def _scaled(layer: Scale, shapes: Sequence[Shape]) -> Shape:
    return one_or_each(layer.size, "numbers", shapes[0])


def _not_applied(layer: Carried, *_: object) -> Maps:
    raise MisfitError("is carried along and cannot be applied")


def _no_shape(layer: Carried, shapes: Sequence[Shape]) -> Shape:
    raise MisfitError("is carried along and cannot be applied")


register(light(Scale, ("size", "operation"), _scaled, on_maps, lambda layer: (Tensor("", "weight"),)))
register(light(Carried, ("shape", "dtype"), _no_shape, _not_applied, lambda layer: (Tensor("", "value"),), inputs=0))
