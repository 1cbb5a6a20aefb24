"""Trials in plain Flax NNX: `nnx.jit`, `nnx.Optimizer` and `nnx.MultiMetric`, as in Flax's MNIST example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contestants import arrays, plain, prepare
from flax import nnx

import flaxvision as fv
from flaxvision.data import Dataset

Settings = dict[str, Any]
Start = dict[str, Any]  # the state of a layer by the layer's name
EVALUATION_BATCH = 500
__all__ = ["prepare", "train"]


def train(
    settings: Settings, sizes: Settings, seed: int, data: Dataset, start: Start, peer: str
) -> tuple[float, Start]:
    shape = {"input_shape": data.input_shape, "num_classes": data.num_classes}
    chain = fv.models.create(settings["model"], seed=seed, **shape, **sizes)
    model = plain(chain)
    layers = dict(zip(chain.names, model.layers, strict=True))
    if settings.get("warm_start"):
        for name, state in start.items():
            if isinstance(layers.get(name), nnx.Module):
                nnx.update(layers[name], state)
    frozen = tuple(settings.get("frozen", ()))
    held = {i for i, name in enumerate(chain.names) if frozen and name.startswith(frozen)}
    learning = nnx.All(nnx.Param, lambda path, value: path[1] not in held)
    transformation = {"sgd": optax.sgd, "adam": optax.adam}[settings["optimizer"]](settings["learning_rate"])
    optimizer = nnx.Optimizer(model, transformation, wrt=learning)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    def loss_of(model: nnx.Module, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits

    @nnx.jit
    def train_step(model: nnx.Module, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, x: Any, y: Any) -> None:
        gradient = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, learning), has_aux=True)
        (loss, logits), gradients = gradient(model, x, y)
        metrics.update(loss=loss, logits=logits, labels=y)
        optimizer.update(model, gradients)

    @nnx.jit
    def evaluation_step(model: nnx.Module, metrics: nnx.MultiMetric, x: Any, y: Any) -> None:
        loss, logits = loss_of(model, x, y)
        metrics.update(loss=loss, logits=logits, labels=y)

    pixels, batch = settings.get("pixels", "unit"), settings["batch_size"]
    images, labels = arrays(data, "train", pixels)
    random = np.random.default_rng(seed)
    accuracy = float("nan")
    for _ in range(int(settings["epochs"])):
        model.train()
        order = random.permutation(len(labels)) if settings.get("shuffle", True) else np.arange(len(labels))
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            train_step(model, optimizer, metrics, jnp.asarray(images[chosen]), jnp.asarray(labels[chosen]))
        metrics.compute()
        metrics.reset()
        model.eval()
        for split in data.splits:
            if split != "train":
                x, y = arrays(data, split, pixels)
                for first in range(0, len(y), EVALUATION_BATCH):
                    part = slice(first, first + EVALUATION_BATCH)
                    evaluation_step(model, metrics, jnp.asarray(x[part]), jnp.asarray(y[part]))
                accuracy = float(metrics.compute()["accuracy"])  # of the last split, the test images
                metrics.reset()
    return accuracy, {name: nnx.state(layer) for name, layer in layers.items() if isinstance(layer, nnx.Module)}
