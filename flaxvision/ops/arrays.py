"""Arrays without a program: `jnp.full`, and `jnp.array` of numpy's arrays, compile one for every shape (JAX 0.10)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike


def from_numpy(array: ArrayLike) -> jax.Array:
    """A copy of `array` as JAX's, 64-bit numbers as 32-bit ones unless JAX keeps them."""
    return jax.device_put(np.array(array))


def filled(shape: int | Sequence[int], value: float) -> jax.Array:
    """`value` everywhere, as float32."""
    return jax.device_put(np.full(shape, value, np.float32))
