"""Report B3's training loop, correct and as published, and what it starts from; run by `cifar_vgg19.py`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import export
import flaxvision as fv
from flaxvision.layers import BatchNorm, Chain, Context, Conv, Preprocess
from flaxvision.ops.policy import NATIVE, Policy

ADAM = optax.adam(1e-4)
EPOCHS = 4
TEST_BATCHES = 100  # of as many images as a training batch, from the start of the test set
PRETRAINING_EPOCHS = 2  # on drawn characters


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all arms share."""

    network: str = "vgg19"
    batch: int = 64
    every: int = 100  # iterations from test to test
    epochs: int = EPOCHS
    limit: int | None = None  # training images; None for all
    weights: str | None = None  # file of the pretrained start
    characters: int | None = None  # drawn for pretraining; None for as many as there are

    @property
    def other(self) -> str:
        """How it differs from the report's; "" if it does not."""
        if self.network == "vgg19" and self.epochs == EPOCHS and self.limit is None:
            return ""
        images = "all" if self.limit is None else f"{self.limit:,}"
        return f"other setting: {self.network}, training images: {images}, epochs: {self.epochs}"


def create(network: str, seed: int = 0, num_classes: int = 10) -> Chain:
    """A fresh network for coloured images of 32 x 32 pixels, initialised as PyTorch does."""
    model = fv.models.create(network, input_shape=(32, 32, 3), num_classes=num_classes, seed=seed, init="torch")
    model.preprocess = Preprocess(1 / 255)
    return model


State = tuple[nnx.State, nnx.State, optax.OptState]  # parameters, running statistics, Adam's moments


def mode(training: bool) -> Context:
    """How BatchNorm runs; on a CPU with the convolutions made for it."""
    return Context(train=training, policy=Policy.for_training("cpu") if jax.default_backend() == "cpu" else NATIVE)


@functools.partial(jax.jit, static_argnames=("graphdef", "training"), donate_argnames="state")
def update(
    graphdef: nnx.GraphDef, state: State, images: jax.Array, labels: jax.Array, training: bool
) -> tuple[State, jax.Array]:
    """One iteration; `training` is the mode of BatchNorm, the parameters learn either way."""
    params, statistics, moments = state

    def loss_of(params: nnx.State) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, params, statistics, copy=True)
        logits = model(model.preprocess(images, jnp.float32), mode(training))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, nnx.state(model, nnx.BatchStat)

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    with jax.numpy_dtype_promotion("standard"):  # Adam in optax mixes whole numbers and floats
        changes, moments = ADAM.update(gradient, moments)
    return (optax.apply_updates(params, changes), statistics, moments), loss


def predict(graphdef: nnx.GraphDef, state: State, images: np.ndarray) -> np.ndarray:
    """The class of each image, in evaluation mode, 400 at a time."""
    parts = [images[start : start + 400] for start in range(0, len(images), 400)]
    return np.concatenate([np.asarray(_classify(graphdef, *state[:2], part)) for part in parts])


@functools.partial(jax.jit, static_argnames="graphdef")
def _classify(graphdef: nnx.GraphDef, params: nnx.State, statistics: nnx.State, images: jax.Array) -> jax.Array:
    model = nnx.merge(graphdef, params, statistics)
    return model(model.preprocess(images, jnp.float32), mode(training=False)).argmax(axis=1)


def begin(model: Chain) -> tuple[nnx.GraphDef, State]:
    """The model's definition, and a state that `update` may overwrite."""
    graphdef, params, statistics = jax.tree.map(jnp.copy, nnx.split(model, nnx.Param, nnx.BatchStat))
    return graphdef, (params, statistics, ADAM.init(params))


def batches(split: fv.data.Split, size: int, seed: int, epoch: int) -> Iterator[fv.data.Split]:
    """An epoch's whole batches, in an order of its own."""
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    for start in range(0, len(split) - size + 1, size):
        yield split[order[start : start + size]]


def train(model: Chain, data: fv.data.Dataset, setting: Setting, seed: int, as_published: bool) -> dict[str, Any]:
    """Train a model, testing it every so many iterations.

    Returns:
        "loss" and "training" (BatchNorm's mode) of each iteration, "accuracy" of each test and "seconds" since the one
        before, and "predicted", a class for every test image at the end.
    """
    tested = data.test[: TEST_BATCHES * setting.batch]
    graphdef, state = begin(model)
    found: dict[str, list[Any]] = {"loss": [], "training": [], "accuracy": [], "seconds": []}
    for epoch in range(setting.epochs):
        training, began = True, perf_counter()
        for iteration, batch in enumerate(batches(data.train[: setting.limit], setting.batch, seed, epoch), 1):
            state, loss = update(graphdef, state, batch.images, batch.labels, training)
            found["loss"].append(float(loss))
            found["training"].append(training)
            if iteration % setting.every == 0:
                accuracy = np.mean(predict(graphdef, state, tested.images) == tested.labels)
                if as_published:
                    training = False  # eval() for the test, and no train() after it
                found["accuracy"].append(accuracy)
                found["seconds"].append(perf_counter() - began)
                began = perf_counter()
                print(f"  epoch {epoch + 1}, iteration {iteration}: accuracy {accuracy:.4f}", flush=True)
    found["predicted"] = predict(graphdef, state, data.test.images)
    return {name: np.array(values) for name, values in found.items()}


def pretrained(model: Chain, setting: Setting, seed: int) -> Chain:
    """The model with pretrained convolutions and BatchNorms; the linear layers stay as they are."""
    names = tuple(name for name, layer in model.named_layers() if isinstance(layer, (Conv, BatchNorm)))
    if setting.weights:
        return export.from_torch(setting.weights, model, only=names)
    source = trained_on_characters(setting.network, setting.batch, setting.characters, seed)
    for (name, layer), (_, trained) in zip(model.named_layers(), source.named_layers(), strict=True):
        if name in names:
            nnx.update(layer, nnx.state(trained))
    return model


@functools.cache
def trained_on_characters(network: str, batch: int, limit: int | None, seed: int) -> Chain:
    """The network, trained to tell 47 drawn characters apart; both ways of training start from it."""
    characters = fv.data.load("glyphs47", size=32, channels=3, limit=limit)
    graphdef, state = begin(create(network, seed, characters.num_classes))
    for epoch in range(PRETRAINING_EPOCHS):
        for drawn in batches(characters.train, batch, seed, epoch):
            state, _ = update(graphdef, state, drawn.images, drawn.labels, training=True)
    return nnx.merge(graphdef, *state[:2])
