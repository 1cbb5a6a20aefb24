"""The default initializations of Flax, PyTorch and Keras, for linear, convolution and transposed convolution layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxvision.errors import check_choice
from flaxvision.ops.arrays import filled, from_numpy

Initializer = Callable[..., jax.Array]
INITS = ("flax", "torch", "keras")
DRAWN_AT_ONCE = 4096  # numbers, at least


class Initializers(TypedDict):
    """Arguments of a Flax layer."""

    kernel_init: Initializer
    bias_init: Initializer


def uniform(bound: float) -> Initializer:
    """Uniform on [-bound, bound)."""
    return _initializer(lambda key, sizes, dtype: jax.random.uniform(key, sizes, dtype, -bound, bound), lambda _: None)


def lecun_normal() -> Initializer:
    """Flax's default: normal with variance 1 / fan-in, after cutting at two standard deviations."""
    cut = 0.87962566103423978  # what cutting leaves of a standard deviation of 1
    return _initializer(
        lambda key, sizes, dtype: jax.random.truncated_normal(key, -2, 2, sizes, dtype),
        lambda shape: (1 / math.prod(shape[:-1]), cut),
    )


def glorot_uniform() -> Initializer:
    """Keras's default: uniform with variance 2 / (fan-in + fan-out)."""
    return _initializer(
        lambda key, sizes, dtype: jax.random.uniform(key, sizes, dtype, -1),
        lambda shape: (6 / (math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1]), 1.0),
    )


def _initializer(
    draw: Callable[..., jax.Array], scale: Callable[[tuple[int, ...]], tuple[float, float] | None]
) -> Initializer:
    """The numbers of `draw(key, shape, dtype)`, times sqrt(a) / b where `scale(shape)` is (a, b).

    Drawn flat, and more than are wanted: JAX counts elements, so that the first are the same, and XLA compiles a few
    sizes for all shapes. It takes 0.2 to 0.6 s for each.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **_: object) -> jax.Array:
        count = math.prod(shape)
        drawn = draw(key, (max(DRAWN_AT_ONCE, 1 << (count - 1).bit_length()),), dtype)
        concrete = not isinstance(drawn, jax.core.Tracer)
        kept = (np.asarray(drawn) if concrete else drawn)[:count].reshape(shape)
        if (factors := scale(shape)) is not None:
            variance, cut = (np.asarray(factor, dtype) for factor in factors)
            kept = kept * (np.sqrt(variance) / cut)
        return from_numpy(kept) if concrete else jnp.asarray(kept)

    return init


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **_: object) -> jax.Array:
    """Zeros, of which Flax's own initializer compiles a program for every shape."""
    return filled(shape, 0.0).astype(dtype)


def kernel_and_bias(init: str, fan_in: int) -> Initializers:
    """The `kernel_init` and `bias_init` arguments of a Flax layer for a framework's defaults.

    Args:
        init: "flax" (kernel LeCun normal, bias zeros), "keras" (kernel Glorot uniform, bias zeros) or "torch"
            (`torch.nn.Linear.reset_parameters`: kaiming_uniform(a=sqrt(5)), that is uniform within 1/sqrt(fan_in),
            for the kernel, the same bound for the bias).
        fan_in: PyTorch's fan-in: inputs times kernel area (for a transposed convolution: outputs times kernel area).

    Raises:
        UserError: If `init` is none of these.
    """
    check_choice("init", init, INITS)
    if init == "torch":
        bound = 1 / math.sqrt(fan_in)
        return {"kernel_init": uniform(bound), "bias_init": uniform(bound)}
    kernel = lecun_normal() if init == "flax" else glorot_uniform()
    return {"kernel_init": kernel, "bias_init": zeros}
