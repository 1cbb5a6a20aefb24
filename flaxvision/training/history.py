"""What a run leaves: the metrics of every epoch, the trained model, and how long it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxvision.errors import UserError
from flaxvision.training.confusion import confusion_matrix, confusion_pairs
from flaxvision.training.metrics import METRICS, SPLITS, Metrics

if TYPE_CHECKING:
    from flaxvision.layers import Chain

SCALARS = frozenset(f"{split}_{metric}" for split in SPLITS for metric in METRICS)


@dataclasses.dataclass(slots=True, eq=False)
class History:
    """Arrays by name, a row an epoch: `history["test_top1"]`.

    For each of the splits "train" (running values in training mode), "val" and "test" (after the epoch): every metric,
    such as `_loss` and `_top1` (epochs,), and `_per_class` (epochs, C). A row a step: "step_loss" (steps,), and where
    recorded "gradient_norm" (steps, layers) and "gradient_mean" (steps,). Of the selected epoch only, for "val" and
    "test": `_pairs` (pairs, 3), the confusion matrix as (true class, predicted class, examples); `confusion` makes the
    matrix of it.
    """

    arrays: dict[str, np.ndarray]
    layers: tuple[str, ...] = ()  # names of the layers that learn, the columns of "gradient_norm"
    steps: tuple[int, ...] = ()  # updates done at the end of each epoch
    seconds: tuple[float, ...] = ()  # from the beginning until then, compilation included, counted as in `Timing`

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {value:.4g}" for name, value in self.row(self.epochs).items() if np.isfinite(value))
        return f"History({self.epochs} epochs, the last one: {last})"

    def _repr_html_(self) -> str:
        from flaxvision.report.notebook import history_html

        return history_html(self)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def confusion(self, split: str) -> np.ndarray:
        """The confusion matrix of the selected epoch, int64 (C, C), rows true, columns predicted.

        Args:
            split: "test" or "val".

        Raises:
            UserError: If there is none: of another split, or without classes.
        """
        if f"{split}_pairs" not in self.arrays:
            kept = [name.removesuffix("_pairs") for name in self.arrays if name.endswith("_pairs")]
            raise UserError(f"no confusion matrix of {split!r} is kept: allowed are {', '.join(kept) or 'none here'}")
        return confusion_matrix(self.arrays[f"{split}_pairs"], self.arrays[f"{split}_per_class"].shape[1])

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.arrays["train_loss"])

    def row(self, epoch: int) -> dict[str, float]:
        """The scalars of one epoch (from 1): name -> value."""
        return {name: float(rows[epoch - 1]) for name, rows in self.arrays.items() if name in SCALARS}


class HistoryBuilder:
    """Collects one member's epochs."""

    def __init__(self, layers: tuple[str, ...]):
        self.layers = layers
        self.parts: dict[str, list[np.ndarray]] = {}

    def go_on(self, arrays: dict[str, np.ndarray]) -> None:
        """Take up the rows of the epochs before."""
        self.parts = {name: [rows] for name, rows in arrays.items()}

    def add_epoch(self, split: str, metrics: Metrics) -> None:
        """Add what one split scored after an epoch."""
        for name in (*METRICS, "per_class"):
            self.add(f"{split}_{name}", np.asarray(getattr(metrics, name))[None])

    def select(self, split: str, metrics: Metrics) -> None:
        """The newest epoch is the selected one so far: keep its confusion matrix in place of an earlier one."""
        if len(metrics.confusion):
            self.parts[f"{split}_pairs"] = [confusion_pairs(metrics.confusion)]

    def add(self, name: str, rows: np.ndarray) -> None:
        """Add rows to an array, shape (rows, ...)."""
        self.parts.setdefault(name, []).append(rows)

    def last(self, name: str) -> float:
        """The newest value of a scalar."""
        return float(self.parts[name][-1][-1])

    def values(self, name: str) -> np.ndarray:
        """A scalar's values so far (epochs,)."""
        return np.concatenate(self.parts[name])

    def row(self, epoch: int) -> dict[str, float]:
        """The scalars of one epoch (from 1), or of the newest where it is later."""
        at = min(epoch, self.epochs) - 1
        return {name: float(np.concatenate(parts)[at]) for name, parts in self.parts.items() if name in SCALARS}

    @property
    def epochs(self) -> int:
        """How many were added."""
        return sum(map(len, self.parts.get("train_loss", ())))

    def history(self, ends: Sequence[tuple[int, float]] = ()) -> History:
        """Everything so far; `ends` are the updates and seconds at which epochs ended."""
        arrays = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        own = list(ends)[: len(arrays["train_loss"])] if ends else []  # it may have stopped before others
        return History(arrays, self.layers, tuple(step for step, _ in own), tuple(seconds for _, seconds in own))


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of a run, also those before an interruption; a cohort's are shared equally by its members."""

    total: float  # from the first compilation to the last metric
    compilation: float  # of these, what tracing and compiling took
    first_epoch: float  # the first epoch with its evaluation, compilation included
    examples_per_second: float  # training examples a second, over all epochs after the first (with one: over it)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A trained model and its history."""

    model: Chain  # with the selected epoch's parameters
    history: History
    timing: Timing
    best_epoch: int  # the epoch, from 1, whose parameters the model has
    diverged: bool  # whether a loss of any split and epoch, or a number of the model, is not finite

    def __repr__(self) -> str:
        scores = self.history.row(self.best_epoch)
        shown = ", ".join(f"{name} {scores[name]:.4g}" for name in ("test_loss", "test_top1") if name in scores)
        diverged = ", diverged" if self.diverged else ""
        of = f"epoch {self.best_epoch} of {self.history.epochs}"
        return f"Result({self.model.kind}, {of}: {shown}{diverged}, {self.timing.total:.1f} s)"

    def _repr_html_(self) -> str:
        from flaxvision.report.notebook import result_html

        return result_html(self)
