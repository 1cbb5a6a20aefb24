"""Compiled epochs: the same step, alone or over several trials, in a loop or one by one, on one device or many."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.stages import Compiled, Wrapped

from flaxvision._cache import shared_cache
from flaxvision.data.stream import Stream
from flaxvision.ops.dtypes import at_least_float32
from flaxvision.runtime import on_host
from flaxvision.training.batches import Examples, Shard, epoch_order, take_batch
from flaxvision.training.compiling import compiling_once
from flaxvision.training.losses import Sums, add, zero_sums
from flaxvision.training.members import Members, PyTree
from flaxvision.training.plan import KEPT, Plan, compile_for
from flaxvision.training.preparing import beside, put_members
from flaxvision.training.scoring import evaluation_for
from flaxvision.training.state import TrainState
from flaxvision.training.step import Stepped, StepRecord, make_step
from flaxvision.training.updates import build_optimizer

LONGEST = 0.5  # seconds; a call that takes less is followed by one of twice as many steps


class Carry(NamedTuple):
    """What an epoch's steps of a member pass on; a call takes its memory."""

    state: TrainState
    sums: Sums  # of the epoch so far
    records: StepRecord  # axes (steps of the epoch, ...), zero where not done yet


Begun = tuple[int, Members[Carry]]  # how many steps of an epoch are done, and what they leave


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What is static about a compiled call."""

    size: int  # examples of a batch
    looped: bool  # whether its steps are a loop; otherwise it is one step
    length: int | None  # how many there are, where the program is for that number only


@functools.partial(jax.jit, static_argnums=(2, 3))  # compiled once for all plans
def _epoch_orders(
    seeds: Members[jax.Array], epoch: jax.Array, examples: int, stream: Stream | None
) -> Members[jax.Array]:
    return seeds.map(lambda seed: epoch_order(seed, epoch, examples, stream))


class Engine:
    """Trains and evaluates the members of one plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._step = make_step(plan, build_optimizer(plan.recipe, plan.total_steps, plan.steps_per_epoch))
        self._lock, self._pace = threading.Lock(), 1  # steps of a call that may take any number, learned from all calls
        self._many = compile_for(plan, self._train_many, static=("call",), donated=(0,), members=(0, 2))
        self._evaluate = evaluation_for(plan.of_evaluation())

    # What runs in Python: an epoch and an evaluation.

    def epoch(
        self, states: Members[TrainState], data: Examples, epoch: int, begun: Begun | None = None
    ) -> Iterator[Begun]:
        """Train epoch `epoch` (from 0), or go on from `begun`; what is yielded is gone with the next step."""
        plan, examples, batch_size = self.plan, len(data[1]), self.plan.recipe.batch_size
        steps = plan.steps_of(epoch)
        whole = min(steps, examples // batch_size) if plan.on_cpu else steps
        together = len(states.for_program())
        with compiling_once(self._many, "beginning", steps, examples, together):
            done, carries = begun or (0, self._begin(states, steps))
            orders: tuple[Members[jax.Array], ...] = ()
            if plan.recipe.shuffle:
                seeds = states.pick(lambda state: state.seed)
                drawn = seeds.each(lambda seeds: _epoch_orders(seeds, np.uint32(epoch), examples, plan.stream))
                orders = (put_members(drawn, plan) if plan.spread else drawn,)
        if done:
            yield done, carries
        while done < steps:
            left = whole - done
            looped, size = left > 0 and plan.looped, batch_size if left else examples - whole * batch_size
            number = 1 if not looped else min(self._pace, left) if plan.on_cpu else left
            call = Call(size, looped, None if plan.on_cpu else number)
            began = time.perf_counter()
            train = functools.partial(self._call, call, data, np.int32(done), np.int32(number))
            carries = carries.each(train, *orders)
            done += number
            if plan.on_cpu and looped and number == self._pace < whole:
                jax.block_until_ready(carries)
                quick = time.perf_counter() - began < LONGEST
                with self._lock:
                    self._pace *= 2 if quick and number == self._pace else 1
            yield done, carries

    def _call(
        self,
        call: Call,
        data: Examples,
        first: np.int32,
        count: np.int32,
        carries: Members[Carry],
        *orders: Members[jax.Array],
    ) -> Members[Carry]:
        """Steps of those members that share a program."""
        with compiling_once(self._many, call, len(data[1]), len(carries)):
            return self._many(carries, self._beside(data, carries), orders, first, count, call=call)

    def _beside(self, data: Examples, members: PyTree) -> Examples:
        """The examples where members lie."""
        return beside(data, members) if self.plan.spread and not self.plan.stacked else data

    def evaluate(self, states: Members[TrainState], data: Examples, examples: range) -> Members[Sums]:
        """The sums of every member over a range of the data, in evaluation mode."""

        def score(states: Members[TrainState]) -> Members[Sums]:
            variables = states.pick(lambda state: state.variables)
            with compiling_once(self._evaluate, len(data[1]), len(states)):
                return self._evaluate(
                    variables, self._beside(data, variables), np.int32(examples.start), np.int32(examples.stop)
                )

        return states.each(score)

    def compile_ahead(
        self, states: Members[TrainState], data: Examples, held_out: Examples, epoch: int
    ) -> Future[Compiled] | None:
        """Compile, side by side, what an epoch needs; the future is its evaluation's. None on a CPU.

        XLA compiles each program for an accelerator for seconds, mostly on one core of the host.
        """
        many, evaluate = self._many, self._evaluate
        if self.plan.on_cpu or not (isinstance(many, Wrapped) and isinstance(evaluate, Wrapped)):  # on several devices
            return None
        one, zero, steps = states.for_program(), np.int32(0), self.plan.steps_of(epoch)
        variables, seeds = one.pick(lambda state: state.variables), one.pick(lambda state: state.seed)
        pool = ThreadPoolExecutor(2)
        try:  # lowered in this thread, since settings of JAX are a thread's own
            held_out, data = self._beside(held_out, seeds), self._beside(data, seeds)
            evaluation = pool.submit(evaluate.lower(variables, held_out, zero, zero).compile)
            orders: tuple[Members[jax.Array], ...] = ()
            ordering = None
            if self.plan.recipe.shuffle:
                lowered = _epoch_orders.lower(seeds, np.uint32(0), len(data[1]), self.plan.stream)
                ordering = pool.submit(lowered.compile)
                placed = functools.partial(jax.ShapeDtypeStruct, sharding=jax.tree.leaves(seeds)[0].sharding)
                orders = (jax.tree.map(lambda x: placed(x.shape, x.dtype), lowered.out_info),)
            call = Call(self.plan.recipe.batch_size, looped=True, length=steps)
            many.lower(self._begin(one, steps), data, orders, zero, zero, call=call).compile()
            if ordering is not None:
                ordering.result()
            return evaluation
        finally:
            pool.shutdown(wait=False)

    # What is compiled.

    def _train_many(
        self,
        shard: Shard,
        carries: Members[Carry],
        data: Examples,
        orders: tuple[Members[jax.Array], ...],
        first: jax.Array,
        count: jax.Array,
        *,
        call: Call,
    ) -> Members[Carry]:
        """`count` steps from step `first` of the epoch on, of members that share one loop.

        The count is an argument, so that one program serves calls of any length. Without `looped` it is 1. On an
        accelerator `length` is the count: between the steps of a loop of known length nothing waits for the device.
        There the short last batch is padded, to be one of the loop; a CPU has a program of its own for it.
        """
        images, labels = data
        padded = call.length is not None and len(labels) % call.size > 0 and not self.plan.recipe.drop_last

        def one(number: jax.Array, carries: Members[Carry]) -> Members[Carry]:
            def train(carry: Carry, order: jax.Array | None = None) -> Stepped:
                start = number * self.plan.recipe.batch_size
                batch = take_batch(
                    images, labels, order, start, call.size, shard, padded=padded, mixed=self.plan.recipe.mixes
                )
                stepped = self._step(carry.state, batch)
                return stepped._replace(sums=add(carry.sums, stepped.sums))

            def noted(carry: Carry, done: Stepped) -> Carry:  # outside of `map`, whose vmap makes a scatter of it
                write = functools.partial(lax.dynamic_update_index_in_dim, index=number, axis=carries.axes)
                return Carry(done.state, done.sums, jax.tree.map(write, carry.records, done.record))

            return carries.pick(noted, carries.map(train, *orders))

        if not call.looped:
            return one(first, carries)
        if call.length is None:
            return lax.fori_loop(first, first + count, one, carries)
        return lax.fori_loop(0, call.length, lambda i, carries: one(first + i, carries), carries)

    def _begin(self, states: Members[TrainState], steps: int) -> Members[Carry]:
        """An epoch of which nothing is done."""
        with on_host():
            zeros = put_members(self.zeros(states, steps), self.plan)
            return states.pick(lambda state, nothing: Carry(state, *nothing), zeros)

    def zeros(self, states: Members[TrainState], steps: int) -> Members[tuple[Sums, StepRecord]]:
        """Sums and records of nothing."""
        plan, dtype = self.plan, at_least_float32(self.plan.dtype)
        norms = len(plan.layers) if plan.recipe.record_gradients else 0

        def make(members: int | None) -> tuple[Sums, StepRecord]:
            each = (steps,) if members is None else (members, steps)
            means = jnp.zeros(each, jnp.float32)
            record = StepRecord(jnp.zeros(each, dtype), jnp.zeros((*each, norms), jnp.float32), means)
            return zero_sums(plan.classes, dtype, members, confusion=False), record

        return states.zeros(make)


# The engine of a plan, with what it compiled before; the same one in all threads.
engine_for = shared_cache(KEPT)(Engine)
