"""What report D's experiments share: their tables behind one pretrained encoder, and statistics over seeds.

The report's encoder is not published. Ours has the same layers and learned to tell MNIST's digits apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from common import Study
from matplotlib.figure import Figure
from rows import mean_and_error, with_error
from sweeps import Arrays, Runs

from flaxvision.report import COLUMN, FAINT, OKABE_ITO, figure_style, new_figure
from flaxvision.sweep import Spec, load_spec
from flaxvision.training.metrics import metric_of

DIGITS_ONLY = "our encoder knows digits only"
HELD_OUT = 0.2  # share of the training images of which the hold-out tables are made
QUICK = {"limit": None, "drawn": 80, "conv": "native"}  # so few that validation and test share a compiled evaluation


def table(name: str, **settings: Any) -> Spec:
    """A sweep of the library in which all trials keep the last epoch's weights and start from the same encoder."""
    spec = load_spec(name)
    assert spec.pretrain is not None
    digits = replace(spec.pretrain, settings={**spec.pretrain.settings, "validation": HELD_OUT})
    base = {key: value for key, value in spec.base.items() if key != "select_on"}
    base |= {"select": "last", **settings}
    return replace(spec, base=base, objective="auto", pretrain=digits, final=None)


def at(values: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Of every seed the value at its epoch, counted from 0."""
    return np.take_along_axis(values, epochs[:, None], axis=1)[:, 0]


def is_lower(differences: np.ndarray) -> str:
    """The verdict on "the first is lower": whether differences over seeds are below 0 by two standard errors."""
    mean, error = mean_and_error(differences)
    return "supported" if mean < -2 * error else "not supported" if mean > 2 * error else "not decided"


def lowest(runs: Arrays, split: str) -> np.ndarray:
    """Of every seed the smallest loss on a split; empty without runs."""
    return runs[f"{split}_loss"].min(axis=1) if runs else np.zeros(0)


def best_epochs(runs: Arrays, split: str = "test") -> np.ndarray:
    """Of every seed the epoch, from 0, of its smallest loss."""
    return runs[f"{split}_loss"].argmin(axis=1)


def last_epochs(runs: Arrays) -> np.ndarray:
    return np.full(len(runs["test_loss"]), -1)


def score(runs: Arrays, metric: str, epochs: np.ndarray) -> np.ndarray:
    """Of every seed the metric on the test set at its epoch, accuracies in percent."""
    name = f"test_{metric}"
    return metric_of(name).scale * at(runs[name], epochs)


def added(runs: Arrays, metric: str, epochs: np.ndarray) -> np.ndarray:
    """Of every seed the score at its epoch of smallest test loss, less that at another; accuracies in points."""
    name = f"test_{metric}"
    return metric_of(name).scale * (at(runs[name], best_epochs(runs)) - at(runs[name], epochs))


def judge_epochs(study: Study, final: Mapping[str, Arrays], held: Mapping[str, Arrays], metrics: Sequence[str]) -> None:
    """How far the score of the epoch that does best on the test set is off; `held` has a validation split too."""

    def bias(runs: Arrays, epochs: np.ndarray) -> str:
        found = {metric.replace("top", "top-"): added(runs, metric, epochs) for metric in metrics}
        return ", ".join(f"{name} {with_error(values, sign=True)}" for name, values in found.items())

    sizes = [
        f"{name}: against the last epoch {bias(final[name], last_epochs(final[name]))}; against the epoch that a "
        f"validation split chooses {bias(runs, best_epochs(runs, 'val'))}"
        for name, runs in held.items()
    ]
    study.claim(
        "choosing the epoch on the test set gives an unbiased score",
        "not supported",
        "the smallest of several test losses is at most the one at an epoch chosen without the test set, so the score "
        f"is too good by construction. By how much, mean and standard error over seeds: {'; '.join(sizes)}"
        + (" (top-1 in points)" if "top1" in metrics else ""),
    )


def draw_choices(honest: dict[str, Runs]) -> Figure:
    """Test losses at the last epoch, at the best by validation, and at the best by the test set; a line a run."""
    places = ("last epoch", "best on\nvalidation", "best on\ntest")
    losses = {}
    for way, runs in honest.items():
        chosen = (last_epochs(runs), best_epochs(runs, "val"), best_epochs(runs))
        losses[way] = np.stack([at(runs["test_loss"], epochs) for epochs in chosen])
    reach = 0.55 * max(np.ptp(values) for values in losses.values())
    with figure_style():
        figure = new_figure(COLUMN, 2.0)
        for axes, (way, values), color in zip(figure.subplots(1, 2), losses.items(), OKABE_ITO, strict=False):
            axes.plot(values, color=FAINT, linewidth=0.7, alpha=0.7)
            axes.plot(values.mean(axis=1), "o", color=color, markersize=4)
            axes.set_xticks(range(3), places, fontsize=6)
            axes.set_ylim(values.min() + np.ptp(values) / 2 - reach, values.min() + np.ptp(values) / 2 + reach)
            axes.set_title(way, loc="left")
            axes.grid(axis="y")
            axes.margins(x=0.2)
        figure.axes[0].set_ylabel("test loss")
    return figure
