"""What a layer may need beyond its input: the mode, randomness, padding mask and device axis."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.ops.policy import NATIVE, Policy


@dataclasses.dataclass(frozen=True)
class Context:
    """How one forward pass runs.

    Randomness belongs to an example's index in the batch, so that neither padding nor the number of devices changes
    what an example sees.
    """

    train: bool = False  # training mode: dropout drops, BatchNorm uses and updates batch statistics
    key: jax.Array | None = None  # the step's random key; needed in training by layers that draw
    indices: jax.Array | None = None  # int32 (B,): of each example in the whole batch; None counts from 0
    mask: jax.Array | None = None  # bool (B,): False marks padding; None means that every example is real
    axis_name: str | None = None  # the device axis of `jax.pmap` over which batch statistics are summed
    policy: Policy = NATIVE  # which forms layers take
    frozen: tuple[str, ...] = ()  # name prefixes of the layers that run in evaluation mode even while training

    def for_layer(self, name: str, position: int) -> Context:
        """This context as the layer `name` at `position` in its chain sees it; a frozen one keeps the policy only."""
        if matches(name, self.frozen):
            return dataclasses.replace(EVALUATION, policy=self.policy)
        if self.key is None:
            return self
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, position))

    def example_keys(self, examples: int) -> jax.Array:
        """One random key per example, shape (examples,)."""
        if self.key is None:
            raise ValueError("training mode needs a random key: pass Context(train=True, key=jax.random.key(0))")
        indices = jnp.arange(examples) if self.indices is None else self.indices
        return jax.vmap(jax.random.fold_in, (None, 0))(self.key, indices)


EVALUATION = Context()


def matches(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether `name` is one of `prefixes` or lies under one: "encoder" covers "encoder.0", not "encoder2"."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


class ContextLayer(nnx.Module):
    """Base of the layers whose call takes a `Context` after the input."""

    def __call__(self, x: jax.Array, context: Context = EVALUATION) -> jax.Array:
        """Apply the layer to `x`, shape (B, ...)."""
        raise NotImplementedError(type(self).__name__)


class Hyperparameter(nnx.Variable):
    """A number of a layer that training does not change but trials may vary, such as a dropout rate."""
