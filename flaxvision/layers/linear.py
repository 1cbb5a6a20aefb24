"""Fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax.nnx import Conv, ConvTranspose, Linear
from jax import lax

from flaxvision.layers.context import Context
from flaxvision.layers.kinds import Kind, MisfitError, Shape, Tensor, no_form, placeholders, register
from flaxvision.ops.convolution import NARROW_OUTPUTS, narrow_product, product_batch_last
from flaxvision.ops.maps import Maps

__all__ = ["Linear"]


def _shape(layer: Linear, shapes: Sequence[Shape]) -> Shape:
    (shape,) = shapes
    if shape[-1] != layer.in_features:
        raise MisfitError(f"takes {layer.in_features} features, not {shape[-1]} (shape {shape})")
    return (*shape[:-1], layer.out_features)


def _apply(layer: Linear, maps: Sequence[Maps], context: Context) -> Maps:
    (x,), kernel = maps, layer.kernel[...]
    inputs, outputs = kernel.shape
    if x.array.ndim == 2 and is_plain(layer) and layer.dot_general is lax.dot_general and x.array.dtype == kernel.dtype:
        if x.batch_is_last and outputs < x.shape[0]:
            return biased(layer, Maps(product_batch_last(x.array, kernel)))
        if context.policy.narrow_products and outputs <= min(NARROW_OUTPUTS, inputs // 2):
            return biased(layer, Maps(narrow_product(x.first(), kernel)))
    return Maps(layer(x.first()))


def is_plain(layer: Linear | Conv | ConvTranspose) -> bool:
    """Whether a layer of Flax leaves the type and precision of its products to JAX."""
    return {layer.dtype, layer.precision, layer.preferred_element_type} == {None}


def biased(layer: Linear | Conv | ConvTranspose, maps: Maps) -> Maps:
    """Maps with a layer's bias, where it has one."""
    if layer.bias is None:
        return maps
    return maps._replace(array=maps.array + maps.along_features(layer.bias[...]))


register(
    Kind(
        layer=Linear,
        settings=("in_features", "out_features", "use_bias"),
        make=placeholders(Linear),
        shape=_shape,
        apply=_apply,
        tensors=lambda layer: (Tensor("weight", "kernel", (1, 0)), Tensor("bias", "bias")),
        multiply_adds=lambda layer, shapes, output: math.prod(output) * layer.in_features,
        form=no_form,
    )
)
