"""Training loops: one model (`fit`), or several trials of one structure together (`train_cohort`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from flaxvision._interrupts import deferred, stop_if_asked
from flaxvision._own_code import refresh
from flaxvision.data import Dataset
from flaxvision.errors import UserError, check_choice
from flaxvision.layers import Chain
from flaxvision.runtime import on_host, same_draws
from flaxvision.training.callbacks import Callback, Progress
from flaxvision.training.checkpoint import Checkpoints, Keep, Kept
from flaxvision.training.checks import check_alike, check_cohort, check_fit
from flaxvision.training.compiling import Clock
from flaxvision.training.confusion import as_pairs
from flaxvision.training.engine import Begun, Carry, engine_for
from flaxvision.training.history import History, HistoryBuilder, Result
from flaxvision.training.identity import cohort_identity
from flaxvision.training.members import Members, PyTree
from flaxvision.training.metrics import SPLITS, Metrics
from flaxvision.training.optimizers import is_own
from flaxvision.training.plan import plan_for
from flaxvision.training.preparing import (
    chosen_devices,
    count_batches,
    norms,
    place,
    prepare,
    put,
    with_frozen,
    with_weights,
)
from flaxvision.training.progress import ProgressBar
from flaxvision.training.recipe import Recipe
from flaxvision.training.selection import Best
from flaxvision.training.state import TrainState, init_members, merge_model

MODES = ("auto", "loop", "unroll", "vmap")
PREFIXES = {"validation": "val", "test": "test"}  # split -> prefix of its metrics
TOLD = ("loss", "top1")  # metrics of every split that callbacks are told


def fit(
    model: Chain,
    dataset: Dataset,
    recipe: Recipe,
    *,
    devices: str | int | Sequence[jax.Device] = "auto",
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 0.0,
    progress: bool | None = None,
) -> Result:
    """Train a model.

    Args:
        model: The model to start from; it is not changed.
        dataset: What to train and evaluate on; every image counts, in a short last batch too.
        recipe: How to train.
        devices: "auto" for all local devices, a count, or the devices; several share each batch by `jax.pmap`.
        callbacks: Functions that are called with a `Progress` after every compiled call, and with its `metrics` after
            every epoch; one that returns True stops the run after the epoch at hand.
        checkpoint: A folder in which to keep the newest state (orbax). A run that finds one goes on from there, if it
            is the same but for its duration: network, initial weights, examples and recipe are compared by content, in
            another process too. The result is then that of a run never ended, to the bit on one machine.
        checkpoint_every: Seconds between two checkpoints at most, unless one compiled call takes longer; within an
            epoch too (with an accelerator or several devices at its end); 0: one at the end of every epoch. The end of
            the run is always kept.
        progress: Whether a bar shows how far it is; None: on a terminal and in a notebook.

    Returns:
        The trained model, with `model.preprocess` and `model.classes` set, its history and timing.

    Raises:
        UserError: If the model, the data and the recipe do not fit each other, or the checkpoint is damaged or of
            another run; it names what differs.

    >>> import flaxvision as fv
    >>> model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    >>> data, recipe = fv.data.load("two_clusters", limit=64), fv.Recipe(epochs=5, batch_size=16)
    >>> def two_epochs(progress):
    ...     return bool(progress.metrics) and progress.epoch == 2 and "test_top1" in progress.metrics[0]
    >>> fv.fit(model, data, recipe, callbacks=[two_epochs]).history.epochs
    2
    """
    if not isinstance(dataset, Dataset):
        raise UserError(f"fit got a {type(dataset).__name__}: give a Dataset, such as fv.data.from_arrays(…)")
    if is_own(recipe.optimizer):
        refresh(str(recipe.optimizer))
    keep = None if checkpoint is None else Keep(Path(checkpoint), checkpoint_every)
    with ProgressBar(shown=progress) as bar:
        told: list[Callback] = [bar, *callbacks]
        return train_cohort([model], dataset, [recipe], devices=devices, callbacks=told, checkpoint=keep)[0]


def train_cohort(
    models: Sequence[Chain],
    dataset: Dataset,
    recipes: Sequence[Recipe],
    *,
    mode: str = "auto",
    devices: str | int | Sequence[jax.Device] = "auto",
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | Keep | None = None,
) -> list[Result]:
    """Train several models of one structure in one compiled program, a recipe each.

    Args:
        models: The models to start from, alike but for their numbers; they are not changed.
        dataset: What to train and evaluate on.
        recipes: One a model; they may differ in learning rate, in the numbers of `flaxvision.training.recipe.VARYING`,
            in seed and warm start.
        mode: "unroll" (members one after the other in one program: on a CPU bit-equal to single runs), "vmap"
            (members as one batched program), or "auto": several members are vmapped on an accelerator, else unrolled.
        devices: As in `fit`.
        callbacks: As in `fit`.
        checkpoint: As in `fit`; the state of all models is kept together.

    Returns:
        One result a model, in order.

    Raises:
        UserError: As in `fit`, and if the members' structures differ.
    """
    check_choice("mode", mode, MODES)
    check_cohort(models, recipes)
    recipes = [with_frozen(with_weights(recipe, dataset), model) for recipe, model in zip(recipes, models, strict=True)]
    chosen = chosen_devices(devices)
    stacked = mode == "vmap" or (mode == "auto" and len(models) > 1 and chosen[0].platform != "cpu")
    keep = checkpoint if checkpoint is None or isinstance(checkpoint, Keep) else Keep(Path(checkpoint))
    precision = "highest" if recipes[0].precision == "highest" else None
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext(), same_draws(), deferred():
        return _Run(models, dataset, recipes, chosen, tuple(callbacks), stacked=stacked).train(keep)


class _Run:
    """One training of a cohort: it checks and places what it is given, loops over epochs, selects, keeps and ends."""

    def __init__(
        self,
        models: Sequence[Chain],
        dataset: Dataset,
        recipes: Sequence[Recipe],
        devices: tuple[jax.Device, ...],
        callbacks: tuple[Callback, ...],
        *,
        stacked: bool,
    ):
        self.recipe, self.recipes, self.dataset, self.callbacks = recipes[0], recipes, dataset, callbacks
        total_steps = self.recipe.total_steps(len(dataset.train))
        self.selection = self.recipe.selection(dataset.validation is not None)
        with on_host():
            check_fit(models[0], dataset, self.recipe)
            self.batches = [{name: norm.batches for name, norm in norms(model).items()} for model in models]
            prepared = [prepare(model, dataset, recipe) for model, recipe in zip(models, recipes, strict=True)]
            check_alike(prepared, self.recipe.frozen)
            self.plan = plan_for(prepared[0], self.recipe, dataset, total_steps, devices, stacked=stacked)
            states = init_members(prepared, recipes, self.plan)
        self.engine = engine_for(self.plan)
        self.states, self.data = put(states, devices), place(dataset, devices)
        self.histories = [HistoryBuilder(self.plan.layers) for _ in models]
        self.best = [Best() for _ in models]
        self.ends: list[tuple[int, float]] = []  # of each epoch, its last update and the seconds until then

    def train(self, keep: Keep | None) -> list[Result]:
        self.clock = Clock(len(self.best))
        with contextlib.ExitStack() as stack:
            self.checkpoints = None if keep is None else stack.enter_context(contextlib.closing(self._open(keep)))
            self._loop()
        timing, states = self.clock.timing(len(self.dataset.train)), self._selected()
        results = []
        for k, best in enumerate(self.best):
            state = best.state or on_its_own(states.member(k))
            model = merge_model(self.plan.graphdef, state)
            count_batches(model, self.batches[k], int(state.step), self.recipe.frozen)
            history = self.histories[k].history(self.ends)
            results.append(Result(model, history, timing, best.epoch, left_the_numbers(model, history)))
        return results

    def _loop(self) -> None:
        epoch, begun = self._go_on()
        over = epoch >= self.plan.epochs or self._stopped()
        self.clock.mark()
        ahead, data = self.engine.compile_ahead, self.data
        compiling = None if over else ahead(self.states, data.train, data.held_out, epoch)
        while not over:
            stop, carry = self._train(epoch, begun)
            begun = None
            if compiling is not None:
                self.clock.wait(compiling)
            stop |= self._score(epoch, carry)
            self.clock.mark()
            epoch += 1
            over = stop or epoch == self.plan.epochs or self._stopped()
            self._keep(epoch, over=over)

    def _stopped(self) -> bool:
        return all(best.stopped for best in self.best)

    def _selected(self) -> Members[TrainState]:
        return self.states.pick(lambda state: state.selected).fetched()

    def _tell(
        self, step: int, epoch: int, examples: int = 0, metrics: tuple[dict[str, float], ...] = (), note: str = ""
    ) -> bool:
        """Tell all callbacks where the run is; whether one of them ends it."""
        progress = Progress(step, self.plan.total_steps, epoch + 1, examples, metrics, note)
        told = any([callback(progress) for callback in self.callbacks])
        stop_if_asked()
        return told

    # The steps of an epoch, and what they are worth.

    def _train(self, epoch: int, begun: Begun | None) -> tuple[bool, Carry]:
        plan, stop, before = self.plan, False, begun[0] if begun else 0
        within = self.checkpoints is not None and self.checkpoints.keep.every > 0 and not plan.sharded
        for done, carry in self.engine.epoch(self.states, self.data.train, epoch, begun):
            self.states = carry.states
            examples = (done - before) * self.recipe.batch_size * len(self.best)
            stop |= self._tell(epoch * plan.steps_per_epoch + done, epoch, examples)
            if within and before < done < plan.steps_of(epoch):
                self._keep(epoch, done, {"sums": carry.sums, "records": carry.records})
            before = done
        return stop, carry

    def _score(self, epoch: int, carry: Carry) -> bool:
        """Evaluate an epoch's end, add it to the histories, and keep the parameters that are selected."""
        scores = {"train": carry.sums} | {
            PREFIXES[split]: self.engine.evaluate(self.states, self.data.held_out, examples)
            for split, examples in self.data.ranges.items()
        }
        fetched, records = jax.device_get((scores, carry.records))
        step = epoch * self.plan.steps_per_epoch + self.plan.steps_of(epoch)
        self.ends.append((step, self.clock.seconds(time.perf_counter())[0]))
        selected: list[int] = []
        told: list[dict[str, float]] = []
        for k, (history, best) in enumerate(zip(self.histories, self.best, strict=True)):
            if best.stopped:
                told.append({})
                continue
            scored = {split: Metrics.of(sums.member(k)) for split, sums in fetched.items()}
            told.append({f"{split}_{name}": getattr(found, name) for split, found in scored.items() for name in TOLD})
            for split, found in scored.items():
                history.add_epoch(split, found)
            history.add("step_loss", records.loss[:, k])
            if self.recipe.record_gradients:
                history.add("gradient_norm", records.gradient_norm[:, k])
                history.add("gradient_mean", records.gradient_mean[:, k])
            if best.update(epoch + 1, history.last(self.selection), self.recipe, self.selection):
                selected.append(k)
            if best.epoch == epoch + 1:
                for split, found in scored.items():
                    history.select(split, found)
        if selected:
            states = self._selected()
            for k in selected:
                self.best[k].state = on_its_own(states.member(k))
        return self._tell(step, epoch, metrics=tuple(told))

    # What is kept on disk.

    def _open(self, keep: Keep) -> Checkpoints:
        identity = keep.identity
        if identity is None:
            states = jax.device_get(self.states)
            models = [merge_model(self.plan.graphdef, states.member(k)) for k in range(len(states))]
            identity = cohort_identity(models, self.dataset, self.recipes, self.plan.total_steps)
        identity = {**identity, "vmapped": self.plan.stacked}
        return Checkpoints(keep, identity, lambda note: self._tell(0, 0, note=note))

    def _go_on(self) -> tuple[int, Begun | None]:
        """Take up what was kept; how many epochs are over, and what is done of the next one."""
        if self.checkpoints is None:
            return 0, None
        state, (sums, records) = jax.eval_shape(
            lambda states: (states.member(0).selected, self.engine.zeros(states, 1)), self.states
        )
        kept = self.checkpoints.restore({"states": self.states, "sums": sums, "records": records, "best": state})
        if kept is None:
            return 0, None
        kept.check(self.plan.total_steps, self.plan.steps_per_epoch)
        devices, self.ends = self.plan.devices, kept.ends
        self.states, self.best, self.clock.before = put(kept.trees["states"], devices), kept.best, kept.seconds
        for history, rows, best in zip(self.histories, kept.histories, kept.best, strict=True):
            history.go_on(as_pairs(rows, best.epoch))
        begun = None
        if kept.updates:
            records = kept.records(self.plan.steps_of(kept.epochs))
            begun = kept.updates, Carry(self.states, *put((kept.trees["sums"], records), devices))
        within = f", {kept.updates} updates on" if kept.updates else ""
        self._tell(kept.step, kept.epochs, note=f"goes on from epoch {kept.epochs + 1}{within}")
        return kept.epochs, begun

    def _keep(
        self, epochs: int, updates: int = 0, within: dict[str, PyTree] | None = None, *, over: bool = False
    ) -> None:
        """Keep the state after so many epochs, and updates of the next one, if it is time."""
        if self.checkpoints is None or not self.checkpoints.wanted(over):
            return
        step = min(epochs * self.plan.steps_per_epoch, self.plan.total_steps) + updates
        trees = {"states": self.states, **(within or {})}
        histories = [history.history().arrays for history in self.histories]
        seconds = self.clock.seconds(time.perf_counter())
        self.checkpoints.save(Kept(step, epochs, updates, trees, histories, self.best, seconds, self.ends))


def left_the_numbers(model: Chain, history: History) -> bool:
    """Whether a loss of any epoch, or a number of the model, is not finite: its last update shows in these alone."""
    losses = [history[name] for name in (f"{split}_loss" for split in SPLITS) if name in history]
    numbers = jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return not all(np.isfinite(np.asarray(array)).all() for array in (*losses, *numbers))


def on_its_own(state: TrainState) -> TrainState:
    """A copy on the host: a view would keep all members' arrays, and the next step takes those on a device."""
    return jax.tree.map(np.array, jax.device_get(state))
