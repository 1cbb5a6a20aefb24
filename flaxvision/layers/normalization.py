"""Normalization: over the batch, over groups of channels, and over the features of an example."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.errors import UserError
from flaxvision.layers.context import EVALUATION, Context, ContextLayer
from flaxvision.layers.kinds import (
    Kind,
    MisfitError,
    Shape,
    Tensor,
    no_form,
    no_products,
    register,
)
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.ops.maps import Maps

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm"]


class BatchNorm(ContextLayer):
    """Batch normalization over all axes but the last, with exact statistics under masks and across devices.

    Training normalizes by the (biased) batch statistics and moves the running ones towards them; the running variance
    takes the unbiased estimate, n / (n - 1) times the biased one, as in PyTorch (Flax and Keras keep the biased one).
    Padding never counts, and with an axis name the sums go over all devices.

    A batch with one value per channel (a last batch of one example) has no variance: PyTorch refuses it, others let its
    zero into the running variance. Here such a step gives the shift alone and leaves the running statistics alone;
    `fit` refuses batches that all are so.

    Args:
        num_features: Size of the last axis.
        momentum: Share of the old running statistics that a step keeps: 0.9 is PyTorch's 0.1.
        epsilon: Added to the variance.

    Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015.

    >>> batch = jnp.array([[1.0], [3.0]])
    >>> BatchNorm(1)(batch, Context(train=True)).round(2).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(self, num_features: int, momentum: float = 0.9, epsilon: float = 1e-5):
        self.num_features = num_features
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(num_features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(num_features, jnp.float32))

    def __call__(self, x: jax.Array, context: Context = EVALUATION) -> jax.Array:
        """Normalize `x`, shape (B, ..., num_features)."""
        return self.normalize(Maps(x), context).array

    def normalize(self, maps: Maps, context: Context) -> Maps:
        """Normalize maps in any layout."""
        if context.train:
            mean, var = self._batch_statistics(maps, context)
        else:
            mean, var = self.mean[...], self.var[...]
        factor = self.scale[...].astype(var.dtype) * lax.rsqrt(var + self.epsilon)
        shift = self.bias[...].astype(var.dtype) - mean * factor
        x = maps.array
        return maps._replace(
            array=x * maps.along_features(factor.astype(x.dtype)) + maps.along_features(shift.astype(x.dtype))
        )

    def _batch_statistics(self, maps: Maps, context: Context) -> tuple[jax.Array, jax.Array]:
        features, examples = maps.features, maps.examples
        x = maps.array.astype(at_least_float32(maps.array.dtype))
        others = tuple(axis for axis in range(x.ndim) if axis != features)
        by_example, by_feature = (tuple(-1 if i == axis else 1 for i in range(x.ndim)) for axis in (examples, features))
        places = x.size // (x.shape[examples] * x.shape[features])  # values of a channel that one example holds
        weight = None if context.mask is None else context.mask.astype(x.dtype).reshape(by_example)
        number = jnp.asarray(x.shape[examples], x.dtype) if weight is None else weight.sum()
        count = self._sum_over_devices(number, context) * places

        def average(values: jax.Array) -> jax.Array:
            values = values if weight is None else values * weight
            return self._sum_over_devices(values.sum(axis=others), context) / count

        mean = average(x)
        var = average(jnp.square(x - mean.reshape(by_feature)))
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        for running, new in ((self.mean, mean), (self.var, unbiased)):
            old, new = running[...], lax.stop_gradient(new).astype(running[...].dtype)
            moved = old * self.momentum + new * (1 - self.momentum)
            running[...] = jnp.where(count > 1, moved, old)
        return mean, var

    @staticmethod
    def _sum_over_devices(value: jax.Array, context: Context) -> jax.Array:
        return value if context.axis_name is None else lax.psum(value, context.axis_name)


class GroupNorm(nnx.Module):
    """Normalization of every example over the map and groups of channels, then a scale and a bias per channel.

    Args:
        num_groups: How many groups of equal size the channels make.
        num_channels: Size of the last axis.
        epsilon: Added to the variance.

    Raises:
        UserError: If the channels do not divide into the groups.

    Reference: Wu and He, "Group Normalization", ECCV 2018; PyTorch's GroupNorm.

    >>> GroupNorm(2, 4)(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(2).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(self, num_groups: int, num_channels: int, epsilon: float = 1e-5):
        if num_groups < 1 or num_channels % num_groups:
            raise UserError(f"{num_channels} channels do not make {num_groups} groups: give a divisor of them")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(num_channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_channels, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `x`, shape (B, ..., num_channels)."""
        return self.normalize(Maps(x)).array

    def normalize(self, maps: Maps) -> Maps:
        """Normalize maps in any layout."""
        x = maps.array.astype(at_least_float32(maps.array.dtype))
        axis = maps.features
        grouped = x.reshape(*x.shape[:axis], self.num_groups, -1, *x.shape[axis + 1 :])
        examples = maps.examples + (1 if axis < maps.examples else 0)
        others = tuple(i for i in range(grouped.ndim) if i not in (examples, axis))
        centred = grouped - grouped.mean(axis=others, keepdims=True)
        variance = jnp.square(centred).mean(axis=others, keepdims=True)
        x = (centred * lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        scaled = x * maps.along_features(self.scale[...].astype(x.dtype))
        return maps._replace(
            array=(scaled + maps.along_features(self.bias[...].astype(x.dtype))).astype(maps.array.dtype)
        )


class LayerNorm(nnx.Module):
    """Normalization over the last axis, at every position of a map by itself, then a scale and a bias per channel.

    Args:
        num_features: Size of the last axis.
        epsilon: Added to the variance.

    Reference: Ba et al., "Layer Normalization", 2016; PyTorch's LayerNorm, and on maps ConvNeXt's.

    >>> LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(2).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, num_features: int, epsilon: float = 1e-5):
        self.num_features = num_features
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(num_features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_features, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `x`, shape (B, ..., num_features)."""
        return self.normalize(Maps(x)).array

    def normalize(self, maps: Maps) -> Maps:
        """Normalize maps in any layout."""
        x = maps.array.astype(at_least_float32(maps.array.dtype))
        centred = x - x.mean(axis=maps.features, keepdims=True)
        variance = jnp.square(centred).mean(axis=maps.features, keepdims=True)
        x = centred * lax.rsqrt(variance + self.epsilon) * maps.along_features(self.scale[...].astype(x.dtype))
        return maps._replace(array=(x + maps.along_features(self.bias[...].astype(x.dtype))).astype(maps.array.dtype))


def _features(count: int, shape: Shape) -> Shape:
    """The shape, or the error that its last axis has another size."""
    if shape[-1] != count:
        raise MisfitError(f"normalizes {count} channels, not {shape[-1]} (shape {shape})")
    return shape


TENSORS = (Tensor("weight", "scale"), Tensor("bias", "bias"))


def _batch_norm(layer: BatchNorm, maps: Sequence[Maps], context: Context) -> Maps:
    return layer.normalize(maps[0].few_last() if context.policy.lays_batch_last else maps[0], context)


register(
    Kind(
        layer=BatchNorm,
        settings=("num_features", "momentum", "epsilon"),
        make=BatchNorm,
        shape=lambda layer, shapes: _features(layer.num_features, shapes[0]),
        apply=_batch_norm,
        tensors=lambda layer: (*TENSORS, Tensor("running_mean", "mean"), Tensor("running_var", "var")),
        multiply_adds=no_products,
        form=no_form,
    )
)
register(
    Kind(
        layer=GroupNorm,
        settings=("num_groups", "num_channels", "epsilon"),
        make=GroupNorm,
        shape=lambda layer, shapes: _features(layer.num_channels, shapes[0]),
        apply=lambda layer, maps, context: layer.normalize(maps[0]),
        tensors=lambda layer: TENSORS,
        multiply_adds=no_products,
        form=no_form,
    )
)
register(
    Kind(
        layer=LayerNorm,
        settings=("num_features", "epsilon"),
        make=LayerNorm,
        shape=lambda layer, shapes: _features(layer.num_features, shapes[0]),
        apply=lambda layer, maps, context: layer.normalize(maps[0]),
        tensors=lambda layer: TENSORS,
        multiply_adds=no_products,
        form=no_form,
    )
)
