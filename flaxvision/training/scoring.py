"""Compiled evaluation: the sums of trained members over a part of what is held out."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxvision._cache import shared_cache
from flaxvision.layers.context import Context
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.training.batches import Batch, Shard, take_range
from flaxvision.training.members import Members
from flaxvision.training.plan import AXIS, EVALUATED, Plan, compile_for
from flaxvision.training.state import cast
from flaxvision.training.sums import Sums, sum_batch, zero_sums


@shared_cache(32)
def evaluation_for(plan: Plan) -> Callable:
    """The evaluation of a plan made by `Plan.of_evaluation`, compiled: equal ones share a program.

    It takes members' variables, the images and labels, and the start and stop of the examples to score, so that one
    program serves every part of the data.
    """
    return compile_for(plan, functools.partial(_evaluate, plan), static=(), donated=())


def _evaluate(
    plan: Plan,
    shard: Shard,
    variables: Members[nnx.State],
    images: jax.Array,
    labels: jax.Array,
    first: jax.Array,
    stop: jax.Array,
) -> Members[Sums]:
    size = min(EVALUATED, len(labels))
    context = Context(policy=plan.policy.for_evaluation())

    def score(variables: nnx.State, batch: Batch) -> Sums:
        stats, others = nnx.split_state(variables, nnx.BatchStat, ...)
        model = nnx.merge(plan.graphdef, cast(others, plan.dtype), stats, copy=True)
        inputs = model.preprocess(batch.images, plan.dtype)
        outputs, inputs = (x.astype(at_least_float32(x.dtype)) for x in (model(inputs, context), inputs))
        return sum_batch(plan.recipe.loss, plan.classes, outputs, batch.labels, inputs, batch.mask)

    def one(number: jax.Array, total: Members[Sums]) -> Members[Sums]:
        batch = take_range(images, labels, first + number * size, stop, size, shard)
        return jax.tree.map(jnp.add, total, variables.map(lambda one: score(one, batch)))

    zeros = variables.zeros(functools.partial(zero_sums, plan.classes, at_least_float32(plan.dtype)))
    total = lax.fori_loop(0, (stop - first + size - 1) // size, one, zeros)
    return lax.psum(total, AXIS) if plan.sharded else total
