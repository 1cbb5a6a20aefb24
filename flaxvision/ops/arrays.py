"""Arrays without a program: `jnp.full`, and `jnp.array` of numpy's arrays, compile one for every shape (JAX 0.10)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

_left: ContextVar[int | None] = ContextVar("numbers that `filled` may still make", default=None)


def from_numpy(array: ArrayLike) -> jax.Array:
    """A copy of `array` as JAX's, 64-bit numbers as 32-bit ones unless JAX keeps them."""
    return jax.device_put(np.array(array))


def filled(shape: int | Sequence[int], value: float, dtype: DTypeLike = np.float32) -> jax.Array:
    """`value` everywhere, as float32 unless another type is given."""
    if (left := _left.get()) is not None:
        left -= math.prod([shape] if isinstance(shape, int) else shape)
        if left < 0:
            raise ValueError(f"its layers would hold more numbers than it does, one of them {shape}")
        _left.set(left)
    return jax.device_put(np.full(shape, value, dtype))


@contextlib.contextmanager
def at_most(numbers: int) -> Iterator[None]:
    """Let `filled` make so many numbers in all, and raise `ValueError` for more before it takes their memory."""
    token = _left.set(numbers)
    try:
        yield
    finally:
        _left.reset(token)
