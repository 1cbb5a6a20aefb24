"""Dropout, of values, of whole channels or of whole examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from flaxvision.errors import UserError
from flaxvision.layers.context import EVALUATION, Context, ContextLayer, Hyperparameter
from flaxvision.layers.kinds import as_map, light, no_tensors, register, same_shape
from flaxvision.ops.maps import Maps

__all__ = ["DropPath", "Dropout", "SpatialDropout"]


class Dropout(ContextLayer):
    """Zeroes each element with probability `rate` in training and scales the rest by 1 / (1 - rate).

    The rate is an array in the model's state, so that trials with different rates share one program
    (`flax.nnx.Dropout` branches on it).

    Args:
        rate: Probability of dropping, from 0 up to but without 1.

    Raises:
        UserError: If the rate is outside that range.

    Reference: Srivastava et al., "Dropout", JMLR 2014.

    >>> Dropout(0.5)(jnp.ones((1, 3))).tolist()  # evaluation keeps everything
    [[1.0, 1.0, 1.0]]
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


class SpatialDropout(Dropout):
    """Zeroes whole channels of an example with probability `rate`: PyTorch's Dropout2d.

    Args:
        rate: Probability of dropping, from 0 up to but without 1.

    Raises:
        UserError: If the rate is outside that range.

    Reference: Tompson et al., "Efficient Object Localization Using Convolutional Networks", CVPR 2015.
    """

    def draw(self, shape: tuple[int, ...], context: Context) -> jax.Array:
        """Which channels of an input of `shape`, (B, H, W, C), a training step keeps: bool, (B, 1, 1, C)."""
        return super().draw((shape[0], 1, 1, shape[3]), context)


class DropPath(Dropout):
    """Zeroes whole examples with probability `rate`: drop path, or stochastic depth, at the end of a residual branch.

    Args:
        rate: Probability of dropping, from 0 up to but without 1.

    Raises:
        UserError: If the rate is outside that range.

    Reference: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def draw(self, shape: tuple[int, ...], context: Context) -> jax.Array:
        """Which examples of an input of `shape`, (B, ...), a training step keeps: bool, (B, 1, ...)."""
        return super().draw((shape[0], *(1 for _ in shape[1:])), context)


def _apply(layer: Dropout, maps: Sequence[Maps], context: Context) -> Maps:
    if not context.train:
        return maps[0]
    kept = Maps(layer.draw(maps[0].shape, context))
    return maps[0]._replace(array=layer.drop(maps[0].array, kept.last() if maps[0].batch_is_last else kept.array))


# The rate is no setting: it is in the state.
register(light(Dropout, (), same_shape, _apply, no_tensors, make=lambda: Dropout(0.0)))
register(light(DropPath, (), same_shape, _apply, no_tensors, make=lambda: DropPath(0.0)))
register(
    light(SpatialDropout, (), lambda _, shapes: as_map(shapes[0]), _apply, no_tensors, make=lambda: SpatialDropout(0.0))
)
