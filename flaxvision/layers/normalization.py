"""Normalization: over the batch, over groups of channels, and over the features of an example."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.errors import UserError
from flaxvision.layers.context import EVALUATION, Context, ContextLayer
from flaxvision.layers.kinds import MapsLayer, MisfitError, Shape, Tensor, light, on_maps, register
from flaxvision.ops.arrays import filled
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
        affine: Whether a scale and a bias per channel follow.
        batches: How many batches it has been trained on, PyTorch's `num_batches_tracked`; `fit` counts on.

    Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015.

    >>> batch = jnp.array([[1.0], [3.0]])
    >>> BatchNorm(1)(batch, Context(train=True)).round(2).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        affine: bool = True,
        batches: int = 0,
    ):
        self.num_features = num_features
        self.momentum = momentum
        self.epsilon = epsilon
        self.affine = affine
        self.batches = batches
        self.scale = nnx.Param(filled(num_features, 1.0)) if affine else None
        self.bias = nnx.Param(filled(num_features, 0.0)) if affine else None
        self.mean = nnx.BatchStat(filled(num_features, 0.0))
        self.var = nnx.BatchStat(filled(num_features, 1.0))

    def __call__(self, x: jax.Array, context: Context = EVALUATION) -> jax.Array:
        """Normalize `x`, shape (B, ..., num_features)."""
        return self.normalize(Maps(x), context).array

    def normalize(self, maps: Maps, context: Context) -> Maps:
        """Normalize maps in any layout."""
        mean, var = self._batch_statistics(maps, context) if context.train else (self.mean[...], self.var[...])
        factor, shift = lax.rsqrt(var + self.epsilon), jnp.zeros_like(mean)
        if self.scale is not None and self.bias is not None:
            factor, shift = self.scale[...].astype(var.dtype) * factor, self.bias[...].astype(var.dtype)
        shift = shift - mean * factor
        factor, shift = (maps.along_features(part.astype(maps.array.dtype)) for part in (factor, shift))
        return maps._replace(array=maps.array * factor + shift)

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


class _ExampleNorm(MapsLayer):
    """What normalizes every example by itself: over groups of its values, then a scale and a bias per channel."""

    def __init__(self, channels: int, epsilon: float, affine: bool, use_bias: bool):
        self.epsilon = epsilon
        self.affine = affine
        self.scale = nnx.Param(filled(channels, 1.0)) if affine else None
        self.bias = nnx.Param(filled(channels, 0.0)) if affine and use_bias else None

    def on(self, maps: Maps) -> Maps:
        """Normalize maps in any layout."""
        x = maps.array.astype(at_least_float32(maps.array.dtype))
        grouped, axes = self._grouped(x, maps)
        centred = grouped - grouped.mean(axis=axes, keepdims=True)
        variance = jnp.square(centred).mean(axis=axes, keepdims=True)
        x = (centred * lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        if self.scale is not None:
            x = x * maps.along_features(self.scale[...].astype(x.dtype))
        if self.bias is not None:
            x = x + maps.along_features(self.bias[...].astype(x.dtype))
        return maps._replace(array=x.astype(maps.array.dtype))

    def _grouped(self, x: jax.Array, maps: Maps) -> tuple[jax.Array, tuple[int, ...]]:
        """`x` in a shape in which a group is some of the axes, and these."""
        raise NotImplementedError(type(self).__name__)


class GroupNorm(_ExampleNorm):
    """Normalization of every example over the map and groups of channels, then a scale and a bias per channel.

    Args:
        num_groups: How many groups of equal size the channels make.
        num_channels: Size of the last axis.
        epsilon: Added to the variance.
        affine: Whether a scale and a bias per channel follow.

    Raises:
        UserError: If the channels do not divide into the groups.

    Reference: Wu and He, "Group Normalization", ECCV 2018; PyTorch's GroupNorm.

    >>> GroupNorm(2, 4)(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(2).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(self, num_groups: int, num_channels: int, epsilon: float = 1e-5, affine: bool = True):
        if num_groups < 1 or num_channels % num_groups:
            raise UserError(f"{num_channels} channels do not make {num_groups} groups: give a divisor of them")
        super().__init__(num_channels, epsilon, affine, use_bias=True)
        self.num_groups = num_groups
        self.num_channels = num_channels

    def _grouped(self, x: jax.Array, maps: Maps) -> tuple[jax.Array, tuple[int, ...]]:
        axis = maps.features
        grouped = x.reshape(*x.shape[:axis], self.num_groups, -1, *x.shape[axis + 1 :])
        examples = maps.examples + (1 if axis < maps.examples else 0)
        return grouped, tuple(i for i in range(grouped.ndim) if i not in (examples, axis))


class LayerNorm(_ExampleNorm):
    """Normalization over the last axis, at every position of a map by itself, then a scale and a bias per channel.

    Args:
        num_features: Size of the last axis.
        epsilon: Added to the variance.
        affine: Whether a scale per channel follows, and
        use_bias: a bias.

    Reference: Ba et al., "Layer Normalization", 2016; PyTorch's LayerNorm, and on maps ConvNeXt's.

    >>> LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(2).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, num_features: int, epsilon: float = 1e-5, affine: bool = True, use_bias: bool = True):
        super().__init__(num_features, epsilon, affine, use_bias)
        self.use_bias = use_bias
        self.num_features = num_features

    def _grouped(self, x: jax.Array, maps: Maps) -> tuple[jax.Array, tuple[int, ...]]:
        return x, (maps.features,)


def _shape(layer: BatchNorm | GroupNorm | LayerNorm, shapes: Sequence[Shape]) -> Shape:
    channels = layer.num_channels if isinstance(layer, GroupNorm) else layer.num_features
    if shapes[0][-1] != channels:
        raise MisfitError(f"normalizes {channels} channels, not {shapes[0][-1]} (shape {shapes[0]})")
    return shapes[0]


def _batch_norm(layer: BatchNorm, maps: Sequence[Maps], context: Context) -> Maps:
    return layer.normalize(maps[0].few_last(context.policy.batch_last_below), context)


TENSORS = (Tensor("weight", "scale"), Tensor("bias", "bias"))
RUNNING = (Tensor("running_mean", "mean"), Tensor("running_var", "var"))
register(light(BatchNorm, ("num_features", "momentum", "epsilon"), _shape, _batch_norm, lambda _: TENSORS + RUNNING))
register(light(GroupNorm, ("num_groups", "num_channels", "epsilon"), _shape, on_maps, lambda layer: TENSORS))
register(light(LayerNorm, ("num_features", "epsilon"), _shape, on_maps, lambda layer: TENSORS))
