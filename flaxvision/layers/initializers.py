"""Initializations of linear and convolution layers: the defaults of Flax, PyTorch and Keras, and those of papers."""

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
INITS = ("own", "flax", "torch", "keras")  # whose: the network's own (its paper's), or a framework's default
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
        lambda shape: (1 / _fan_in(shape), cut),
    )


def glorot_uniform() -> Initializer:
    """Keras's default: uniform with variance 2 / (fan-in + fan-out)."""
    return _initializer(
        lambda key, sizes, dtype: jax.random.uniform(key, sizes, dtype, -1),
        lambda shape: (6 / (_fan_in(shape) + _fan_out(shape)), 1.0),
    )


def normal(deviation: float) -> Initializer:
    """Normal with this standard deviation."""
    return _initializer(jax.random.normal, lambda _: (deviation**2, 1.0))


def kaiming_normal(*, fan_out: bool = False) -> Initializer:
    """Normal with variance 2 / fan-in, or 2 / fan-out (He et al., "Delving Deep into Rectifiers", ICCV 2015)."""
    return _initializer(jax.random.normal, lambda shape: (2 / (_fan_out(shape) if fan_out else _fan_in(shape)), 1.0))


def fan_in_uniform(bound: Callable[[int], float]) -> Initializer:
    """Uniform on [-b, b) with b = `bound(fan_in)`."""
    return _initializer(
        lambda key, sizes, dtype: jax.random.uniform(key, sizes, dtype, -1),
        lambda shape: (bound(_fan_in(shape)) ** 2, 1.0),
    )


def identity(others: Initializer) -> Initializer:
    """Convolution kernels that hand on their inputs as the first outputs; `others` draws the outputs beyond those."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **_: object) -> jax.Array:
        height, width, inputs, outputs = shape
        kept = min(inputs, outputs)
        handed_on = np.zeros((height, width, inputs, kept), dtype)
        handed_on[height // 2, width // 2] = np.eye(inputs, kept)
        drawn = others(key, shape, dtype)
        if isinstance(drawn, jax.core.Tracer):
            return drawn.at[..., :kept].set(handed_on)
        return from_numpy(np.concatenate([handed_on, np.asarray(drawn)[..., kept:]], -1))

    return init


def _fan_in(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])


def _fan_out(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-2]) * shape[-1]


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


def _torch_kernel(fan: int) -> float:
    """The bound of kaiming_uniform(a=sqrt(5)), as `torch.nn.Linear.reset_parameters` has it."""
    return 1 / math.sqrt(fan)


# What a network of a paper may ask for beside the frameworks' defaults: kernels; biases are zeros.
KERNELS: dict[str, Callable[[], Initializer]] = {
    "flax": lecun_normal,
    "keras": glorot_uniform,
    "kaiming_fan_in": kaiming_normal,
    "kaiming_fan_out": lambda: kaiming_normal(fan_out=True),
    "normal": lambda: normal(0.01),
    "torch_kernel": lambda: fan_in_uniform(_torch_kernel),
    "identity": lambda: identity(fan_in_uniform(_torch_kernel)),
    "lenet": lambda: fan_in_uniform(lambda fan: 2.4 / fan),
}


def kernel_and_bias(init: str, fan_in: int) -> Initializers:
    """The `kernel_init` and `bias_init` arguments of a Flax layer.

    Args:
        init: "torch" (`torch.nn.Linear.reset_parameters`: kaiming_uniform(a=sqrt(5)), that is uniform within
            1/sqrt(fan_in), for the kernel, the same bound for the bias) or one of `KERNELS` with biases of zero, such
            as "flax" (LeCun normal) and "keras" (Glorot uniform).
        fan_in: PyTorch's fan-in: inputs times kernel area (for a transposed convolution: outputs times kernel area).

    Raises:
        UserError: If `init` is none of these.
    """
    check_choice("init", init, ("torch", *KERNELS))
    if init == "torch":
        return {"kernel_init": uniform(_torch_kernel(fan_in)), "bias_init": uniform(_torch_kernel(fan_in))}
    return {"kernel_init": KERNELS[init](), "bias_init": zeros}
