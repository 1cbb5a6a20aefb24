"""How stored values become a network's input."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocess:
    """How stored values become a network's input: `value * scale + offset` (Keras's Rescaling).

    Each is one number, or a tuple of one per channel (for points: per coordinate).

    >>> Preprocess(scale=1 / 255)(jnp.array([[0, 255]], jnp.uint8), jnp.dtype(jnp.float32)).tolist()
    [[0.0, 1.0]]
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            if isinstance(getattr(self, name), list):  # as JSON has it
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def __call__(self, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Scale `images` (uint8 or float) to an array of `dtype`."""
        x = images.astype(dtype)
        return x if self == Preprocess() else x * self._on(x, self.scale) + self._on(x, self.offset)

    @property
    def formula(self) -> str:
        """What it computes, in words."""
        return f"value * {self.scale!r} + {self.offset!r}"

    @staticmethod
    def _on(x: jax.Array, value: float | tuple[float, ...]) -> float | jax.Array:
        return value if isinstance(value, float) else jnp.asarray(value, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
