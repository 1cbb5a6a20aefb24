"""Transformations of gradients that optax lacks, or computes otherwise than PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Scalar = float | jax.Array
QUINTIC = 3.4445, -4.7750, 2.0315  # of Jordan's Newton-Schulz iteration: steepest at 0
ITERATIONS = 5
TINY = 1e-7  # least norm of a matrix that is divided by its norm


class FollowingState(NamedTuple):
    """What `following` passes on."""

    step: jax.Array  # int32 (): updates done
    inner: optax.OptState


def following(
    schedule: Callable[[jax.Array], jax.Array], make: Callable[[jax.Array], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """`make` of a setting that is another one in each update, as a schedule of the updates done says."""

    def init(params: optax.Params) -> FollowingState:
        step = jnp.zeros((), jnp.int32)
        return FollowingState(step, make(schedule(step)).init(params))

    def update(
        gradient: optax.Updates, state: FollowingState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, FollowingState]:
        updates, inner = make(schedule(state.step)).update(gradient, state.inner, params)
        return updates, FollowingState(state.step + 1, inner)

    return optax.GradientTransformation(init, update)


def adagrad(epsilon: Scalar) -> optax.GradientTransformation:
    """Over the root of the sum of all squares (Duchi et al., JMLR 2011); epsilon outside it, as in PyTorch."""

    def update(
        gradient: optax.Updates, squares: optax.Updates, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.Updates]:
        squares = jax.tree.map(lambda s, g: s + jnp.square(g), squares, gradient)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + epsilon), gradient, squares), squares

    return optax.GradientTransformation(optax.tree.zeros_like, update)


class NAdamState(NamedTuple):
    """What NAdam passes on."""

    step: jax.Array  # int32 (): updates done
    product: jax.Array  # (): of all momenta so far
    mean: optax.Updates  # running mean of gradients
    square: optax.Updates  # of their squares


def nadam(beta1: Scalar, beta2: Scalar, epsilon: Scalar, momentum_decay: Scalar) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum, which grows from half of beta1 to all of it (Dozat, 2016), as PyTorch has it.

    The product of momenta is of the parameters' type; PyTorch keeps it in float32 for float64 parameters, too, unless
    that is its default type, which shows in the eighth digit of an update.
    """

    def momentum(step: jax.Array) -> jax.Array:
        return beta1 * (1 - 0.5 * jnp.power(0.96, step * momentum_decay))

    def init(params: optax.Params) -> NAdamState:
        mean, square = (optax.tree.zeros_like(params) for _ in range(2))  # of their own: buffers are donated
        product = jnp.ones((), jax.tree.leaves(params)[0].dtype)
        return NAdamState(jnp.zeros((), jnp.int32), product, mean, square)

    def update(
        gradient: optax.Updates, state: NAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, NAdamState]:
        step = state.step + 1
        now, then = momentum(step), momentum(step + 1)
        product = (state.product * now).astype(state.product.dtype)
        mean = optax.tree.update_moment(gradient, state.mean, beta1, 1)
        square = optax.tree.update_moment(gradient, state.square, beta2, 2)
        of_gradient, of_mean = (1 - now) / (1 - product), then / (1 - product * then)
        root = jax.tree.map(lambda s: jnp.sqrt(s / (1 - beta2**step)) + epsilon, square)
        updates = jax.tree.map(
            lambda g, m, r: ((of_gradient * g + of_mean * m) / r).astype(g.dtype), gradient, mean, root
        )
        return updates, NAdamState(step, product, mean, square)

    return optax.GradientTransformation(init, update)


def muon(beta1: Scalar, vector_scale: Scalar) -> optax.GradientTransformation:
    """Kernels by orthogonalized Nesterov momentum (Jordan, 2024), as PyTorch's `Muon`; all else by Adam, scaled.

    A kernel is the matrix (outputs, all other axes), so that convolutions are as in Jordan's CIFAR-10 networks.
    """
    matrices = optax.chain(_nesterov_mean(beta1), optax.stateless_with_tree_map(lambda g, _: _orthogonalized(g)))
    vectors = optax.chain(optax.scale_by_adam(), optax.scale(vector_scale))
    kinds = {True: matrices, False: vectors}
    return optax.partition(kinds, lambda params: jax.tree.map(lambda x: x.ndim > 1, params))


def _nesterov_mean(beta: Scalar) -> optax.GradientTransformation:
    def update(
        gradient: optax.Updates, mean: optax.Updates, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.Updates]:
        mean = optax.tree.update_moment(gradient, mean, beta, 1)
        return optax.tree.update_moment(gradient, mean, beta, 1), mean

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def _orthogonalized(kernel: jax.Array) -> jax.Array:
    """Nearly the orthogonal factor of a kernel (..., outputs), times the root of outputs over inputs where above 1."""
    a, b, c = QUINTIC
    matrix = kernel.reshape(-1, kernel.shape[-1])
    inputs, outputs = matrix.shape
    x = matrix if inputs <= outputs else matrix.T
    x = x / jnp.maximum(jnp.linalg.norm(x), TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x if inputs <= outputs else x.T
    return (x * max(1.0, outputs / inputs) ** 0.5).reshape(kernel.shape)
