"""The two layers that behave differently in training: Dropout and BatchNorm."""

from __future__ import annotations

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
        if not context.train:
            return x
        keep = 1 - self.rate[...]
        keys = context.example_keys(x.shape[0])
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
        return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))


class BatchNorm(ContextLayer):
    """Batch normalisation over all axes but the last, with exact statistics under masks and across devices.

    Training normalises by the (biased) batch statistics and moves the running ones towards them; the running variance
    takes the unbiased estimate, n / (n - 1) times the biased one, as in PyTorch (Flax and Keras keep the biased one).
    Padding never counts, and with an axis name the sums go over all devices.

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
        mean, var = self._batch_statistics(x, context) if context.train else (self.mean[...], self.var[...])
        factor = self.scale[...].astype(var.dtype) * lax.rsqrt(var + self.epsilon)
        shift = self.bias[...].astype(var.dtype) - mean * factor
        last = (1,) * (x.ndim - 1) + (-1,)
        return x * factor.astype(x.dtype).reshape(last) + shift.astype(x.dtype).reshape(last)

    def _batch_statistics(self, x: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        x = x.astype(at_least_float32(x.dtype))
        places = x.size // (x.shape[0] * x.shape[-1])  # how many values of a channel one example holds
        weight = None if context.mask is None else context.mask.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
        examples = jnp.asarray(x.shape[0], x.dtype) if weight is None else weight.sum()
        count = self._sum_over_devices(examples, context) * places

        def average(values: jax.Array) -> jax.Array:
            values = values if weight is None else values * weight
            return self._sum_over_devices(values.sum(axis=tuple(range(x.ndim - 1))), context) / count

        mean = average(x)
        var = average(jnp.square(x - mean.reshape((1,) * (x.ndim - 1) + (-1,))))
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        self.mean[...] = self._moved(self.mean[...], mean)
        self.var[...] = self._moved(self.var[...], unbiased)
        return mean, var

    def _moved(self, old: jax.Array, new: jax.Array) -> jax.Array:
        new = lax.stop_gradient(new).astype(old.dtype)
        return old * self.momentum + new * (1 - self.momentum)

    @staticmethod
    def _sum_over_devices(value: jax.Array, context: Context) -> jax.Array:
        return value if context.axis_name is None else lax.psum(value, context.axis_name)
