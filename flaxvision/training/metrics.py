"""What a model is scored by: the numbers of a split, and one record for each metric that histories and tables hold."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from flaxvision.errors import UserError

if TYPE_CHECKING:
    from flaxvision.training.losses import Sums

SPLITS = ("train", "val", "test")
TOP = 3  # the scores among which top-3 looks for the true class


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """What a model scores on a split; accuracies are fractions."""

    count: int  # examples scored
    loss: float  # mean over examples
    top1: float  # share of examples whose class has the highest score; NaN without classes
    top3: float  # share of examples whose class is among the three highest
    per_class: np.ndarray  # float64 (C,): accuracy of each true class; NaN for a class without examples
    confusion: np.ndarray  # int64 (C, C): rows true, columns predicted; (0, 0) of a training epoch

    @property
    def balanced(self) -> float:
        """Mean accuracy over the classes that have examples (balanced accuracy, macro-averaged recall).

        Unlike top-1 it does not rise when a network only finds the commonest class; NaN without classes.
        """
        accuracies = self.per_class[~np.isnan(self.per_class)]
        return float(accuracies.mean()) if len(accuracies) else float("nan")

    @classmethod
    def of(cls, sums: Sums) -> Metrics:
        """The metrics of `sums`, fetched from the device."""
        count, loss, top3, seen, hits = (np.asarray(x, np.float64) for x in sums[:5])
        per_class = np.where(seen > 0, hits / np.where(seen > 0, seen, 1), np.nan)
        scored = len(seen) > 0
        return cls(
            count=int(count),
            loss=float(loss / count),
            top1=float(hits.sum() / count) if scored else float("nan"),
            top3=float(top3 / count) if scored else float("nan"),
            per_class=per_class,
            confusion=np.asarray(sums.confusion).astype(np.int64),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that every split scores after an epoch.

    With its split it is an array of a history, a column of tables, and what `select_on` and `objective` may be:
    "test_top1". The attribute of `Metrics` that bears its key computes it.
    """

    key: str
    label: str  # in headings and sentences
    lower_is_better: bool = False
    percent: bool = True  # a share, shown in percent; else a plain number
    of_classes: bool = True  # whether only a model that scores classes has it
    needs_classes: int = 0  # with fewer classes every model has the best value
    kept: tuple[str, ...] = SPLITS  # whose values are columns of results.csv
    shown: tuple[str, ...] = ("val", "test")  # whose values are columns of the tables that people read
    column_classes: int = 0  # with fewer classes it is not worth a column there
    beside: str = ""  # nor is it where it hardly differs from this metric
    note: str = ""  # what a reader must know of it, under a table that shows it

    @property
    def scale(self) -> int:
        """What its values are multiplied by where people read them."""
        return 100 if self.percent else 1


# A new metric is an entry here and an attribute of `Metrics`; `flaxvision.report.display` says where its columns stand.
METRICS = {
    metric.key: metric
    for metric in (
        Metric(key="loss", label="loss", lower_is_better=True, percent=False, of_classes=False, shown=SPLITS),
        Metric(key="top1", label="top-1"),
        Metric(
            key="top3", label="top-3", needs_classes=TOP + 1, kept=("test",), shown=("test",),
            column_classes=11,  # among few classes, being one of three guesses says little
        ),
        Metric(
            key="balanced", label="balanced", kept=("val", "test"), beside="top1",
            note="Balanced: the mean accuracy over classes, each of the same weight.",
        ),
    )
}  # fmt: skip
PARAMETERS = Metric(key="parameters", label="parameters", percent=False)  # of a network: published, but never scored
TABLE_METRICS = tuple(f"{split}_{m.key}" for split in SPLITS for m in METRICS.values() if split in m.kept)
SHOWN_METRICS = tuple(f"{split}_{m.key}" for split in SPLITS for m in METRICS.values() if split in m.shown)


def metric_of(name: str) -> Metric:
    """The record of a metric, with or without a split.

    >>> metric_of("test_top1").label, metric_of("loss").lower_is_better
    ('top-1', True)
    """
    split, _, key = name.partition("_")
    return PARAMETERS if name == PARAMETERS.key else METRICS[key if split in SPLITS else name]


def selection_metrics() -> tuple[str, ...]:
    """What `select_on` and a sweep's objective may be."""
    return tuple(f"{split}_{key}" for split in ("val", "test") for key in METRICS)


def check_metric(name: str, metric: str, loss: str, classes: int) -> None:
    """Raise for a metric that cannot tell one trial from another."""
    split, found = metric.partition("_")[0], metric_of(metric)
    if loss == "squared_error" and found.of_classes:
        raise UserError(f"{name} is {metric!r}, which loss 'squared_error' does not have: give '{split}_loss'")
    if classes < found.needs_classes:
        raise UserError(f"{name} is {metric!r}, which is 1 with {classes} classes: give '{split}_top1'")
