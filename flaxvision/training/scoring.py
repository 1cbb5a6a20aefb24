"""Compiled evaluation: the sums of trained members over a part of what is held out."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax import lax

from flaxvision._cache import shared_cache
from flaxvision.layers.context import Context
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.training.batches import Batch, Shard, take_range
from flaxvision.training.plan import AXIS, EVALUATED, Plan, compile_for
from flaxvision.training.step import cast, compute_dtype
from flaxvision.training.sums import Sums, add, sum_batch, zero_sums


@shared_cache(32)
def evaluation_for(plan: Plan) -> Callable:
    """The evaluation of a plan made by `Plan.of_evaluation`, compiled: equal ones share a program.

    It takes a member's variables (in a vmapped plan: all members', with a leading axis), the images and labels, and the
    start and stop of the examples to score, so that one program serves every part of the data.
    """
    return compile_for(plan, functools.partial(_evaluate, plan), static=(), donated=())


def _evaluate(
    plan: Plan,
    shard: Shard,
    variables: nnx.State,
    images: jax.Array,
    labels: jax.Array,
    first: jax.Array,
    stop: jax.Array,
) -> Sums:
    size = min(EVALUATED, len(labels))
    context = Context(policy=plan.policy.for_evaluation())
    dtype = compute_dtype(plan.recipe, nnx.filter_state(variables, nnx.Param))

    def score(variables: nnx.State, batch: Batch) -> Sums:
        stats, others = nnx.split_state(variables, nnx.BatchStat, ...)
        model = nnx.merge(plan.graphdef, cast(others, dtype), stats, copy=True)
        inputs = model.preprocess(batch.images, dtype)
        outputs, inputs = (x.astype(at_least_float32(x.dtype)) for x in (model(inputs, context), inputs))
        return sum_batch(plan.recipe.loss, plan.classes, outputs, batch.labels, inputs, batch.mask)

    score_all = jax.vmap(score, (0, None)) if plan.vmapped else score

    def one(number: jax.Array, total: Sums) -> Sums:
        return add(total, score_all(variables, take_range(images, labels, first + number * size, stop, size, shard)))

    members = len(jax.tree.leaves(variables)[0]) if plan.vmapped else None
    zeros = zero_sums(plan.classes, at_least_float32(dtype), members)
    total = lax.fori_loop(0, (stop - first + size - 1) // size, one, zeros)
    return lax.psum(total, AXIS) if plan.sharded else total
