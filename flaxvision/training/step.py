"""One update: a pure function of the state and a batch, the same on one device, on many, alone or among trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from flaxvision.layers.context import Context
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.training.augment import alternately, augment_inputs, augment_pixels, flip, is_drawn
from flaxvision.training.averaging import averaged
from flaxvision.training.batches import Batch, Partners, split_batch
from flaxvision.training.losses import Sums, example_losses, sum_batch
from flaxvision.training.mixing import Mix, draw_mix
from flaxvision.training.plan import AXIS, Plan
from flaxvision.training.state import TrainState, cast, layer_of
from flaxvision.training.updates import update


class StepRecord(NamedTuple):
    """What is kept of every step."""

    loss: jax.Array  # mean loss of the batch, ()
    gradient_norm: jax.Array  # L2 norm of the gradient of each layer that learns, (layers,); (0,) unless recorded
    gradient_mean: jax.Array  # sum over parameter tensors of the mean of the tensor's gradient (report E), ()


class Stepped(NamedTuple):
    """What a step leaves."""

    state: TrainState
    sums: Sums  # of the batch
    record: StepRecord


T = TypeVar("T")
Step = Callable[[TrainState, Batch], Stepped]
Loss = tuple[jax.Array, tuple[nnx.State, Sums]]  # with the batch statistics and sums that come of it
Gradient = tuple[Loss, nnx.State]


def make_step(plan: Plan, tx: optax.GradientTransformation) -> Step:
    """The step of a plan's members, by the optimizer `tx`.

    On several devices it runs under `jax.pmap` on one share of the batch: losses are divided by the count of the whole
    batch and gradients summed over devices, so that uneven and empty shares give the update of one device. Of a batch
    of more than `Plan.microbatch` examples the gradient is summed by microbatches, which takes a network without batch
    statistics.
    """
    recipe, dtype, microbatch = plan.recipe, plan.dtype, plan.microbatch
    axis_name = AXIS if plan.sharded else None
    drawn, weights = is_drawn(recipe), np.asarray(recipe.class_weights) if recipe.class_weights else None

    def total(value: T) -> T:
        return value if axis_name is None else lax.psum(value, axis_name)

    def mix_of(state: TrainState, batch: Batch) -> Mix | None:
        shape = batch.images.shape[1:]
        return None if batch.partners is None else draw_mix(state.numbers, _key_of(state), batch.partners, shape)

    def loss_fn(params: nnx.State, state: TrainState, batch: Batch, examples: jax.Array) -> Loss:
        model = nnx.merge(plan.graphdef, cast(params, dtype), state.stats, cast(state.non_trainable, dtype), copy=True)
        context = Context(True, _key_of(state), batch.indices, batch.mask, axis_name, plan.policy, recipe.frozen)
        mix, labels = mix_of(state, batch), batch.labels

        def inputs_of(batch: Batch | Partners) -> jax.Array:
            if not drawn:
                return model.preprocess(batch.images, dtype)
            keys = dataclasses.replace(context, indices=batch.indices).example_keys(len(batch.images))
            images = augment_pixels(recipe, state.numbers, batch.images, keys)
            if "alternating_flip" in recipe.augment and batch.rows is not None:
                images = flip(images, alternately(state.seed, batch.rows, state.step // plan.steps_per_epoch))
            return augment_inputs(state.numbers, model.preprocess(images, dtype), keys)

        def losses_for(labels: jax.Array) -> jax.Array:
            return example_losses(recipe.loss, outputs, labels, inputs, state.numbers.get("label_smoothing"), weights)

        inputs = inputs_of(batch)
        if mix is not None:
            inputs = mix.of_inputs(inputs, inputs_of(mix.partners))
        outputs = model(inputs, context)
        outputs, inputs = (x.astype(at_least_float32(x.dtype)) for x in (outputs, inputs))
        losses = losses_for(labels) if mix is None else mix.of_labels(losses_for, labels)
        labels = labels if mix is None else mix.commoner(labels)
        if batch.mask is not None:
            losses = jnp.where(batch.mask, losses, jnp.zeros((), losses.dtype))
        scored = lax.stop_gradient((outputs, labels, inputs))
        sums = sum_batch(recipe.loss, plan.classes, *scored, batch.mask, confusion=False)
        loss = losses.sum() / examples.astype(losses.dtype)
        return loss, (nnx.state(model, nnx.BatchStat), sums)

    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient_of_microbatches(state: TrainState, batch: Batch, examples: jax.Array, size: int) -> Gradient:
        def one(so_far: Gradient, some: Batch) -> tuple[Gradient, None]:
            return jax.tree.map(jnp.add, so_far, gradient(state.params, state, some, examples)), None

        parts = split_batch(batch, size)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, state.params, state, first, examples)
        return lax.scan(one, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]

    def counted(state: TrainState, batch: Batch) -> jax.Array:
        """How many examples count, each as much as its class does."""
        if weights is None:
            return jnp.float32(len(batch.labels)) if batch.mask is None else batch.mask.astype(jnp.float32).sum()
        by_class, mix = jnp.asarray(weights, at_least_float32(dtype)), mix_of(state, batch)
        each = by_class[batch.labels] if mix is None else mix.of_labels(by_class.__getitem__, batch.labels)
        return (each if batch.mask is None else each * batch.mask.astype(each.dtype)).sum()

    def step(state: TrainState, batch: Batch) -> Stepped:
        examples = total(counted(state, batch))
        if microbatch is not None and len(batch.labels) > microbatch:
            (loss, (stats, sums)), grads = gradient_of_microbatches(state, batch, examples, microbatch)
        else:
            (loss, (stats, sums)), grads = gradient(state.params, state, batch, examples)
        loss, sums, grads = total((loss, sums, grads))
        params, opt = update(tx, grads, state.params, state.opt)
        record = StepRecord(loss, *_gradient_record(grads, recipe.record_gradients))
        (params, stats), average = averaged(plan, state.numbers, state.step, (params, stats), state.average)
        after = state._replace(params=params, stats=stats, opt=opt, step=state.step + 1, average=average)
        return Stepped(after, sums, record)

    return step


def _key_of(state: TrainState) -> jax.Array:
    """The key of a step's draws."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), 2), state.step)


def _gradient_record(grads: nnx.State, wanted: bool) -> tuple[jax.Array, jax.Array]:
    if not wanted:
        return jnp.zeros((0,), jnp.float32), jnp.zeros((), jnp.float32)
    squares: dict[int, jax.Array] = {}
    means = jnp.zeros((), jnp.float32)
    for path, leaf in jax.tree.leaves_with_path(grads):
        layer = layer_of(path)
        gradient = leaf.astype(jnp.float32)
        squares[layer] = squares.get(layer, jnp.zeros((), jnp.float32)) + jnp.square(gradient).sum()
        means = means + gradient.mean()
    return jnp.sqrt(jnp.stack(list(squares.values()))), means
