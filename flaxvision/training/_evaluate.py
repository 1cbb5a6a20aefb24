"""Scores and predictions of a trained model, with the preprocessing that travels with it."""

from __future__ import annotations

import functools

import jax
import numpy as np
from flax import nnx

from flaxvision.data import Split
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Context
from flaxvision.layers.context import evaluation_on
from flaxvision.training.losses import class_scores, loss_of
from flaxvision.training.metrics import Metrics, Sums, sum_batch

BATCH = 500  # examples a compiled call


def evaluate(model: Chain, split: Split) -> Metrics:
    """What a model scores on a split; every example counts once.

    The loss is that of the model's outputs: squared error for images, binary cross-entropy for one logit, else
    cross-entropy.

    Raises:
        UserError: If the examples do not fit the model.
    """
    _check(model, split.images)
    graphdef, state = nnx.split(model)
    loss = loss_of(model.output_shape)
    classes = 0 if loss == "squared_error" else max(model.output_shape[0], 2)
    parts = []
    for start in range(0, len(split), BATCH):
        part = split[start : start + BATCH]
        parts.append(jax.device_get(_score(graphdef, loss, classes, state, *_pad(part))))
    return Metrics.of(jax.tree.map(lambda *sums: np.sum(sums, axis=0), *parts))


def predict(model: Chain, images: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 (N, C), of images as stored (uint8 (N, H, W, C)) or points (float32 (N, D)).

    A model with one logit gives two columns; a model whose outputs are images gives those, (N, H, W, C).

    Raises:
        UserError: If the examples do not fit the model.
    """
    images = np.asarray(images)
    _check(model, images)
    graphdef, state = nnx.split(model)
    parts = [np.zeros((0, *model.output_shape), np.float32)] if not len(images) else []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        padded = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), part.dtype)])
        parts.append(np.asarray(_predict(graphdef, state, padded))[: len(part)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    graphdef: nnx.GraphDef,
    loss: str,
    classes: int,
    state: nnx.State,
    images: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
) -> Sums:
    model = nnx.merge(graphdef, state)
    inputs = model.preprocess(images, model.dtype)
    return sum_batch(loss, classes, model(inputs, _context()), labels, inputs, mask)


@functools.partial(jax.jit, static_argnums=0)
def _predict(graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    model = nnx.merge(graphdef, state)
    outputs = model(model.preprocess(images, model.dtype), _context())
    scores = class_scores(loss_of(outputs.shape[1:]), outputs)
    return outputs if scores is None else jax.nn.softmax(scores)


def _context() -> Context:
    return evaluation_on(jax.default_backend())


def _pad(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    missing = BATCH - len(split)
    images = np.concatenate([split.images, np.zeros((missing, *split.images.shape[1:]), split.images.dtype)])
    labels = np.concatenate([split.labels, np.zeros(missing, np.int32)])
    return images, labels, np.arange(BATCH) < len(split)


def _check(model: Chain, images: np.ndarray) -> None:
    if tuple(images.shape[1:]) != model.input_shape:
        raise UserError(
            f"{model.kind} takes examples of shape {model.input_shape}, given are {tuple(images.shape[1:])}: "
            f"give an array (N, {', '.join(map(str, model.input_shape))})"
        )
