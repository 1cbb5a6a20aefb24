"""Compiled epochs: the same step, alone or over several trials, in a loop or one by one, on one device or many."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from flaxvision._cache import shared_cache
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.runtime import on_host
from flaxvision.training.batches import Shard, epoch_order, take_batch
from flaxvision.training.compiling import compiling_once
from flaxvision.training.plan import AXIS, Plan, compile_for, has_native_convolution
from flaxvision.training.scoring import evaluation_for
from flaxvision.training.state import TrainState, merge_model
from flaxvision.training.step import StepRecord, compute_dtype, gradient_layer, make_step
from flaxvision.training.sums import Sums, add, zero_sums
from flaxvision.training.updates import build_optimizer

LONGEST = 0.5  # seconds; a call that takes less is followed by one of twice as many steps

States = Any  # a tuple of TrainState (unrolled members), or one TrainState with a leading axis of members (vmapped)


_order = jax.jit(epoch_order, static_argnums=2)  # compiled once for all plans
_orders = jax.jit(jax.vmap(epoch_order, (0, None, None)), static_argnums=2)


@shared_cache(32)
def engine_for(plan: Plan) -> Engine:
    """The engine of a plan, with what it compiled before; the same one in all threads."""
    return Engine(plan)


class Engine:
    """Trains and evaluates the members of one plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.tx = build_optimizer(plan.recipe, plan.total_steps, plan.steps_per_epoch)
        axis = AXIS if plan.sharded else None
        self._step = make_step(plan.graphdef, plan.recipe, self.tx, plan.classes, axis, plan.policy, plan.part)
        self._looped: bool | None = None  # whether steps run in a compiled loop; found at the first epoch
        self._at_once = 1  # steps of a call on a CPU
        self._many: Any = compile_for(plan, self._train_many, static=("size", "looped", "length"), donated=(0, 1, 2))
        self._evaluate: Any = evaluation_for(plan.of_evaluation())

    # What runs in Python: an epoch and an evaluation.

    def epoch(
        self,
        states: States,
        data: tuple[jax.Array, jax.Array],
        epoch: int,
        steps: int,
        begun: tuple[int, Sums, StepRecord] | None = None,
    ) -> Iterator[tuple[int, States, Sums, StepRecord]]:
        """Train `steps` steps of epoch `epoch`, yielding (steps done, states, sums of the epoch so far, records).

        Records have axes (steps of the epoch, members, ...), zero where not done yet; sums are a leading axis or a
        tuple like `states`. What was yielded before is gone with the next step. With `begun`, as it was yielded once,
        it goes on from there.
        """
        recipe, (images, labels) = self.plan.recipe, data
        examples = len(labels)
        whole = min(steps, examples // recipe.batch_size) if self.plan.on_cpu else steps
        with compiling_once(self._many, "beginning", steps, examples):
            if self._looped is None:
                self._looped = self._may_loop(states)
            done, sums, records = begun or (0, *self._nothing(states, steps))
            order = self._orders(states, np.uint32(epoch), examples) if recipe.shuffle else None
        if done:
            yield done, states, sums, records
        while done < steps:
            left = whole - done
            size = recipe.batch_size if left else examples - whole * recipe.batch_size
            number = min(self._at_once if self.plan.on_cpu else whole, left) if left and self._looped else 1
            began = time.perf_counter()
            looped, length = bool(left and self._looped), None if self.plan.on_cpu else number
            with compiling_once(self._many, size, looped, length, examples):
                states, sums, records = self._many(
                    states, sums, records, images, labels, order, np.int32(done), np.int32(number),
                    size=size, looped=looped, length=length,
                )  # fmt: skip
            done += number
            if self.plan.on_cpu and self._looped and number == self._at_once < whole:
                jax.block_until_ready(sums)
                self._at_once *= 2 if time.perf_counter() - began < LONGEST else 1
            yield done, states, sums, records

    def evaluate(self, states: States, data: tuple[jax.Array, jax.Array], examples: range) -> Any:
        """The sums of every member over a range of the data, in evaluation mode: a leading axis, or a tuple."""

        def score(state: TrainState) -> Sums:
            with compiling_once(self._evaluate, len(data[1])):
                return self._evaluate(variables_of(state), *data, np.int32(examples.start), np.int32(examples.stop))

        return score(states) if self.plan.vmapped else tuple(map(score, states))

    def compile_ahead(
        self, states: States, data: tuple[jax.Array, jax.Array], held_out: tuple[jax.Array, jax.Array], steps: int
    ) -> Future | None:
        """Compile, side by side, what an epoch of so many steps needs; the future is its evaluation's. None on a CPU.

        XLA compiles each program for an accelerator for seconds, mostly on one core of the host.
        """
        if self.plan.on_cpu or self.plan.sharded:
            return None
        one, zero = self._one(states), np.int32(0)
        pool = ThreadPoolExecutor(2)
        try:  # lowered in this thread, since settings of JAX are a thread's own
            evaluation = pool.submit(self._evaluate.lower(variables_of(one), *held_out, zero, zero).compile)
            order, ordering = None, None
            if self.plan.recipe.shuffle:
                lowered = (_orders if self.plan.vmapped else _order).lower(one.seed, np.uint32(0), len(data[1]))
                ordering = pool.submit(lowered.compile)
                like = jax.ShapeDtypeStruct(lowered.out_info.shape, lowered.out_info.dtype, sharding=data[1].sharding)
                order = like if self.plan.vmapped else (like,) * len(states)
            self._many.lower(
                states, *self._nothing(states, steps), *data, order, zero, zero,
                size=self.plan.recipe.batch_size, looped=True, length=steps,
            ).compile()  # fmt: skip
            if ordering is not None:
                ordering.result()
            return evaluation
        finally:
            pool.shutdown(wait=False)

    # What is compiled.

    def _train_many(
        self,
        shard: Shard,
        states: States,
        sums: Any,
        records: StepRecord,
        images: jax.Array,
        labels: jax.Array,
        order: Any,
        first: jax.Array,
        count: jax.Array,
        *,
        size: int,
        looped: bool,
        length: int | None,
    ) -> tuple[States, Any, StepRecord]:
        """`count` steps from step `first` of the epoch on, with batches of `size`; the cohort shares one loop.

        The count is an argument, so that one program serves calls of any length. Without `looped` it is 1. On an
        accelerator `length` is the count: between the steps of a loop of known length nothing waits for the device.
        There the short last batch is padded, to be one of the loop; a CPU has a program of its own for it.
        """
        padded = length is not None and len(labels) % size > 0

        def train(state: TrainState, total: Sums, order: Any, number: jax.Array) -> tuple:
            start = number * self.plan.recipe.batch_size
            batch = take_batch(images, labels, order, start, size, shard, padded=padded)
            state, new, record = self._step(state, batch)
            return (state, add(total, new)), record

        def one(carry: tuple, number: jax.Array) -> tuple[Any, Any]:
            states, sums = carry
            if self.plan.vmapped:
                return jax.vmap(train, (0, 0, None if order is None else 0, None))(states, sums, order, number)
            orders = order or [None] * len(states)
            out = [train(s, t, o, number) for s, t, o in zip(states, sums, orders, strict=True)]
            carry = tuple(zip(*(c for c, _ in out), strict=True))
            return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(r for _, r in out))

        def one_recorded(number: jax.Array, carry: tuple) -> tuple:
            states, sums, records = carry
            (states, sums), record = one((states, sums), number)
            put = functools.partial(lax.dynamic_update_index_in_dim, index=number, axis=0)
            return states, sums, jax.tree.map(put, records, record)

        carry = (states, sums, records)
        if not looped:
            return one_recorded(first, carry)
        if length is None:
            return lax.fori_loop(first, first + count, one_recorded, carry)
        return lax.fori_loop(0, length, lambda i, carry: one_recorded(first + i, carry), carry)

    def _orders(self, states: States, epoch: np.uint32, examples: int) -> Any:
        if self.plan.vmapped:
            return _orders(states.seed, epoch, examples)
        return tuple(_order(state.seed, epoch, examples) for state in states)

    def _nothing(self, states: States, steps: int) -> tuple[Any, StepRecord]:
        """The sums and records of an epoch of which nothing is done."""
        with on_host():
            return self.put(self.zeros(states, steps))

    def zeros(self, states: States, steps: int) -> tuple[Any, StepRecord]:
        """Sums and records of nothing."""
        return self._zeros(states), self._no_records(states, steps)

    def _zeros(self, states: States) -> Any:
        dtype = at_least_float32(compute_dtype(self.plan.recipe, self._one(states).params))
        if self.plan.vmapped:
            return zero_sums(self.plan.classes, dtype, len(states.step), confusion=False)
        return tuple(zero_sums(self.plan.classes, dtype, confusion=False) for _ in states)

    def _no_records(self, states: States, steps: int) -> StepRecord:
        params = self._one(states).params
        layers = {gradient_layer(path) for path, _ in jax.tree.leaves_with_path(params)}
        members = len(states.step) if self.plan.vmapped else len(states)
        norms = len(layers) if self.plan.recipe.record_gradients else 0
        loss = jnp.zeros((steps, members), at_least_float32(compute_dtype(self.plan.recipe, params)))
        means = jnp.zeros((steps, members), jnp.float32)
        return StepRecord(loss, jnp.zeros((steps, members, norms), jnp.float32), means)

    def _may_loop(self, states: States) -> bool:
        """Whether steps may run in a compiled loop.

        XLA's weight gradient of a convolution takes some 50 times as long in a loop on a CPU (jax-ml/jax#12868).
        """
        if not self.plan.on_cpu:
            return True
        state = self.member(states, 0)
        model = jax.eval_shape(functools.partial(merge_model, self.plan.graphdef), state)
        dtype = compute_dtype(self.plan.recipe, state.params)
        examples = self.plan.part or self.plan.recipe.batch_size
        return not has_native_convolution(model, examples, dtype, self.plan.policy)

    def _one(self, states: States) -> TrainState:
        return states if self.plan.vmapped else states[0]

    # Members in and out of the form that the compiled programs take.

    def join(self, members: list[TrainState]) -> States:
        """Several members' states as one argument, on the devices."""
        return self.put(jax.tree.map(lambda *x: np.stack(x), *members) if self.plan.vmapped else tuple(members))

    def put(self, tree: Any) -> Any:
        """Arrays on the plan's devices, a copy on each; committed, since jit compiles anew for uncommitted ones."""
        devices = self.plan.devices
        if not self.plan.sharded:
            return jax.device_put(tree, devices[0])
        mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
        return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

    def member(self, states: Any, position: int) -> Any:
        """One member's part of states or sums."""
        return jax.tree.map(lambda x: x[position], states) if self.plan.vmapped else states[position]


def variables_of(state: TrainState) -> nnx.State:
    """What evaluation reads of a state."""
    return nnx.merge_state(state.params, state.stats, state.fixed)
