"""Report A's networks, trained in Flax, PyTorch and Keras: the runs, and the effects, of framework_parity.py."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import peers
from common import Options, Study, cached, stacked
from flax import nnx
from scipy.special import stdtrit
from sweeps import Arrays, Runs, after, fill, published

import export
import flaxvision as fv
from flaxvision.sweep import load_spec
from flaxvision.training import epoch_order

PADDED, UNPADDED = "padded", "unpadded"
NETWORKS = {PADDED: {"padding": "SAME"}, UNPADDED: {"padding": "VALID"}}  # sizes of wide_cnn
SPEC = load_spec("mnist-frameworks")
PRINTED = {PADDED: {"padding": "SAME", "init": "torch"}, UNPADDED: {"padding": "VALID", "init": "keras"}}  # its cells
FLAX_TORCH, FLAX_KERAS, TORCH, KERAS = "Flax, torch init", "Flax, keras init", "PyTorch", "Keras"
SAME_TORCH, SAME_KERAS = "PyTorch, Flax's start and order", "Keras, Flax's start and order"

Cell = tuple[str, str]  # (framework and initialisation, network)
Cells = dict[Cell, Arrays]  # what the runs of a cell left: (seeds, ...)
Values = Mapping[Cell, np.ndarray]  # a number a run

METRICS = {  # metric -> (name, unit)
    "train_loss": ("training loss", ""),
    "train_top1": ("training accuracy", "%"),
    "test_top1": ("test accuracy", "%"),
    "test_loss": ("test loss", ""),
}
ACCURACIES = {network: published(SPEC, "test_top1", where)["published"] for network, where in PRINTED.items()}
TOLERANCE = published(SPEC, "test_top1", PRINTED[PADDED])["tolerance"]  # of them
# What the report prints: (framework, our counterpart in Flax, network) -> metric -> epoch -> value.
PUBLISHED = {
    (TORCH, FLAX_TORCH, PADDED): {
        "train_loss": {10: 0.0228},
        "train_top1": {1: 95.69, 2: 97.66, 3: 98.25, 10: 99.28},
        "test_top1": {1: 97.14, 2: 98.05, 10: ACCURACIES[PADDED]},
    },
    (KERAS, FLAX_KERAS, UNPADDED): {
        "train_loss": {2: 0.0695, 6: 0.0247, 10: 0.0125},
        "train_top1": {2: 97.86, 6: 99.24, 10: 99.65},
        "test_top1": {10: ACCURACIES[UNPADDED]},
        "test_loss": {2: 0.0495, 6: 0.0382, 10: 0.0264},
    },
}
PARAMETERS = {network: int(published(SPEC, "parameters", where)["published"]) for network, where in PRINTED.items()}
PER_CLASS = (0.9970, 0.9960, 0.9924, 0.9923, 0.9930, 0.9924, 0.9956, 0.9907, 0.9901, 0.9884)
SECONDS = 63.5  # an epoch of Keras
GAP_NAME = "Published: TensorFlow − PyTorch"
GAP = {"test_top1": ACCURACIES[UNPADDED] - ACCURACIES[PADDED]}
GAP |= {"train_top1": 99.65 - 99.28, "train_loss": 0.0125 - 0.0228}


class Size(NamedTuple):
    """A difference of means, and half of its 95 % confidence interval (infinite without repeated runs)."""

    difference: float
    half: float


class Effect(NamedTuple):
    """What some cells have beyond others."""

    name: str
    cells: tuple[Cell, ...]
    others: tuple[Cell, ...]
    paired: bool = False  # one cell on each side, whose runs belong together one by one: absolute differences

    def size(self, values: Values) -> Size:
        """Cells count equally; runs within a cell are taken to vary equally in all of them (Student's t)."""
        sides = [[values[cell] for cell in side] for side in (self.cells, self.others)]
        if self.paired:
            sides = [[np.abs(sides[0][0] - sides[1][0])], [np.zeros(1)]]
        one, other = (float(np.mean([runs.mean() for runs in side])) for side in sides)
        std, freedom = pooled_std([runs for side in sides for runs in side])
        if not freedom:
            return Size(one - other, float("inf"))
        variance = std**2 * sum(1 / (len(runs) * len(side) ** 2) for side in sides for runs in side)
        return Size(one - other, float(stdtrit(freedom, 0.975)) * variance**0.5)

    def explains(self, values: Values, gap: float) -> str:
        """Whether it makes at least half of a gap: the verdict if the whole interval agrees."""
        difference, half = self.size(values)
        part = abs(gap) if self.paired else gap
        low, high = sorted(((difference - half) / part, (difference + half) / part))
        return "supported" if low >= 0.5 else "not supported" if high < 0.5 else "not decided"


def pooled_std(groups: Collection[np.ndarray]) -> tuple[float, int]:
    """The standard deviation within groups, and its degrees of freedom (infinite where there are none)."""
    freedom = sum(len(runs) - 1 for runs in groups)
    squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in groups)
    return ((squares / freedom) ** 0.5 if freedom else float("inf")), freedom


def by_seed(values: Values) -> float:
    """What 95 % of pairs of runs of one cell differ by at most."""
    return 1.96 * 2**0.5 * pooled_std(values.values())[0]


def last(cells: Cells, metric: str) -> dict[Cell, np.ndarray]:
    """What a metric is after the last epoch, in its unit, a number a seed."""
    return {cell: after(runs, metric) for cell, runs in cells.items()}


TORCH_BOTH, FLAX_TORCH_BOTH, FLAX_KERAS_BOTH = (
    tuple((name, network) for network in NETWORKS) for name in (TORCH, FLAX_TORCH, FLAX_KERAS)
)
FLAX_PADDED, FLAX_UNPADDED = (((FLAX_TORCH, network), (FLAX_KERAS, network)) for network in NETWORKS)
NUMERICS, TORCH_NUMERICS, KERAS_NUMERICS = (
    Effect(f"(1) One start and order: |{names}|", ((one, UNPADDED),), ((other, UNPADDED),), paired=True)
    for names, one, other in (
        ("Keras − PyTorch", SAME_KERAS, SAME_TORCH),
        ("PyTorch − Flax", SAME_TORCH, FLAX_TORCH),
        ("Keras − Flax", SAME_KERAS, FLAX_TORCH),
    )
)
INITIALISATION = Effect("(2) Initialisation in Flax: Keras's − PyTorch's", FLAX_KERAS_BOTH, FLAX_TORCH_BOTH)
NETWORK = Effect("(3) Network in Flax: unpadded − padded", FLAX_UNPADDED, FLAX_PADDED)
CAUSES = {"the two networks": NETWORK, "default initialisation": INITIALISATION, "numerics": NUMERICS}
EFFECTS = (
    NUMERICS,
    TORCH_NUMERICS,
    KERAS_NUMERICS,
    INITIALISATION,
    Effect("(2) Unpadded, own defaults: Keras − PyTorch", ((KERAS, UNPADDED),), ((TORCH, UNPADDED),)),
    NETWORK,
    Effect("(3) As published: Keras − PyTorch", ((KERAS, UNPADDED),), ((TORCH, PADDED),)),
    Effect("Framework alone: PyTorch − Flax", TORCH_BOTH, FLAX_TORCH_BOTH),
    Effect("Framework alone: Keras − Flax", ((KERAS, UNPADDED),), ((FLAX_KERAS, UNPADDED),)),
)


def networks_of(options: Options) -> dict[str, tuple[str, dict[str, Any]]]:
    """The two networks' names in the library, and their sizes; --quick takes a linear one for both."""
    return {name: ("linear", {}) if options.quick else ("wide_cnn", sizes) for name, sizes in NETWORKS.items()}


def train_flax(study: Study, epochs: int) -> dict[Cell, Runs]:
    networks, inits = {"SAME": PADDED, "VALID": UNPADDED}, {"torch": FLAX_TORCH, "keras": FLAX_KERAS}
    if study.options.quick:
        linear = dataclasses.replace(SPEC, base={**SPEC.base, "model": "linear"}, axes=SPEC.axes[1:])
        found = fill(study, linear, quick={"limit": 64, "batch_size": 32})
        return {(inits[init], network): runs for network in NETWORKS for init, runs in found.items()}
    found = fill(study, SPEC, epochs=epochs)
    return {(inits[init], networks[padding]): runs for (padding, init), runs in found.items()}


def train_cells(options: Options, data: fv.data.Dataset, recipe: fv.Recipe, flax: Mapping[Cell, Runs]) -> Cells:
    cells: Cells = dict(flax)

    def train(cell: Cell, one: Callable[[fv.Recipe], dict[str, np.ndarray]]) -> None:
        found = []
        for seed in range(1 if options.quick else options.seeds):  # other frameworks are slow to start
            run = dataclasses.replace(recipe, seed=seed)
            key = {"cell": cell, "data": data.source.checksum, "examples": len(data.train), "recipe": run}
            found.append(cached(options, key, functools.partial(one, run)))
            accuracy, seconds = float(found[-1]["test_top1"][-1]), float(found[-1]["seconds"])
            print(f"{', '.join(cell)}, seed {seed}: test accuracy {accuracy:.2%}, {seconds:.0f} s", flush=True)
        cells[cell] = stacked(found)

    def orders_of(run: fv.Recipe) -> np.ndarray:  # (epochs, examples), as in Flax
        counts = np.arange(int(run.epochs), dtype=np.uint32)
        return np.stack([epoch_order(np.uint32(run.seed), epoch, len(data.train)) for epoch in counts])

    def torch_as_flax(run: fv.Recipe) -> dict[str, np.ndarray]:
        name, sizes = networks[UNPADDED]
        twin = export.to_torch(create(data, name, sizes, init="torch", seed=run.seed))
        weights = {key: tensor.numpy() for key, tensor in twin.state_dict().items()}
        return peers.train_torch(name, data, run, weights=weights, orders=orders_of(run), **sizes)

    def keras_as_flax(run: fv.Recipe) -> dict[str, np.ndarray]:
        twin = export.to_keras(create(data, "wide_cnn", NETWORKS[UNPADDED], init="torch", seed=run.seed))
        weights = [np.asarray(variable.value) for variable in twin.weights]
        return peers.train_keras(data, run, weights=weights, orders=orders_of(run))

    networks = networks_of(options)
    for network, (name, sizes) in networks.items():
        train((TORCH, network), lambda run, n=name, s=sizes: peers.train_torch(n, data, run, **s))
    train((SAME_TORCH, UNPADDED), torch_as_flax)
    train((KERAS, UNPADDED), functools.partial(peers.train_keras, data))
    train((SAME_KERAS, UNPADDED), keras_as_flax)
    return cells


def create(data: fv.data.Dataset, name: str, sizes: dict[str, Any], **rest: Any) -> fv.layers.Chain:
    return fv.models.create(name, input_shape=data.input_shape, num_classes=data.num_classes, **sizes, **rest)


def time_graphs(data: fv.data.Dataset, recipe: fv.Recipe, model: fv.layers.Chain, steps: int) -> dict[str, tuple]:
    """A training step of JAX, compiled as a whole and op by op: graph -> (losses, milliseconds a step)."""
    graphdef, start = nnx.split(model)

    def step(params: nnx.State, images: np.ndarray, labels: np.ndarray) -> tuple[nnx.State, jax.Array]:
        def loss_of(params: nnx.State) -> jax.Array:
            logits = nnx.merge(graphdef, params)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        return jax.tree.map(lambda p, g: p - recipe.learning_rate * g, params, gradients), loss

    size = recipe.batch_size
    images, labels = data.train.images[:size].astype("float32") / 255, data.train.labels[:size]
    found = {}
    for graph, update in (("static", jax.jit(step)), ("dynamic", step)):
        jax.block_until_ready(update(start, images, labels))  # compiles the step, or each of its operations
        params, losses, began = start, [], time.perf_counter()
        for _ in range(steps):
            params, loss = update(params, images, labels)
            losses.append(float(loss))
        found[graph] = (np.array(losses), 1e3 * (time.perf_counter() - began) / steps)
    return found
