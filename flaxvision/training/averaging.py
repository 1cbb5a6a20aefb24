"""What is evaluated in place of the parameters: their exponential moving average, or Lookahead's slow weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.ops.arrays import from_numpy
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.training.recipe import Recipe

if TYPE_CHECKING:
    from flaxvision.training.plan import Plan

Weights = tuple[nnx.State, nnx.State]  # parameters that learn, and batch statistics
Numbers = Mapping[str, jax.Array]  # those of a recipe that the step reads, () each


def first_average(recipe: Recipe, weights: Weights) -> Weights | None:
    """The average before the first update, in arrays of its own; None where the recipe has none."""
    if recipe.lookahead:
        return jax.tree.map(lambda x: from_numpy(np.array(x)), weights)
    if recipe.ema is not None:  # nothing yet: the first update sets it
        return jax.tree.map(lambda x: from_numpy(np.zeros(x.shape, x.dtype)), weights)
    return None


def averaged(
    plan: Plan, numbers: Numbers, step: jax.Array, new: Weights, average: Weights | None
) -> tuple[Weights, Weights | None]:
    """With what the training goes on after update `step` (from 0) gave `new`, and the average of it and those before.

    An exponential moving average begins with the first update, as PyTorch's `AveragedModel` does, and only watches.
    Lookahead's slow weights, which begin with the network's own, become the new ones every so many updates.
    """
    if average is None:
        return new, None
    if not plan.recipe.lookahead:
        share = jnp.where(step == 0, jnp.ones((), jnp.float32), 1 - numbers["ema"].astype(jnp.float32))
        return new, _moved(average, new, share)
    dtype = at_least_float32(plan.dtype)
    kept = 1 - _number(plan.recipe, numbers, "lookahead_rate", dtype)
    if plan.recipe.lookahead_growth:
        done = (step + 1).astype(dtype) / plan.total_steps
        kept = kept * done ** _number(plan.recipe, numbers, "lookahead_growth", dtype)
    due = (step + 1) % plan.recipe.lookahead == 0
    slow = _moved(average, new, jnp.where(due, 1 - kept, jnp.zeros((), dtype)))
    return jax.tree.map(lambda slow, fast: jnp.where(due, slow, fast), slow, new), slow


def _number(recipe: Recipe, numbers: Numbers, name: str, dtype: jnp.dtype) -> jax.Array:
    """A number of a recipe: the member's own, or the default of all."""
    return jnp.asarray(numbers.get(name, getattr(recipe, name)), dtype)


def _moved(average: Weights, new: Weights, share: jax.Array) -> Weights:
    """The average, moved by a share of the way to the new weights."""
    return jax.tree.map(lambda mean, x: mean + share.astype(x.dtype) * (x - mean), average, new)
