"""Losses of single examples, and what a model's outputs predict under each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def example_losses(
    loss: str, outputs: jax.Array, labels: jax.Array, inputs: jax.Array, smoothing: jax.Array | None = None
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
    """
    if loss == "squared_error":
        return jnp.square(outputs - inputs).sum(axis=tuple(range(1, inputs.ndim)))
    if loss == "binary_cross_entropy":
        targets = labels.astype(outputs.dtype)
        if smoothing is not None:
            share = smoothing.astype(outputs.dtype)
            targets = (1 - share) * targets + share / 2
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], targets)
    if smoothing is not None:
        targets = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
        return optax.softmax_cross_entropy(outputs, optax.smooth_labels(targets, smoothing.astype(outputs.dtype)))
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
