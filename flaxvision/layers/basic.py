"""The layers that Flax has only as functions, as modules, so that a chain can hold, print and export them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.errors import check_choice

ACTIVATIONS = {
    "relu": nnx.relu,
    "sigmoid": nnx.sigmoid,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
    "leaky_relu": nnx.leaky_relu,  # slope 0.01, as in PyTorch
    "elu": nnx.elu,
    "gelu": lambda x: nnx.gelu(x, approximate=False),  # exact, as PyTorch's default
    "silu": nnx.silu,
    "softplus": nnx.softplus,
}


class Activation(nnx.Module):
    """An elementwise activation by its name.

    Args:
        function: One of "relu", "sigmoid", "tanh", "identity", "leaky_relu", "elu", "gelu", "silu", "softplus".
    """

    def __init__(self, function: str):
        check_choice("activation", function, ACTIVATIONS)
        self.function = function

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the activation to `x` of any shape."""
        return ACTIVATIONS[self.function](x)


class Flatten(nnx.Module):
    """(B, H, W, C) to (B, H * W * C), in NHWC order."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Flatten all axes of `x` but the first."""
        return x.reshape(x.shape[0], -1)


class PolarTransform(nnx.Module):
    """Cartesian points (x, y) to polar ones (r, phi), phi = atan2(y, x) in (-pi, pi]; report C1."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Transform `x` of shape (B, 2)."""
        return jnp.stack([jnp.hypot(x[:, 0], x[:, 1]), jnp.arctan2(x[:, 1], x[:, 0])], axis=1)
