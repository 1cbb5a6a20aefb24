"""The two layers that behave differently in training: Dropout and BatchNorm."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision.errors import UserError
from flaxvision.layers.context import EVALUATION, Context, ContextLayer, Hyperparameter
from flaxvision.layers.dtypes import at_least_float32


class Dropout(ContextLayer):
    """Zeroes each element with probability `rate` in training and scales the rest by 1 / (1 - rate).

    The rate is an array in the model's state, so that trials with different rates share one program
    (`flax.nnx.Dropout` branches on it).

    Args:
        rate: Probability of dropping, from 0 up to but without 1.

    Raises:
        UserError: If the rate is outside that range.

    Reference: Srivastava et al., "Dropout", JMLR 2014.
    """

    def __init__(self, rate: float):
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise UserError(f"dropout is {rate!r}: give a probability from 0 up to but without 1")
        self.rate = Hyperparameter(jnp.asarray(rate, jnp.float32))

    def __call__(self, x: jax.Array, context: Context = EVALUATION) -> jax.Array:
        """Drop elements of `x`, shape (B, ...)."""
        return self.drop(x, self.draw(x.shape, context)) if context.train else x

    def draw(self, shape: tuple[int, ...], context: Context) -> jax.Array:
        """Which elements of an input of `shape`, (B, ...), a training step keeps: bool."""
        size = math.prod(shape[1:])

        def draw_example(key: jax.Array) -> jax.Array:
            # Two elements share a random word, whose making is most of dropout's cost on a CPU.
            words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
            return lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape[1:])

        keep = 1 - self.rate[...]
        return jax.vmap(draw_example)(context.example_keys(shape[0])).astype(keep.dtype) < keep * 2**16

    def drop(self, x: jax.Array, kept: jax.Array) -> jax.Array:
        """`x` without the elements that are not `kept`."""
        keep = 1 - self.rate[...]
        return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))


class BatchNorm(ContextLayer):
    """Batch normalisation over all axes but the last, with exact statistics under masks and across devices.

    Training normalises by the (biased) batch statistics and moves the running ones towards them; the running variance
    takes the unbiased estimate, n / (n - 1) times the biased one, as in PyTorch (Flax and Keras keep the biased one).
    Padding never counts, and with an axis name the sums go over all devices.

    A batch with one value a channel (a last batch of one example) has no variance: PyTorch refuses it, others let its
    zero into the running variance. Here such a step gives the shift alone and leaves the running statistics alone;
    `fit` refuses batches that all are so.

    Args:
        num_features: Size of the last axis.
        momentum: Share of the old running statistics that a step keeps: 0.9 is PyTorch's 0.1.
        epsilon: Added to the variance.

    Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015.
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
        """Normalise `x`, shape (B, ..., num_features)."""
        return self.normalize(x, context, features=x.ndim - 1, examples=0)

    def normalize(self, x: jax.Array, context: Context, features: int, examples: int) -> jax.Array:
        """Normalise `x` with features and examples on the axes so named; a chain puts few features first."""
        shape = tuple(-1 if axis == features else 1 for axis in range(x.ndim))
        if context.train:
            mean, var = self._batch_statistics(x, context, features, examples)
        else:
            mean, var = self.mean[...], self.var[...]
        factor = self.scale[...].astype(var.dtype) * lax.rsqrt(var + self.epsilon)
        shift = self.bias[...].astype(var.dtype) - mean * factor
        return x * factor.astype(x.dtype).reshape(shape) + shift.astype(x.dtype).reshape(shape)

    def _batch_statistics(
        self, x: jax.Array, context: Context, features: int, examples: int
    ) -> tuple[jax.Array, jax.Array]:
        x = x.astype(at_least_float32(x.dtype))
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
