"""Activations by name, and PReLU, which learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.errors import UserError, check_choice
from flaxvision.layers.kinds import (
    MapsLayer,
    Shape,
    Tensor,
    light,
    no_tensors,
    on_maps,
    one_or_each,
    register,
    same_shape,
)
from flaxvision.ops.arrays import filled
from flaxvision.ops.maps import Maps

__all__ = ["ACTIVATIONS", "Activation", "PReLU"]


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """One activation: its values, and its number, if it has one."""

    values: Callable[..., jax.Array]  # of x, of (x, number), or of (x, axis of the features)
    number: str = ""  # what PyTorch calls its number: "negative_slope" or "alpha"
    default: float | None = None
    over_features: bool = False  # whether a value depends on the others of its example


ACTIVATIONS: dict[str, Function] = {
    "relu": Function(nnx.relu),
    "sigmoid": Function(nnx.sigmoid),
    "tanh": Function(jnp.tanh),
    "identity": Function(lambda x: x),
    "leaky_relu": Function(lambda x, slope: nnx.leaky_relu(x, slope), "negative_slope", 0.01),
    "elu": Function(lambda x, alpha: nnx.elu(x, alpha), "alpha", 1.0),
    "gelu": Function(lambda x: nnx.gelu(x, approximate=False)),  # exact, as PyTorch's default
    "gelu_tanh": Function(lambda x: nnx.gelu(x, approximate=True)),
    "silu": Function(nnx.silu),
    "softplus": Function(nnx.softplus),
    "relu6": Function(jax.nn.relu6),
    "hardswish": Function(jax.nn.hard_swish),
    "hardsigmoid": Function(jax.nn.hard_sigmoid),
    "hardtanh": Function(jax.nn.hard_tanh),
    "mish": Function(jax.nn.mish),
    "softmax": Function(lambda x, axis: jax.nn.softmax(x, axis), over_features=True),
    "log_softmax": Function(lambda x, axis: jax.nn.log_softmax(x, axis), over_features=True),
}


class Activation(MapsLayer):
    """An activation by its name.

    Args:
        function: One of "relu", "sigmoid", "tanh", "identity", "leaky_relu", "elu", "gelu" (exact), "gelu_tanh",
            "silu", "softplus", "relu6", "hardswish", "hardsigmoid", "hardtanh", "mish", "softmax", "log_softmax"; the
            last two over the features, on the last axis.
        number: The slope of "leaky_relu" (0.01 by default) or the alpha of "elu" (1).

    Raises:
        UserError: For an unknown name, and for a number where the activation has none.

    >>> Activation("leaky_relu", 0.5)(jnp.array([[-2.0, 3.0]])).tolist()
    [[-1.0, 3.0]]
    """

    def __init__(self, function: str, number: float | None = None):
        check_choice("activation", function, ACTIVATIONS)
        known = ACTIVATIONS[function]
        if number is not None and not known.number:
            with_one = " and ".join(name for name, each in ACTIVATIONS.items() if each.number)
            raise UserError(f"number={number} has no effect with activation {function!r}: only {with_one} have one")
        self.function = function
        self.number = None if number in (None, known.default) else float(number)

    @property
    def argument(self) -> float | None:
        """The number that the activation is computed with; None for one without."""
        return ACTIVATIONS[self.function].default if self.number is None else self.number

    def on(self, maps: Maps) -> Maps:
        """Apply the activation to maps in any layout."""
        known = ACTIVATIONS[self.function]
        argument = maps.features if known.over_features else self.argument
        values = known.values(maps.array) if argument is None else known.values(maps.array, argument)
        return maps._replace(array=values)


class PReLU(MapsLayer):
    """x where it is positive, else a slope times x; the slopes learn.

    Args:
        num_parameters: 1 for one slope, or the number of channels for a slope each.
        init: The slope to start from.

    Reference: He et al., "Delving Deep into Rectifiers", ICCV 2015; PyTorch's PReLU.

    >>> PReLU(2)(jnp.array([[-4.0, 3.0]])).tolist()
    [[-1.0, 3.0]]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25):
        self.num_parameters = num_parameters
        self.slope = nnx.Param(filled(num_parameters, init))

    def on(self, maps: Maps) -> Maps:
        """Apply the function to maps in any layout."""
        x, slope = maps.array, self.slope[...].astype(maps.array.dtype)
        return maps._replace(array=jnp.where(x > 0, x, x * maps.along_features(slope)))


def _prelu_shape(layer: PReLU, shapes: Sequence[Shape]) -> Shape:
    return one_or_each(layer.num_parameters, "slopes", shapes[0])


register(light(Activation, ("function",), same_shape, on_maps, no_tensors))
register(light(PReLU, ("num_parameters",), _prelu_shape, on_maps, lambda layer: (Tensor("weight", "slope"),)))
