"""What is on record of one member of a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx

from flaxvision.layers import Chain
from flaxvision.training.confusion import as_pairs
from flaxvision.training.history import History, HistoryBuilder, Result, Timing
from flaxvision.training.metrics import SPLITS, Metrics
from flaxvision.training.preparing import count_batches, norms
from flaxvision.training.recipe import NUMBERS, Recipe
from flaxvision.training.selection import Best
from flaxvision.training.step import StepRecord


@dataclasses.dataclass(slots=True)
class Track:
    """A member's recipe, history and selection."""

    recipe: Recipe
    history: HistoryBuilder
    best: Best
    batches: Mapping[str, int]  # that each batch normalization had seen before

    @classmethod
    def of(cls, model: Chain, recipe: Recipe, layers: tuple[str, ...]) -> Track:
        """That of a member which starts from `model`; `layers` are the names of those that learn."""
        return cls(recipe, HistoryBuilder(layers), Best(), {name: norm.batches for name, norm in norms(model).items()})

    def add(self, scored: Mapping[str, Metrics], record: StepRecord, selection: str) -> bool:
        """Note the newest epoch's scores by split, and its steps; whether its parameters are to be kept.

        Args:
            scored: What each split scored, by the prefix of its metrics.
            record: Of every step of the epoch.
            selection: The metric that selects the epoch.
        """
        for split, metrics in scored.items():
            self.history.add_epoch(split, metrics)
        self.history.add("step_loss", np.asarray(record.loss))
        if self.recipe.record_gradients:
            self.history.add("gradient_norm", np.asarray(record.gradient_norm))
            self.history.add("gradient_mean", np.asarray(record.gradient_mean))
        epoch = self.history.epochs
        keeps = self.best.update(epoch, self.history.last(selection), self.recipe, selection)
        if self.best.epoch == epoch:
            for split, metrics in scored.items():
                self.history.select(split, metrics)
        return keeps

    def knows(self, epoch: int) -> bool:
        """Whether it came to this epoch (from 1), or had stopped before: no other one than its last one counts then."""
        return self.history.epochs >= epoch or self.best.stopped

    def selected(self, epoch: int, selection: str) -> int:
        """The epoch whose parameters a run that ended after `epoch` (both from 1) keeps, by the metric `selection`."""
        best = Best()
        for at, value in enumerate(self.history.values(selection)[:epoch].tolist(), 1):
            best.update(at, value, self.recipe, selection)
        return best.epoch

    def go_on(self, arrays: dict[str, np.ndarray], best: Best) -> None:
        """Take up what was kept of it."""
        self.history.go_on(as_pairs(arrays, best.epoch))
        self.best = best

    def become(self, other: Track) -> None:
        """What was so far is that of another member; the numbers of its recipe too, but not the seed."""
        numbers = {name: getattr(other.recipe, name) for name in NUMBERS}
        self.recipe = dataclasses.replace(self.recipe, **numbers)
        self.history, self.best = copy.deepcopy(other.history), dataclasses.replace(other.best)
        self.batches = other.batches

    def result(self, model: Chain, updates: int, timing: Timing, ends: Sequence[tuple[int, float]]) -> Result:
        """What the member has come to.

        Args:
            model: The one with the selected epoch's parameters.
            updates: How many they have seen.
            timing: Of a member that is there until now.
            ends: Of each epoch, its last update and the seconds until then.
        """
        count_batches(model, self.batches, updates, self.recipe.frozen)
        history = self.history.history(ends)
        if self.best.stopped:
            seconds = history.seconds[-1]
            timing = dataclasses.replace(timing, total=seconds, compilation=min(timing.compilation, seconds))
        return Result(model, history, timing, self.best.epoch, _left_the_numbers(model, history))


def _left_the_numbers(model: Chain, history: History) -> bool:
    """Whether a loss of any epoch, or a number of the model, is not finite: its last update shows in these alone."""
    losses = [history[name] for name in (f"{split}_loss" for split in SPLITS) if name in history]
    numbers = jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return not all(np.isfinite(np.asarray(array)).all() for array in (*losses, *numbers))
