"""Training loops: one model (`fit`), or several trials of one structure together (`train_cohort`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision._describe import digest
from flaxvision._own_code import refresh
from flaxvision.data import Dataset
from flaxvision.errors import UserError, check_choice, unknown
from flaxvision.layers import BatchNorm, Chain, Dropout, Preprocess
from flaxvision.layers.context import matches
from flaxvision.models.files import assign, read
from flaxvision.runtime import on_host, same_draws
from flaxvision.training.checkpoint import Checkpoints, Keep, Kept
from flaxvision.training.compiling import compiled_seconds
from flaxvision.training.confusion import as_pairs
from flaxvision.training.engine import Engine, engine_for
from flaxvision.training.history import History, HistoryBuilder, Result, Timing
from flaxvision.training.identity import cohort_identity
from flaxvision.training.losses import loss_of
from flaxvision.training.metrics import Metrics, check_metric, metric_of
from flaxvision.training.optimizers import code_of_optimizer, is_own
from flaxvision.training.placing import place
from flaxvision.training.plan import Plan, part_of, tuning_pays
from flaxvision.training.recipe import VARYING, Recipe
from flaxvision.training.selection import Best
from flaxvision.training.state import TrainState, init_state, init_states, merge_model, split_model
from flaxvision.training.step import cast, gradient_layer
from flaxvision.training.updates import build_optimizer, check_own, init_many

PREPROCESS = {"unit": Preprocess(1 / 255), "signed": Preprocess(1 / 127.5, -1.0), "raw": Preprocess()}
MODES = ("auto", "loop", "unroll", "vmap")
NAMES = {"train": "train", "validation": "val", "test": "test"}  # split -> prefix of its metrics


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a callback is told: after every compiled call, and with `metrics` after every epoch."""

    step: int  # updates done
    steps: int  # updates in all
    epoch: int  # the epoch at hand, from 1
    examples: int  # training examples since the last report, over all members
    metrics: tuple[dict[str, float], ...] = ()  # a member's metrics of the epoch that just ended; () before
    note: str = ""  # what there is to say of the run, such as "goes on from epoch 12"


Callback = Callable[[Progress], "bool | None"]  # returning True stops the run after the epoch at hand


def fit(
    model: Chain,
    dataset: Dataset,
    recipe: Recipe,
    *,
    devices: str | int | Sequence[jax.Device] = "auto",
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 0.0,
) -> Result:
    """Train a model.

    Args:
        model: The model to start from; it is not changed.
        dataset: What to train and evaluate on; every image counts, in a short last batch too.
        recipe: How to train.
        devices: "auto" for all local devices, a count, or the devices; several share each batch by `jax.pmap`.
        callbacks: Called with a `Progress` after every compiled call and every epoch; True stops the run.
        checkpoint: A folder in which to keep the newest state (orbax). A run that finds one goes on from there, if it
            is the same but for its duration: network, initial weights, examples and recipe are compared by content, in
            another process too. The result is then that of a run never ended, to the bit on one machine.
        checkpoint_every: Seconds between two checkpoints, within an epoch too (with an accelerator or several devices
            at its end); 0: one at the end of every epoch. The end of the run is always kept.

    Returns:
        The trained model, with `model.preprocess` and `model.classes` set, its history and timing.

    Raises:
        UserError: If the model, the data and the recipe do not fit each other, or the checkpoint is damaged or of
            another run; it names what differs.
    """
    if not isinstance(dataset, Dataset):
        raise UserError(f"fit got a {type(dataset).__name__}: give a Dataset, such as fv.data.from_arrays(…)")
    if is_own(recipe.optimizer):
        refresh(str(recipe.optimizer))
    keep = None if checkpoint is None else Keep(Path(checkpoint), checkpoint_every)
    return train_cohort([model], dataset, [recipe], devices=devices, callbacks=callbacks, checkpoint=keep)[0]


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
    if len(models) != len(recipes) or not models:
        raise UserError(f"{len(models)} models and {len(recipes)} recipes: give one recipe a model, and one at least")
    structures = {recipe.structure() for recipe in recipes}
    if len(structures) > 1:
        raise UserError(
            f"recipes of a cohort may differ in learning_rate, {', '.join(VARYING)} (all with one or all without), "
            "seed and warm start only"
        )
    recipe = recipes[0]
    chosen = _devices(devices)
    together = mode == "auto" and len(models) > 1 and chosen[0].platform != "cpu"
    run = _Run(models, dataset, recipes, chosen, mode == "vmap" or together)
    precision = "highest" if recipe.precision == "highest" else None
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext(), same_draws():
        keep = checkpoint if checkpoint is None or isinstance(checkpoint, Keep) else Keep(Path(checkpoint))
        return run.train(tuple(callbacks), keep)


class _Run:
    def __init__(
        self,
        models: Sequence[Chain],
        dataset: Dataset,
        recipes: Sequence[Recipe],
        devices: tuple[jax.Device, ...],
        vmapped: bool,
    ):
        self.recipe, self.recipes, self.dataset = recipes[0], recipes, dataset
        self.members = len(models)
        examples = len(dataset.train)
        self.total_steps = self.recipe.total_steps(examples)
        self.per_epoch = -(-examples // self.recipe.batch_size)
        self.selection = self.recipe.selection(dataset.validation is not None)
        with on_host():
            check_fit(models[0], dataset, self.recipe)
            prepared = [_prepare(model, dataset, recipe) for model, recipe in zip(models, recipes, strict=True)]
        graphdef, params, *others = split_model(prepared[0], self.recipe.frozen)
        shapes = jax.tree.map(np.shape, (params, *others))
        for model in prepared[1:]:
            other, *parts = split_model(model, self.recipe.frozen)
            if other == graphdef and jax.tree.map(np.shape, tuple(parts)) == shapes:
                continue
            raise UserError("models of a cohort differ in structure: give models of one name and one set of sizes")
        classes = 0 if self.recipe.loss == "squared_error" else dataset.num_classes
        plan = Plan(
            graphdef,
            self.recipe.structure(),
            classes,
            self.per_epoch,
            self.total_steps,
            vmapped,
            None if vmapped else part_of(prepared[0], self.recipe, devices[0].platform),
            tuple(devices),
            own_code=digest(code) if (code := code_of_optimizer(self.recipe.optimizer)) else "",
        )
        self.plan = dataclasses.replace(plan, tuned=tuning_pays(prepared[0], plan))
        self.engine: Engine = engine_for(self.plan)
        dtype = jnp.dtype("float64" if self.recipe.precision == "float64" else "float32")
        duration = self.total_steps, self.per_epoch
        with on_host():
            if vmapped:
                init = functools.partial(init_many, recipes, *duration, dtype=dtype)
                own = zip(*((recipe.seed, recipe.label_smoothing) for recipe in recipes), strict=True)
                states: Any = init_states(prepared, self.recipe.frozen, init, *own)
            else:
                states = tuple(
                    init_state(
                        model,
                        recipe.frozen,
                        build_optimizer(recipe, *duration, dtype),
                        recipe.seed,
                        recipe.label_smoothing,
                    )
                    for model, recipe in zip(prepared, recipes, strict=True)
                )
        self.states = self.engine.put(states)
        self.data = place(dataset, self.plan.devices, self.engine.put)
        positions = sorted({gradient_layer(path) for path, _ in jax.tree.leaves_with_path(params)})
        self.layers = tuple(prepared[0].names[position] for position in positions)

    def train(self, callbacks: tuple[Callback, ...], keep: Keep | None) -> list[Result]:
        self.began, self.compiled_before, self.waited = time.perf_counter(), compiled_seconds(), 0.0
        self.builders = [HistoryBuilder(self.layers) for _ in range(self.members)]
        self.best = [Best() for _ in range(self.members)]
        self.before = 0.0, 0.0
        self.begun: tuple[int, Any, Any] | None = None
        self.checkpoints = None if keep is None else self._checkpoints(keep, callbacks)
        with self.checkpoints or contextlib.nullcontext():
            marks = self._epochs(callbacks)
        timing = self._timing(marks)
        states = self._fetched()
        return [self._result(k, states, self.builders[k].history(), self.best[k], timing) for k in range(self.members)]

    def _epochs(self, callbacks: tuple[Callback, ...]) -> list[float]:
        """Train; the moments at which an epoch began or ended."""
        epochs = -(-self.total_steps // self.per_epoch)
        first = self._go_on(callbacks)
        marks = [time.perf_counter()]
        over = first >= epochs or all(member.stopped for member in self.best)
        ahead = self.engine.compile_ahead
        steps = self._steps(first)
        self.compiling = None if over else ahead(self.states, self.data.train, self.data.held_out, steps)
        for epoch in range(first, epochs):
            if over:
                break
            stop = self._epoch(epoch, callbacks)
            marks.append(time.perf_counter())
            over = stop or epoch + 1 == epochs or all(member.stopped for member in self.best)
            self._keep(epoch + 1, over=over)
        return marks

    def _steps(self, epoch: int) -> int:
        return min(self.per_epoch, self.total_steps - epoch * self.per_epoch)

    def _checkpoints(self, keep: Keep, callbacks: tuple[Callback, ...]) -> Checkpoints:
        identity = keep.identity
        if identity is None:
            states = jax.device_get(self.states)
            graph, members = self.plan.graphdef, range(self.members)
            models = [merge_model(graph, self.engine.member(states, k)) for k in members]
            identity = cohort_identity(models, self.dataset, self.recipes, self.total_steps)

        def say(note: str) -> None:
            for callback in callbacks:
                callback(Progress(0, self.total_steps, 1, 0, note=note))

        return Checkpoints(keep, {**identity, "vmapped": self.plan.vmapped}, say)

    def _go_on(self, callbacks: tuple[Callback, ...]) -> int:
        """Take up what was kept; the number of epochs that are over."""
        if self.checkpoints is None:
            return 0
        state = self.engine.member(self.states, 0)
        sums, records = jax.eval_shape(functools.partial(self.engine.zeros, steps=1), self.states)
        like = {"states": self.states, "sums": sums, "records": records, "best": self._selected(state)}
        kept = self.checkpoints.restore(like)
        if kept is None:
            return 0
        self._check_goes_on(kept)
        put = self.engine.put
        self.states, self.best, self.before = put(kept.trees["states"]), kept.best, kept.seconds
        self.builders = [
            HistoryBuilder(self.layers, as_pairs(rows, best.epoch))
            for rows, best in zip(kept.histories, kept.best, strict=True)
        ]
        if kept.updates:
            steps = self._steps(kept.epochs)
            records = jax.tree.map(lambda rows: _of_length(rows, steps), kept.trees["records"])
            self.begun = kept.updates, *put((kept.trees["sums"], records))
        within = f", {kept.updates} updates on" if kept.updates else ""
        note = f"goes on from epoch {kept.epochs + 1}{within}"
        for callback in callbacks:
            callback(Progress(kept.step, self.total_steps, kept.epochs + 1, 0, note=note))
        return kept.epochs

    def _keep(self, epochs: int, updates: int = 0, within: dict[str, Any] | None = None, *, over: bool = False) -> None:
        """Keep the state after so many epochs, and updates of the next one, if it is time."""
        if self.checkpoints is None or not self.checkpoints.wanted(over):
            return
        kept = Kept(
            min(epochs * self.per_epoch, self.total_steps) + updates,
            epochs,
            updates,
            {"states": self.states, **(within or {})},
            [builder.history().arrays for builder in self.builders],
            self.best,
            self._seconds(time.perf_counter()),
        )
        self.checkpoints.save(kept)

    def _check_goes_on(self, kept: Kept) -> None:
        """Raise unless what was kept is a beginning of this run."""
        done, epochs = kept.step, kept.epochs + bool(kept.updates)
        if done > self.total_steps:
            raise UserError(
                f"the checkpoint is {done} updates on ({epochs} epochs) but the recipe ends after {self.total_steps}: "
                "give a longer duration, or another folder"
            )
        if not kept.updates and done < min(epochs * self.per_epoch, self.total_steps):
            raise UserError(
                f"the checkpoint ends after {done} updates, within epoch {epochs}, and cannot be continued from there: "
                "give the same duration, or another folder"
            )

    def _epoch(self, epoch: int, callbacks: tuple[Callback, ...]) -> bool:
        steps, best, builders = self._steps(epoch), self.best, self.builders
        begun, self.begun = self.begun, None
        stop, before = False, begun[0] if begun else 0
        for done, states, total, so_far in self.engine.epoch(self.states, self.data.train, epoch, steps, begun):
            self.states, sums, records = states, total, so_far
            examples = (done - before) * self.recipe.batch_size * self.members
            progress = Progress(epoch * self.per_epoch + done, self.total_steps, epoch + 1, examples)
            stop |= any([callback(progress) for callback in callbacks])
            within = self.checkpoints is not None and self.checkpoints.keep.every > 0 and not self.plan.sharded
            if within and before < done < steps:
                self._keep(epoch, done, {"sums": sums, "records": records})
            before = done
        if self.compiling is not None:
            since = time.perf_counter()
            self.compiling.result()
            self.waited += time.perf_counter() - since
        scores = {
            NAMES[split]: self.engine.evaluate(self.states, self.data.held_out, examples)
            for split, examples in self.data.ranges.items()
        }
        fetched, records = jax.device_get(({"train": sums, **scores}, records))
        kept: list[int] = []
        for k, (builder, member) in enumerate(zip(builders, best, strict=True)):
            if member.stopped:
                continue
            scored = {split: Metrics.of(self.engine.member(values, k)) for split, values in fetched.items()}
            for split, found in scored.items():
                builder.add_epoch(split, found)
            builder.add("step_loss", records.loss[:, k])
            if self.recipe.record_gradients:
                for name in ("gradient_norm", "gradient_mean"):
                    builder.add(name, getattr(records, name)[:, k])
            if self._select(epoch, builder, member):
                kept.append(k)
            if member.epoch == epoch + 1:
                for split, found in scored.items():
                    builder.select(split, found)
        states = self._fetched() if kept else None
        for k in kept:
            copy = np.array if self.plan.vmapped else jnp.copy
            best[k].state = jax.tree.map(copy, self.engine.member(states, k))
        metrics = tuple(
            {f"{split}_{name}": builder.last(f"{split}_{name}") for split in fetched for name in ("loss", "top1")}
            for builder in builders
        )
        progress = Progress(epoch * self.per_epoch + steps, self.total_steps, epoch + 1, 0, metrics)
        return stop | any([callback(progress) for callback in callbacks])

    def _fetched(self) -> Any:
        """The states, those of a vmapped plan on the host: one transfer for all members."""
        return jax.device_get(self._selected(self.states)) if self.plan.vmapped else self.states

    def _selected(self, state: TrainState) -> TrainState:
        """The part of a member's state that is kept of the selected epoch: in a vmapped plan not the optimizer's."""
        return state._replace(opt=()) if self.plan.vmapped else state

    def _select(self, epoch: int, builder: HistoryBuilder, member: Best) -> bool:
        """Note what an epoch was worth to a member; whether its parameters are to be kept."""
        value = builder.last(self.selection)
        value = -value if metric_of(self.selection).lower_is_better else value
        improved = value > member.value  # never for NaN
        if improved:
            member.value, member.at = value, epoch + 1
        if self.recipe.select == "last" or improved or member.state is None:
            member.epoch = epoch + 1
        out_of_patience = bool(self.recipe.early_stopping) and epoch + 1 - member.at >= self.recipe.early_stopping
        if out_of_patience:
            member.stopped = True
        keep = self.recipe.select == "best" and (improved or member.state is None)
        return keep or (self.recipe.select == "last" and out_of_patience)

    def _result(self, k: int, states: Any, history: History, best: Best, timing: Timing) -> Result:
        state = self.engine.member(states, k) if best.state is None else best.state
        if self.plan.vmapped:
            state = jax.tree.map(np.array, state)  # a view would keep all members' numbers
        model = merge_model(self.plan.graphdef, jax.device_get(state))
        diverged = not bool(np.isfinite(history["train_loss"]).all())
        return Result(model, history, timing, best.epoch, diverged)

    def _seconds(self, now: float) -> tuple[float, float]:
        """Seconds so far a member, and of these for compiling; with those before an interruption."""
        compiling = compiled_seconds() - self.compiled_before + self.waited
        total, before = self.before
        return total + (now - self.began) / self.members, before + compiling / self.members

    def _timing(self, marks: list[float]) -> Timing:
        epochs = len(marks) - 1
        if not epochs:
            return Timing(*self.before, 0.0, 0.0)
        examples = len(self.data.train[1]) * self.members
        steady = marks[1:] if epochs > 1 else marks
        rate = examples * (len(steady) - 1) / (steady[-1] - steady[0])
        return Timing(*self._seconds(marks[-1]), (marks[1] - self.began) / self.members, rate)


def _of_length(rows: np.ndarray, steps: int) -> np.ndarray:
    """The rows of an epoch of `steps` steps, zero where nothing is known."""
    return np.concatenate([rows[:steps], np.zeros((max(0, steps - len(rows)), *rows.shape[1:]), rows.dtype)])


def check_fit(model: Chain, dataset: Dataset, recipe: Recipe) -> None:
    """Raise `UserError` unless the model (which may be abstract), the data and the recipe fit each other."""
    if model.input_shape != dataset.input_shape:
        raise UserError(
            f"{model.kind} takes examples of shape {model.input_shape} but {dataset.name} has {dataset.input_shape}: "
            f"create it with input_shape={dataset.input_shape}"
        )
    output = model.output_shape
    if loss_of(output) != recipe.loss:
        raise UserError(
            f"loss {recipe.loss!r} does not fit {model.kind}, whose output for one example has shape {output}: "
            f"use loss {loss_of(output)!r}, or a model with other outputs"
        )
    wanted = {"cross_entropy": dataset.num_classes, "binary_cross_entropy": 1}.get(recipe.loss)
    if wanted is not None and output[0] != wanted:
        raise UserError(
            f"{model.kind} has {output[0]} outputs but {dataset.name} has {dataset.num_classes} classes: "
            f"create it with num_classes={wanted}"
        )
    if recipe.loss == "binary_cross_entropy" and dataset.num_classes != 2:
        raise UserError(f"loss 'binary_cross_entropy' takes 2 classes, {dataset.name} has {dataset.num_classes}")
    if recipe.loss == "squared_error" and output != dataset.input_shape:
        raise UserError(f"{model.kind} gives {output} for examples of {dataset.input_shape}: they must be equal")
    if recipe.augment and len(dataset.input_shape) != 3:
        raise UserError(f"augment={recipe.augment} is for images; {dataset.name} holds points")
    if recipe.pixels != "unit" and dataset.train.images.dtype != np.uint8:
        raise UserError(
            f"pixels is {recipe.pixels!r} but has no effect: {dataset.name} holds {dataset.train.images.dtype} points, "
            "which are taken as they are; leave it out"
        )
    if recipe.select == "best" or recipe.early_stopping:
        metric = recipe.selection(dataset.validation is not None)
        check_metric("select_on", metric, recipe.loss, dataset.num_classes)
    if recipe.precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError("precision 'float64' needs 64-bit mode: set the environment variable JAX_ENABLE_X64=1")
    _check_batch_norm(model, min(recipe.batch_size, len(dataset.train)))
    for prefix in recipe.frozen:
        if not any(matches(name, (prefix,)) for name in model.names):
            raise unknown(f"layer of {model.kind}", prefix, dict.fromkeys(n.split(".")[0] for n in model.names))
        layers = [layer for name, layer in zip(model.names, model.layers, strict=True) if matches(name, (prefix,))]
        if not any(isinstance(layer, Dropout) or jax.tree.leaves(nnx.state(layer)) for layer in layers):
            raise UserError(f"frozen={prefix!r} has no effect: those layers of {model.kind} have nothing to learn")
    params = split_model(model, recipe.frozen)[1]
    if not jax.tree.leaves(params):
        raise UserError(f"{model.kind} has nothing to learn with frozen={list(recipe.frozen)}: leave a layer to learn")
    check_own(recipe, params)


def _check_batch_norm(model: Chain, batch: int) -> None:
    """Raise `UserError` where every step would leave BatchNorm a single value a channel, and nothing to learn from."""
    if batch > 1:
        return
    for step in model.walk():
        if isinstance(step.layer, BatchNorm) and math.prod(step.output[:-1]) == 1:
            raise UserError(
                f"{step.node.name} of {model.kind} normalises over the batch, and batches hold one example: "
                "give batch_size=2 or more (and as many examples), or a network without BatchNorm"
            )


def _prepare(model: Chain, dataset: Dataset, recipe: Recipe) -> Chain:
    """A copy of `model` with its preprocessing, classes and warm start."""
    model = nnx.clone(model)
    model.classes = dataset.classes
    model.preprocess = PREPROCESS[recipe.pixels] if dataset.train.images.dtype == np.uint8 else Preprocess()
    if recipe.precision == "float64":
        nnx.update(model, cast(nnx.state(model), jnp.dtype("float64")))
    if recipe.warm_start is not None:
        tensors, _ = read(recipe.warm_start)
        assign(model, tensors, recipe.warm_start, recipe.warm_start_only)
    return model


def _devices(devices: str | int | Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    local = jax.local_devices()
    if devices == "auto":
        return tuple(local)
    if isinstance(devices, int):
        if not 1 <= devices <= len(local):
            raise UserError(f"devices is {devices}: give a number from 1 to {len(local)}, or 'auto'")
        return tuple(local[:devices])
    if isinstance(devices, str):
        raise UserError(f"devices is {devices!r}: give 'auto', a number from 1 to {len(local)}, or devices")
    return tuple(devices)
