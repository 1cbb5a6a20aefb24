"""The networks of report B2's ablations, their training, and the rule by which `mnist_ablations.py` judges claims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import optax
from common import Study
from rows import decimals_of, mean_and_error, number
from sweeps import Runs, fill

from flaxvision.models import Build
from flaxvision.models.reports import mlp
from flaxvision.sweep import load_spec
from flaxvision.sweep.spec import Axis, Point

EQUAL = 0.7  # points of accuracy
THRESHOLDS = (0.5, 0.3, 0.2)  # training losses at which networks are compared; claims rest on the second
SIX = (4.0, 9.0)  # what counts as "about six": within a factor of 1.5

OPTIMIZERS = {"Adam 0.001": {}, "SGD 0.1": {"optimizer": "sgd", "learning_rate": 0.1}}  # the first is the sweep's
UNCLEARED = {"Adam 0.001": "ablation_networks:adam_of_sums", "SGD 0.1": "ablation_networks:sgd_of_sums"}
DEPTHS = {2: [30], 3: [30, 30], 6: [30] * 5}  # linear layers -> hidden units
WIDTHS = {"2 layers": 30, "100 units": 100, "300 units": 300, "1,000 units": 1000}
CLIPPED = "2 layers, ReLU after both"
NETWORKS = {  # name -> settings that make it
    "1 layer": {"model": "linear"},
    **{f"{n} layers": {"hidden": hidden} for n, hidden in DEPTHS.items()},
    **{f"{n} layers, BatchNorm": {"hidden": hidden, "batch_norm": True} for n, hidden in DEPTHS.items()},
    **{f"{n} layers, sigmoid": {"hidden": hidden, "activation": "sigmoid"} for n, hidden in DEPTHS.items()},
    **{f"{n} layers, no activation": {"hidden": DEPTHS[n], "activation": "identity"} for n in (2, 3)},
    CLIPPED: {"model": "ablation_networks:clipped"},
    "2 layers, dropout": {"hidden": [30], "dropout": 0.25},
    **{name: {"hidden": [width]} for name, width in WIDTHS.items()},
    "convolution": {"model": "strided_cnn"},
    "convolution, max-pool": {"model": "strided_cnn", "pool": True},
}
STAND_IN = "2 layers, BatchNorm"  # for all networks with --quick: one program to compile
LIBRARY = load_spec("mnist-ablations")  # whose networks are fewer, and named otherwise
TABLE = dataclasses.replace(
    LIBRARY,
    base={**LIBRARY.base, "record_gradients": True},
    axes=(Axis("variant", tuple(Point(name, settings) for name, settings in NETWORKS.items())),),
)


def clipped(b: Build, outputs: int) -> None:
    mlp(b, outputs, hidden=(30,))
    b.activation("output_relu", "relu")


def adam_of_sums(rate: float) -> optax.GradientTransformation:
    """Adam on the sum of all gradients so far: momentum that forgets nothing."""
    return optax.chain(optax.trace(decay=1.0), optax.adam(rate))


def sgd_of_sums(rate: float) -> optax.GradientTransformation:
    """Gradient descent by the same sum."""
    return optax.chain(optax.trace(decay=1.0), optax.sgd(rate))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error (NaN for one seed)."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """The estimate of values, one a seed."""
        return cls(*mean_and_error(values))

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.mean - other.mean, math.hypot(self.error, other.error))

    def __str__(self) -> str:
        decimals = decimals_of(2 * self.error)
        return f"{number(self.mean, decimals=decimals)} (± {number(2 * self.error, decimals=decimals)})"

    def inside(self, low: float = 0.0, high: float = math.inf) -> str:
        """The verdict on the claim that the quantity lies in an interval."""
        if low < self.mean - 2 * self.error and self.mean + 2 * self.error < high:
            return "supported"
        outside = self.mean + 2 * self.error < low or self.mean - 2 * self.error > high
        return "not supported" if outside else "not decided"


def all_of(verdicts: Iterable[str]) -> str:
    given = set(verdicts)
    return "not supported" if "not supported" in given else "supported" if given == {"supported"} else "not decided"


class Network(Runs):
    """A network's runs, and what claims rest on."""

    @property
    def accuracy(self) -> Estimate:
        """Of the test set, in percent."""
        return Estimate.of(self.last("test_top1"))


def train(study: Study, *names: str, **settings: str | float) -> dict[str, Network]:
    taken = (STAND_IN,) if study.options.quick else names
    found = fill(study, TABLE, only={"variant": taken}, **settings)
    networks = {name: Network(runs.outcomes, runs.folder, runs.spec) for name, runs in found.items()}
    return {name: networks[STAND_IN if study.options.quick else name] for name in names}
