"""Report A's networks, trained in Flax, PyTorch and Keras: the runs that framework_parity.py compares."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import numpy as np
import optax
import peers
from common import Options
from flax import nnx

import export
import flaxvision as fv
from flaxvision.training import epoch_order

PADDED, UNPADDED = "padded", "unpadded"
NETWORKS = {PADDED: ("wide_cnn", {"padding": "SAME"}), UNPADDED: ("wide_cnn", {"padding": "VALID"})}
FLAX_TORCH, FLAX_KERAS, TORCH, KERAS = "Flax, torch init", "Flax, keras init", "PyTorch", "Keras"
SAME_TORCH, SAME_KERAS = "PyTorch, Flax's start and order", "Keras, Flax's start and order"

Cell = tuple[str, str]  # (framework and initialisation, network)
Cells = dict[Cell, dict[str, np.ndarray]]  # what the runs of a cell left, stacked: (seeds, ...)


def networks_of(options: Options) -> dict[str, tuple[str, dict[str, Any]]]:
    """What the two networks are called in the library, and their sizes; --quick takes a linear one for both."""
    return dict.fromkeys(NETWORKS, ("linear", {})) if options.quick else NETWORKS


def train_cells(options: Options, data: fv.data.Dataset, recipe: fv.Recipe) -> Cells:
    """Every framework, initialisation and network, with every seed."""
    networks, cells = networks_of(options), {}
    if options.quick:  # imports are most of its time
        peers.start("torch")
        peers.start("keras")

    def train(cell: Cell, one: Callable[[fv.Recipe], dict[str, np.ndarray]], seeds: int = options.seeds) -> None:
        found = []
        for seed in range(seeds):
            run = dataclasses.replace(recipe, seed=seed)
            key = {"cell": cell, "data": data.source.checksum, "examples": len(data.train), "recipe": run}
            found.append(common.cached(options, key, functools.partial(one, run)))
            accuracy, seconds = float(found[-1]["test_top1"][-1]), float(found[-1]["seconds"])
            print(f"{', '.join(cell)}, seed {seed}: test accuracy {accuracy:.2%}, {seconds:.0f} s", flush=True)
        tables = [name for name in found[0] if not name.endswith("_pairs")]  # of which each run has another number
        cells[cell] = {name: np.stack([run[name] for run in found]) for name in tables}

    for network, (name, sizes) in networks.items():
        for cell, init in ((FLAX_TORCH, "torch"), (FLAX_KERAS, "keras")):
            train((cell, network), lambda run, n=name, s=sizes, i=init: train_flax(data, run, n, s, i))
    for network, (name, sizes) in networks.items():
        train((TORCH, network), lambda run, n=name, s=sizes: peers.train_torch(n, data, run, **s))
    train((SAME_TORCH, UNPADDED), lambda run: train_torch_as_flax(data, run, *networks[UNPADDED]))
    seeds = 1 if options.quick else options.seeds  # Keras is slow to start
    train((KERAS, UNPADDED), lambda run: peers.train_keras(data, run), seeds)
    train((SAME_KERAS, UNPADDED), lambda run: train_keras_as_flax(data, run), seeds)
    return cells


def create(data: fv.data.Dataset, name: str, sizes: dict[str, Any], **rest: Any) -> fv.layers.Chain:
    return fv.models.create(name, input_shape=data.input_shape, num_classes=data.num_classes, **sizes, **rest)


def train_flax(
    data: fv.data.Dataset, recipe: fv.Recipe, name: str, sizes: dict[str, Any], init: str
) -> dict[str, np.ndarray]:
    """One run; beside its history, which test images the last model gets right."""
    result = fv.fit(create(data, name, sizes, init=init, seed=recipe.seed), data, recipe)
    right = fv.predict(result.model, data.test.images).argmax(axis=1) == data.test.labels
    return {**result.history.arrays, "right": right, "seconds": np.asarray(result.timing.total)}


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
