"""The networks of report B2's ablations, their training, and the rule by which `mnist_ablations.py` judges claims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import optax
from common import Options
from rows import decimals_of, number

import flaxvision as fv
from flaxvision.layers import Activation, Chain

EQUAL = 0.7  # points of accuracy
THRESHOLDS = (0.5, 0.3, 0.2)  # training losses at which networks are compared; claims rest on the second
SIX = (4.0, 9.0)  # what counts as "about six": within a factor of 1.5

REST = {"batch_size": 32, "epochs": 4, "record_gradients": True}
RECIPE = fv.Recipe(optimizer="adam", learning_rate=1e-3, **REST)
SGD = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.1)
SUM = optax.trace(decay=1.0)  # momentum that forgets nothing: the sum of all gradients so far
CLEARED = {  # optimiser -> recipe, and recipe without clearing
    "Adam 0.001": (RECIPE, fv.Recipe(optimizer=optax.chain(SUM, optax.adam(1e-3)), **REST)),
    "SGD 0.1": (SGD, fv.Recipe(optimizer=optax.chain(SUM, optax.sgd(0.1)), **REST)),
}
DEPTHS = {2: (30,), 3: (30, 30), 6: (30,) * 5}  # linear layers -> hidden units
WIDTHS = {"2 layers": 30, "100 units": 100, "300 units": 300, "1,000 units": 1000}
CLIPPED = "2 layers, ReLU after both"
NETWORKS = {  # name -> model and sizes, as `fv.models.create` takes them
    "1 layer": ("linear", {}),
    **{f"{n} layers": ("mlp", {"hidden": hidden}) for n, hidden in DEPTHS.items()},
    **{f"{n} layers, BatchNorm": ("mlp", {"hidden": hidden, "batch_norm": True}) for n, hidden in DEPTHS.items()},
    **{f"{n} layers, sigmoid": ("mlp", {"hidden": hidden, "activation": "sigmoid"}) for n, hidden in DEPTHS.items()},
    **{f"{n} layers, no activation": ("mlp", {"hidden": DEPTHS[n], "activation": "identity"}) for n in (2, 3)},
    CLIPPED: ("mlp", {"hidden": (30,)}),
    "2 layers, dropout": ("mlp", {"hidden": (30,), "dropout": 0.25}),
    **{name: ("mlp", {"hidden": (width,)}) for name, width in WIDTHS.items()},
    "convolution": ("strided_cnn", {}),
    "convolution, max-pool": ("strided_cnn", {"pool": True}),
}
STAND_IN = ("mlp", {"hidden": (30,), "batch_norm": True})  # for all networks with --quick: one program to compile


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error (NaN for one seed)."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """The estimate of values, one a seed."""
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), error)

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
    """The verdict on a claim of several parts."""
    given = set(verdicts)
    return "not supported" if "not supported" in given else "supported" if given == {"supported"} else "not decided"


@dataclasses.dataclass(frozen=True)
class Runs:
    """One network's training runs, one a seed."""

    start: Chain  # the first seed's network before training
    results: list[fv.Result]

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return fv.models.count_parameters(self.start)

    def last(self, metric: str) -> np.ndarray:
        """A metric after the last epoch, (seeds,)."""
        return np.array([float(result.history[metric][-1]) for result in self.results])

    @property
    def accuracy(self) -> Estimate:
        """Test accuracy in percent."""
        return Estimate.of(100 * self.last("test_top1"))

    def steps(self, name: str) -> np.ndarray:
        """What was recorded at each step, (seeds, steps, ...)."""
        return np.stack([result.history[name] for result in self.results])

    def curve(self, every: int) -> np.ndarray:
        """Mean training loss of every so many steps, (seeds, points)."""
        losses = self.steps("step_loss")
        points = losses.shape[1] // every
        return losses[:, : points * every].reshape(len(losses), points, every).mean(axis=2)


def create(options: Options, name: str, seed: int) -> Chain:
    """A network of `NETWORKS`."""
    model, sizes = STAND_IN if options.quick else NETWORKS[name]
    network = fv.models.create(model, init="torch", seed=seed, **sizes)
    if name == CLIPPED and not options.quick:
        layers = [*network.named_layers(), ("output_relu", Activation("relu"))]
        network = Chain(layers, input_shape=network.input_shape, kind=network.kind)
    return network


def train(options: Options, data: fv.data.Dataset, name: str, recipe: fv.Recipe = RECIPE) -> Runs:
    """Train a network from every seed, as one cohort."""
    if options.quick:
        recipe = dataclasses.replace(recipe, epochs=2)
    models = [create(options, name, seed) for seed in range(options.seeds)]
    recipes = [dataclasses.replace(recipe, seed=seed) for seed in range(options.seeds)]
    return Runs(models[0], fv.training.train_cohort(models, data, recipes))
