"""Scores and predictions of a trained model, with the preprocessing that travels with it."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
from flax import nnx

from flaxvision.data import Dataset, Split
from flaxvision.data.examples import as_array, check_labels, check_pixels
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Context, Preprocess
from flaxvision.layers.context import evaluation_on
from flaxvision.training.losses import class_scores, loss_of
from flaxvision.training.metrics import Metrics
from flaxvision.training.sums import Sums, sum_batch

BATCH = 500  # examples a compiled call


def evaluate(model: Chain, split: Split) -> Metrics:
    """What a model scores on a split; every example counts once.

    The loss is that of the model's outputs: squared error for images, binary cross-entropy for one logit, else
    cross-entropy.

    Raises:
        UserError: If the examples do not fit the model.
    """
    if not isinstance(split, Split):
        raise UserError(f"evaluate got a {type(split).__name__}: give a Split, such as data.test")
    if not len(split):
        raise UserError("evaluate got a split without examples: give one example or more")
    as_model_takes(model, split.images)
    graphdef, state = nnx.split(model)
    loss = loss_of(model.output_shape)
    classes = 0 if loss == "squared_error" else max(model.output_shape[0], 2)
    if classes:
        check_labels(f"{model.kind} on these examples", split.labels, classes)
    parts = []
    for start in range(0, len(split), BATCH):
        part = split[start : start + BATCH]
        parts.append(jax.device_get(_score(graphdef, loss, classes, state, *_pad(part))))
    return Metrics.of(jax.tree.map(lambda *sums: np.sum(sums, axis=0), *parts))


def predict(model: Chain, images: Any) -> np.ndarray:
    """Class probabilities, float32 (N, C), of images as stored (pixels 0 to 255) or points (float32 (N, D)).

    The model scales pixels itself, as it was trained (`model.preprocess`). A model with one logit gives two columns; a
    model whose outputs are images gives those, (N, H, W, C).

    Args:
        model: The model.
        images: (N, H, W, C), or (N, H, W) where C is 1: uint8, or another number type with pixels 0 to 255.

    Raises:
        UserError: If the examples do not fit the model, or their values look scaled already; it says what to write.

    >>> import numpy as np, flaxvision as fv
    >>> model = fv.models.create("linear", input_shape=(2, 2, 1), num_classes=3)
    >>> fv.predict(model, np.zeros((5, 2, 2), np.uint8)).shape
    (5, 3)
    """
    images = as_model_takes(model, images)
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


def as_model_takes(model: Chain, images: Any) -> np.ndarray:
    """Examples as an array that fits the model; `UserError` for another shape, and for values that are no pixels."""
    check_model(model)
    if isinstance(images, (Split, Dataset)):
        raise UserError(f"examples are a {type(images).__name__}: give its images, such as data.test.images")
    where, shape = f"{model.kind} on these examples", model.input_shape
    x = as_array(where, images)
    if len(shape) == 3 and x.ndim == 3 and shape[2] == 1 and x.shape != shape and x.shape[1:] == shape[:2]:
        x = x[..., None]
    if x.shape[1:] != shape:
        raise UserError(
            f"{model.kind} takes examples of shape {shape}, given are {x.shape[1:]}: {_remedy(x.shape, shape)}"
        )
    if not x.size:
        return x
    if len(shape) == 3 and model.preprocess != Preprocess():
        low, high = check_pixels(where, x, "images")
        if x.dtype.kind == "f" and 0 < high <= 1:
            raise UserError(
                f"{where}: images are {x.dtype} from {low:g} to {high:g}, and seem scaled: the model scales pixels "
                "itself, give them as stored, 0 to 255 (np.rint(images * 255).astype('uint8'))"
            )
    elif x.dtype.kind == "f" and not np.isfinite(x).all():
        raise UserError(f"{where}: {np.count_nonzero(~np.isfinite(x))} values are not finite")
    return x


def check_model(model: Any) -> None:
    """Raise `UserError` for what is no model."""
    if not isinstance(model, Chain):
        what = "result.model" if isinstance(getattr(model, "model", None), Chain) else "one of create or load_model"
        raise UserError(f"the model is a {type(model).__name__}: give {what}")


def _remedy(given: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """What to write for an array of shape `given` to become one of examples of `shape`."""
    if given == shape:
        return "give an array of several, x[None] for one"
    if len(shape) == 3 and given[1:] == (shape[2], *shape[:2]):
        return "channels come last, write x.transpose(0, 2, 3, 1)"
    if len(given) == 2 and given[1] == math.prod(shape):
        return f"write x.reshape(-1, {', '.join(map(str, shape))})"
    return f"give an array (N, {', '.join(map(str, shape))})"
