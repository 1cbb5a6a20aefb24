"""Report A's networks, trained in Flax, PyTorch and Keras: the runs that framework_parity.py compares."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax
import peers
from common import Options, Study, cached, stacked
from effects import Effect
from flax import nnx
from sweeps import Runs, fill, published

import export
import flaxvision as fv
from flaxvision.sweep import load_spec
from flaxvision.training import epoch_order

PADDED, UNPADDED = "padded", "unpadded"
NETWORKS = {PADDED: ("wide_cnn", {"padding": "SAME"}), UNPADDED: ("wide_cnn", {"padding": "VALID"})}
SPEC = load_spec("mnist-frameworks")
PRINTED = {PADDED: {"padding": "SAME", "init": "torch"}, UNPADDED: {"padding": "VALID", "init": "keras"}}  # its cells
FLAX_TORCH, FLAX_KERAS, TORCH, KERAS = "Flax, torch init", "Flax, keras init", "PyTorch", "Keras"
SAME_TORCH, SAME_KERAS = "PyTorch, Flax's start and order", "Keras, Flax's start and order"

Cell = tuple[str, str]  # (framework and initialisation, network)
Cells = dict[Cell, Mapping[str, np.ndarray]]  # what the runs of a cell left: (seeds, ...)

METRICS = {  # metric -> (name, scale, unit)
    "train_loss": ("training loss", 1, ""),
    "train_top1": ("training accuracy", 100, "%"),
    "test_top1": ("test accuracy", 100, "%"),
    "test_loss": ("test loss", 1, ""),
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
GAP = {
    "test_top1": ACCURACIES[UNPADDED] - ACCURACIES[PADDED],
    "train_top1": 99.65 - 99.28,
    "train_loss": 0.0125 - 0.0228,
}


def last(cells: Cells, metric: str) -> dict[Cell, np.ndarray]:
    """What a metric is after the last epoch, in its unit, a number a seed."""
    return {cell: METRICS[metric][1] * runs[metric][:, -1] for cell, runs in cells.items()}


def cells_of(names: Iterable[str], networks: Iterable[str]) -> tuple[Cell, ...]:
    return tuple(itertools.product(names, networks))


FLAX_TORCH_BOTH, FLAX_KERAS_BOTH = cells_of([FLAX_TORCH], NETWORKS), cells_of([FLAX_KERAS], NETWORKS)
FLAX_PADDED, FLAX_UNPADDED = (cells_of([FLAX_TORCH, FLAX_KERAS], [network]) for network in NETWORKS)
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
    Effect("Framework alone: PyTorch − Flax", cells_of([TORCH], NETWORKS), FLAX_TORCH_BOTH),
    Effect("Framework alone: Keras − Flax", ((KERAS, UNPADDED),), ((FLAX_KERAS, UNPADDED),)),
)


def networks_of(options: Options) -> dict[str, tuple[str, dict[str, Any]]]:
    """The two networks' names in the library, and their sizes; --quick takes a linear one for both."""
    return dict.fromkeys(NETWORKS, ("linear", {})) if options.quick else NETWORKS


def train_flax(study: Study, epochs: int) -> dict[Cell, Runs]:
    """Both networks in Flax, from both initialisations."""
    networks, inits = {"SAME": PADDED, "VALID": UNPADDED}, {"torch": FLAX_TORCH, "keras": FLAX_KERAS}
    if study.options.quick:
        linear = dataclasses.replace(SPEC, base={**SPEC.base, "model": "linear"}, axes=SPEC.axes[1:])
        found = fill(study, linear, quick={"limit": 64, "batch_size": 32})
        return {(inits[init], network): runs for network in NETWORKS for init, runs in found.items()}
    found = fill(study, SPEC, epochs=epochs)
    return {(inits[init], networks[padding]): runs for (padding, init), runs in found.items()}


def train_cells(options: Options, data: fv.data.Dataset, recipe: fv.Recipe, flax: Mapping[Cell, Runs]) -> Cells:
    """Every framework, initialisation and network, with every seed."""
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

    networks = networks_of(options)
    for network, (name, sizes) in networks.items():
        train((TORCH, network), lambda run, n=name, s=sizes: peers.train_torch(n, data, run, **s))
    train((SAME_TORCH, UNPADDED), lambda run: train_torch_as_flax(data, run, *networks[UNPADDED]))
    train((KERAS, UNPADDED), lambda run: peers.train_keras(data, run))
    train((SAME_KERAS, UNPADDED), lambda run: train_keras_as_flax(data, run))
    return cells


def create(data: fv.data.Dataset, name: str, sizes: dict[str, Any], **rest: Any) -> fv.layers.Chain:
    return fv.models.create(name, input_shape=data.input_shape, num_classes=data.num_classes, **sizes, **rest)


def train_torch_as_flax(
    data: fv.data.Dataset, recipe: fv.Recipe, name: str, sizes: dict[str, Any]
) -> dict[str, np.ndarray]:
    """PyTorch from the initial weights, and in the order of batches, of Flax's run with the same seed."""
    model = create(data, name, sizes, init="torch", seed=recipe.seed)
    weights = {key: tensor.numpy() for key, tensor in export.to_torch(model).state_dict().items()}
    return peers.train_torch(name, data, recipe, weights=weights, orders=orders_of(data, recipe), **sizes)


def train_keras_as_flax(data: fv.data.Dataset, recipe: fv.Recipe) -> dict[str, np.ndarray]:
    """The same in Keras, with the unpadded network."""
    name, sizes = NETWORKS[UNPADDED]
    twin = export.to_keras(create(data, name, sizes, init="torch", seed=recipe.seed))
    weights = [np.asarray(variable.value) for variable in twin.weights]
    return peers.train_keras(data, recipe, weights=weights, orders=orders_of(data, recipe))


def orders_of(data: fv.data.Dataset, recipe: fv.Recipe) -> np.ndarray:
    """The order of the examples in every epoch of Flax's run, (epochs, examples)."""
    seed, examples = np.uint32(recipe.seed), len(data.train)
    return np.stack([epoch_order(seed, np.uint32(epoch), examples) for epoch in range(int(recipe.epochs))])


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
