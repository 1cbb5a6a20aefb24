"""Losses of single examples, what outputs predict under each, and counted sums of both, of which metrics are made."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxvision.training.metrics import TOP


def example_losses(
    loss: str,
    outputs: jax.Array,
    labels: jax.Array,
    inputs: jax.Array,
    smoothing: jax.Array | None = None,
    weights: np.ndarray | None = None,
) -> jax.Array:
    """The loss of each example, shape (B,).

    Args:
        loss: "cross_entropy" (outputs: logits (B, C)), "binary_cross_entropy" (outputs: one logit (B, 1) of class 1)
            or "squared_error" (outputs: images like `inputs`; the error is summed over all values of an example).
        outputs: What the model gave.
        labels: int32 (B,).
        inputs: What the model was given, (B, ...), the target of "squared_error".
        smoothing: Share of each label that is spread evenly over all classes, as in PyTorch's `CrossEntropyLoss`; of
            a single logit, over both.
        weights: (C,): of each class; those of a label that is spread over several are spread as it is, as in PyTorch.
    """
    if loss == "squared_error":
        return jnp.square(outputs - inputs).sum(axis=tuple(range(1, inputs.ndim)))
    if weights is not None and loss == "binary_cross_entropy":
        outputs = jnp.concatenate([jnp.zeros_like(outputs), outputs], axis=1)
        loss = "cross_entropy"
    if loss == "binary_cross_entropy":
        targets = labels.astype(outputs.dtype)
        if smoothing is not None:
            share = smoothing.astype(outputs.dtype)
            targets = (1 - share) * targets + share / 2
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], targets)
    if smoothing is not None or weights is not None:
        targets = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
        if smoothing is not None:
            targets = optax.smooth_labels(targets, smoothing.astype(outputs.dtype))
        if weights is not None:
            targets = targets * jnp.asarray(weights, outputs.dtype)[None]
        return optax.softmax_cross_entropy(outputs, targets)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def class_scores(loss: str, outputs: jax.Array) -> jax.Array | None:
    """Scores (B, C) whose order is the model's order of the classes; None where the outputs are no scores."""
    if loss == "squared_error":
        return None
    if loss == "binary_cross_entropy":
        return jnp.concatenate([jnp.zeros_like(outputs), outputs], axis=1)
    return outputs


def loss_of(output_shape: tuple[int, ...]) -> str:
    """The loss that fits an output for one example: an image, one logit, or one logit a class."""
    if len(output_shape) > 1:
        return "squared_error"
    return "binary_cross_entropy" if output_shape[0] == 1 else "cross_entropy"


class Sums(NamedTuple):
    """Counted sums over examples; adding two of them gives those of both sets of examples."""

    examples: jax.Array  # how many were counted, float32 ()
    loss: jax.Array  # sum of example losses, ()
    top3: jax.Array  # examples whose class is among the three highest scores, float32 ()
    seen: jax.Array  # examples by true class, float32 (C,)
    hits: jax.Array  # those of them whose class has the highest score, float32 (C,)
    confusion: jax.Array  # examples by true (row) and predicted (column) class, float32 (C, C); (0, 0) if not wanted


def zero_sums(
    classes: int, dtype: jnp.dtype = jnp.float32, members: int | None = None, *, confusion: bool = True
) -> Sums:
    """The sums over no examples, with a leading axis of `members` where given."""

    def zeros(*shape: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jnp.zeros(shape if members is None else (members, *shape), dtype)

    side = classes if confusion else 0
    return Sums(zeros(), zeros(dtype=dtype), zeros(), zeros(classes), zeros(classes), zeros(side, side))


def add(a: Sums, b: Sums) -> Sums:
    """The sums over both sets of examples."""
    return Sums(*(x + y for x, y in zip(a, b, strict=True)))


def sum_batch(
    loss: str,
    classes: int,
    outputs: jax.Array,
    labels: jax.Array,
    inputs: jax.Array,
    mask: jax.Array | None,
    *,
    confusion: bool = True,
) -> Sums:
    """The sums over one batch; examples where `mask` (bool (B,)) is False do not count.

    Training goes without the confusion matrix: it grows with the square of the classes, and so would every step.

    The predicted class is the arg max, the first of equal scores and NaN above all, as in NumPy and PyTorch.
    """
    losses = example_losses(loss, outputs, labels, inputs)
    weight = jnp.ones(labels.shape, jnp.float32) if mask is None else mask.astype(jnp.float32)
    loss_sum = losses.sum() if mask is None else jnp.where(mask, losses, jnp.zeros((), losses.dtype)).sum()
    scores = class_scores(loss, outputs)
    nothing = zero_sums(classes, confusion=confusion)
    if scores is None:
        return nothing._replace(examples=weight.sum(), loss=loss_sum)
    scores = jnp.where(jnp.isnan(scores), jnp.asarray(jnp.inf, scores.dtype), scores)
    column = jnp.arange(scores.shape[1], dtype=labels.dtype)[None, :]
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    ahead = (scores > own) | ((scores == own) & (column < labels[:, None]))
    top3 = (ahead.sum(axis=1) < TOP).astype(jnp.float32)
    predicted = scores.argmax(axis=1).astype(labels.dtype)
    true = (labels[:, None] == column).astype(jnp.float32) * weight[:, None]
    hits = (true * (predicted == labels).astype(jnp.float32)[:, None]).sum(axis=0)
    matrix = nothing.confusion.at[labels, predicted].add(weight) if confusion else nothing.confusion
    return Sums(weight.sum(), loss_sum, (top3 * weight).sum(), true.sum(axis=0), hits, matrix)
