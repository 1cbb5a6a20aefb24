"""The default initialisations of Flax, PyTorch and Keras, for linear, convolution and transposed convolution layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.errors import check_choice

Initializer = Callable[..., jax.Array]
INITS = ("flax", "torch", "keras")


def uniform(bound: float) -> Initializer:
    """Uniform on [-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, **_: object) -> jax.Array:
        # Drawn flat: the numbers are the same, and XLA compiles it in a tenth of the time.
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


def kernel_and_bias(init: str, fan_in: int) -> dict[str, Any]:
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
        return {"kernel_init": uniform(1 / math.sqrt(fan_in)), "bias_init": uniform(1 / math.sqrt(fan_in))}
    kernel = nnx.initializers.lecun_normal() if init == "flax" else nnx.initializers.glorot_uniform()
    return {"kernel_init": kernel, "bias_init": nnx.initializers.zeros_init()}
