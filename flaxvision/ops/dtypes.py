"""The type in which sums are kept."""

from __future__ import annotations

import jax.numpy as jnp


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """float64 for float64, else float32: half precision is for products, not for sums."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
