"""The story of a training: members are prepared and placed, trained epoch by epoch, scored, selected and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from flaxvision._interrupts import stop_if_asked
from flaxvision.data import Dataset
from flaxvision.identity import Identity
from flaxvision.layers import Chain
from flaxvision.ops.arrays import from_numpy
from flaxvision.runtime import on_host
from flaxvision.training.ahead import read_ahead
from flaxvision.training.callbacks import Callback, Progress
from flaxvision.training.checkpoint import Checkpoints, Keep, Kept
from flaxvision.training.checks import check_alike, check_fit
from flaxvision.training.compiling import Clock
from flaxvision.training.engine import Begun, Carry, engine_for
from flaxvision.training.history import Result
from flaxvision.training.identity import cohort_identity
from flaxvision.training.losses import Sums
from flaxvision.training.members import Members, PyTree
from flaxvision.training.metrics import Metrics
from flaxvision.training.plan import plan_for
from flaxvision.training.preparing import place, prepare, put_members, with_frozen, with_weights
from flaxvision.training.recipe import Recipe
from flaxvision.training.state import TrainState, init_members, merge_model, on_its_own
from flaxvision.training.step import StepRecord
from flaxvision.training.track import Track

PREFIXES = {"validation": "val", "test": "test"}  # split -> prefix of its metrics
TOLD = ("loss", "top1")  # metrics of every split that callbacks are told
PAYS = 4  # rows of a vmapped program are given up by themselves where so many times fewer would do


class Run:
    """Members of one structure between two epochs.

    They are called by their positions among the models given. Those that train have the first rows of the states;
    further rows, of members that are gone or have stopped or of none, are computed where a program has that many.
    """

    def __init__(
        self,
        models: Sequence[Chain],
        dataset: Dataset,
        recipes: Sequence[Recipe],
        devices: tuple[jax.Device, ...],
        callbacks: tuple[Callback, ...],
        *,
        stacked: bool,
        spread: bool,
    ):
        recipes = [with_frozen(with_weights(each, dataset), model) for each, model in zip(recipes, models, strict=True)]
        self.recipe, self.dataset = recipes[0], dataset
        self.callbacks = (*callbacks, *read_ahead(dataset, recipes))
        total_steps = self.recipe.total_steps(len(dataset.train))
        self.selection = self.recipe.selection(dataset.validation is not None)
        with on_host():
            check_fit(models[0], dataset, self.recipe)
            prepared = [prepare(model, dataset, recipe) for model, recipe in zip(models, recipes, strict=True)]
            check_alike(prepared, self.recipe.frozen)
            self.plan = plan_for(
                prepared[0], self.recipe, dataset, total_steps, devices, stacked=stacked, spread=spread
            )
            states = init_members(prepared, recipes, self.plan)
        self.engine = engine_for(self.plan)
        self.tracks = [Track.of(model, recipe, self.plan.layers) for model, recipe in zip(models, recipes, strict=True)]
        if (rows := self._size(len(models))) > len(models):
            states = states.take([*range(len(models)), *[0] * (rows - len(models))])
        self.states, self.data = put_members(states, self.plan), place(dataset, devices)
        self.begun: Begun | None = None  # what is done of the epoch at hand, and the states then
        self.members = self.rows = tuple(range(len(models)))  # those there are, and whose the rows are
        self.epoch, self.clock = 0, Clock()
        self.ends: list[tuple[int, float]] = []  # of each epoch, its last update and the seconds until then
        self.checkpoints: Checkpoints | None = None

    @property
    def running(self) -> tuple[int, ...]:
        """The members that have not stopped early."""
        return tuple(k for k in self.rows if k in self.members and not self.tracks[k].best.stopped)

    def results(self, members: Sequence[int]) -> dict[int, Result]:
        """What members have come to."""
        results, timing, states = {}, self.clock.timing(), self._selected()
        for k in members:
            state = self.tracks[k].best.state or on_its_own(states.member(self.rows.index(k)))
            model = merge_model(self.plan.graphdef, state)
            results[k] = self.tracks[k].result(model, int(state.step), timing, self.ends)
        return results

    # Which members compute, and from where.

    def keep(self, members: Sequence[int]) -> None:
        """Drop all members but these."""
        for k in self.members:
            if k not in members:
                self.tracks[k].best.state = None
        self.members = tuple(k for k in self.members if k in members)
        self.compact()

    def copy(self, source: int, target: int) -> None:
        """Make one member what another one is, which trains, but for its own seed."""
        if target not in self.rows:
            self.take([*self.rows, source], [*self.rows, target])
        seed = from_numpy(np.uint32(self.tracks[target].recipe.seed))
        twin = on_its_own(self.states.member(self.rows.index(source)))._replace(seed=seed)
        self.become(self.states.edit(self.rows.index(target), lambda _: twin))
        self.tracks[target].become(self.tracks[source])

    def become(self, states: Members[TrainState]) -> None:
        """Go on from other states of the same rows."""
        self.states = put_members(states, self.plan)
        if self.begun is not None:
            done, carries = self.begun
            self.begun = done, carries.pick(lambda carry, state: carry._replace(state=state), self.states)

    def take(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Let `rows` be the members that compute, each from where its source is."""
        positions = [self.rows.index(source) for source in sources]
        positions += positions[:1] * (self._size(len(rows)) - len(rows))
        if self.begun is not None:
            self.begun = self.begun[0], put_members(self.begun[1].take(positions), self.plan)
            self.states = self.begun[1].pick(lambda carry: carry.state)
        else:
            self.states = put_members(self.states.take(positions), self.plan)
        self.rows = tuple(rows)

    def compact(self, pays: int = 1) -> None:
        """Give up the rows of members that do not run, where so many times fewer would do."""
        running, rows = self.running, len(self.states)
        size = self._size(len(running)) if running else rows
        if size < rows and (size * pays <= rows or not self.plan.stacked):
            self.take(running, running)

    def _size(self, members: int) -> int:
        """The rows of so many members: those of a vmapped program are few numbers, since each is compiled anew."""
        if not self.plan.stacked:
            return members
        devices = len(self.plan.devices) if self.plan.spread else 1
        each, most = (-(-number // devices) for number in (members, len(self.tracks)))
        return devices * min(1 << (each - 1).bit_length(), most)

    # Epochs, and what they are worth.

    def train(self, end: int) -> None:
        """Train until so many epochs are over, all members have stopped, or a callback ends it."""
        self.clock.start()
        over, rows = self.epoch >= end or not self.running, 0
        while not over:
            if self.begun is None:
                self.compact(PAYS)
            running, compiling = self.running, None
            if len(self.states) != rows:
                rows, data = len(self.states), self.data
                compiling = self.engine.compile_ahead(self.states, data.train, data.held_out, self.epoch)
            stop, carries = self._steps(len(running))
            if compiling is not None:
                self.clock.wait(compiling)
            metrics = self._score(running, carries)
            self.begun, self.epoch = None, self.epoch + 1
            stop |= self._tell(self.epoch, self.ends[-1][0], metrics=metrics)
            self.clock.lap(len(running), len(self.dataset.train))
            over = stop or self.epoch == end or not self.running
            self._keep(over=over)

    def _steps(self, members: int) -> tuple[bool, Members[Carry]]:
        """The steps of an epoch, of so many members: whether a callback ends the run, and what they leave."""
        plan, stop, before = self.plan, False, self.begun[0] if self.begun else 0
        within = self.checkpoints is not None and self.checkpoints.keep.every > 0 and not plan.sharded
        for done, carries in self.engine.epoch(self.states, self.data.train, self.epoch, self.begun):
            self.states, self.begun = carries.pick(lambda carry: carry.state), (done, carries)
            examples = (done - before) * self.recipe.batch_size * members
            stop |= self._tell(self.epoch + 1, self.epoch * plan.steps_per_epoch + done, examples)
            if within and before < done < plan.steps_of(self.epoch):
                self._keep()
            before = done
        return stop, carries

    def _score(self, running: Sequence[int], carries: Members[Carry]) -> tuple[dict[str, float], ...]:
        """Evaluate an epoch's end, note it, and keep what is selected; what callbacks are told."""
        scores = {"train": carries.pick(lambda carry: carry.sums)} | {
            PREFIXES[split]: self.engine.evaluate(self.states, self.data.held_out, examples)
            for split, examples in self.data.ranges.items()
        }
        fetched, records = jax.device_get((scores, carries.pick(lambda carry: carry.records)))
        step = self.epoch * self.plan.steps_per_epoch + self.plan.steps_of(self.epoch)
        self.ends.append((step, self.clock.seconds(len(running))[0]))
        selected: list[int] = []
        told: list[dict[str, float]] = [{} for _ in self.tracks]
        for k in running:
            row = self.rows.index(k)
            scored = {split: Metrics.of(sums.member(row)) for split, sums in fetched.items()}
            told[k] = {f"{split}_{name}": getattr(found, name) for split, found in scored.items() for name in TOLD}
            if self.tracks[k].add(scored, records.member(row), self.selection):
                selected.append(k)
        if selected:
            states = self._selected()
            for k in selected:
                self.tracks[k].best.state = on_its_own(states.member(self.rows.index(k)))
        return tuple(told)

    def _selected(self) -> Members[TrainState]:
        return self.states.pick(lambda state: state.selected).fetched()

    def _tell(
        self, epoch: int, step: int, examples: int = 0, metrics: tuple[dict[str, float], ...] = (), note: str = ""
    ) -> bool:
        """Tell all callbacks where the run is; whether one of them ends it."""
        progress = Progress(step, self.plan.total_steps, epoch, examples, metrics, note)
        told = any([callback(progress) for callback in self.callbacks])
        stop_if_asked()
        return told

    # What is kept on disk.

    def go_on(self, keep: Keep) -> None:
        """Keep the states from now on, and take up those that were kept before."""
        self.checkpoints = Checkpoints(keep, self._identity(keep), lambda note: self._tell(1, 0, note=note))
        kept = self.checkpoints.restore(self._like)
        if kept is None:
            return
        kept.check(self.plan.total_steps, self.plan.steps_per_epoch)
        self.epoch, self.ends = kept.epochs, kept.ends
        self.clock.total, self.clock.compiling = kept.seconds
        self.members, self.rows = kept.members, kept.rows
        self.states = put_members(kept.trees["states"], self.plan)
        for track, arrays, best in zip(self.tracks, kept.histories, kept.best, strict=True):
            track.go_on(arrays, best)
        if kept.updates:
            records = self.states.like(by_step(kept.records(self.plan.steps_of(kept.epochs))))
            parts = (put_members(part, self.plan) for part in (kept.trees["sums"], records))
            self.begun = kept.updates, self.states.pick(Carry, *parts)
        within = f", {kept.updates} updates on" if kept.updates else ""
        over = self.epoch == self.plan.epochs or not self.running
        note = "had trained to its end" if over else f"goes on from epoch {kept.epochs + 1}{within}"
        self._tell(kept.epochs + 1, kept.step, note=note)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Lets go of the checkpoints' folder at its end."""
        try:
            yield
        finally:
            if self.checkpoints is not None:
                self.checkpoints.close()

    def _like(self, rows: int) -> dict[str, PyTree]:
        """What is kept of so many rows, by its structure."""
        states = self.states if rows == len(self.states) else self.states.take([0] * rows)

        def shapes(states: Members[TrainState]) -> tuple[Members[Sums], StepRecord, TrainState]:
            zeros = self.engine.zeros(states, 1)
            return zeros.pick(lambda zero: zero[0]), zeros.member(0)[1], states.member(0).selected

        sums, records, selected = jax.eval_shape(shapes, states)
        return {"states": states, "sums": sums, "records": records, "best": selected}

    def _identity(self, keep: Keep) -> Identity:
        identity = keep.identity
        if identity is None:
            states, recipes = jax.device_get(self.states), [track.recipe for track in self.tracks]
            models = [merge_model(self.plan.graphdef, states.member(k)) for k in self.rows]
            identity = cohort_identity(models, self.dataset, recipes, self.plan.total_steps)
        over = {"devices that have members each": len(self.plan.devices)} if self.plan.spread else {}
        return {**identity, "vmapped": self.plan.stacked, **over}

    def _keep(self, *, over: bool = False) -> None:
        """Keep the states if it is time, within an epoch too."""
        if self.checkpoints is None or not self.checkpoints.wanted(over=over):
            return
        updates = 0
        trees: dict[str, PyTree] = {"states": self.states}
        if self.begun is not None:
            updates, carries = self.begun
            trees["sums"] = carries.pick(lambda carry: carry.sums)
            trees["records"] = by_step(carries.pick(lambda carry: carry.records).stacked())
        step = min(self.epoch * self.plan.steps_per_epoch, self.plan.total_steps) + updates
        histories, best = [each.history.history().arrays for each in self.tracks], [each.best for each in self.tracks]
        seconds = self.clock.seconds(len(self.running))
        kept = Kept(step, self.epoch, updates, trees, histories, best, seconds, self.ends, self.members, self.rows)
        self.checkpoints.save(kept)


def by_step(records: StepRecord) -> StepRecord:
    """Records of members' steps as those of the steps' members, as which they are kept; and back."""
    return jax.tree.map(lambda x: np.swapaxes(x, 0, 1), records)
