"""Which epoch's parameters a run keeps."""

from __future__ import annotations

import dataclasses
import math

from flaxvision.training.metrics import metric_of
from flaxvision.training.recipe import Recipe
from flaxvision.training.state import TrainState


@dataclasses.dataclass(slots=True)
class Best:
    """One member's selection: the best value so far, where it was, and the parameters that will be kept."""

    value: float = -math.inf  # of the selection metric, larger is better
    at: int = 0  # its epoch, from 1
    epoch: int = 0  # the epoch, from 1, whose parameters are kept
    stopped: bool = False
    state: TrainState | None = None  # None: those of the last step

    def update(self, epoch: int, value: float, recipe: Recipe, metric: str) -> bool:
        """Note what the epoch that just ended scored by `metric`; whether its parameters are to be kept in `state`."""
        value = -value if metric_of(metric).lower_is_better else value
        improved = value > self.value  # never for NaN
        if improved:
            self.value, self.at = value, epoch
        first = not self.epoch
        if recipe.select == "last" or improved or first:
            self.epoch = epoch
        self.stopped = bool(recipe.early_stopping) and epoch - self.at >= recipe.early_stopping
        return self.stopped if recipe.select == "last" else improved or first
