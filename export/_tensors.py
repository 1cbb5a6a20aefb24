"""How our variables and PyTorch's tensors correspond: names and layouts, both ways."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import Chain
from flaxvision.layers.kinds import Tensor, kind_of
from flaxvision.models.files import variables

Array = np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of a PyTorch `state_dict` and the variable of ours that holds the same numbers."""

    name: str  # in the state_dict: "fc.weight"
    variable: str  # ours: "fc.kernel"
    tensor: Tensor  # how the layouts correspond


def correspondence(model: Chain) -> list[Pair]:
    """Every tensor of the model's PyTorch `state_dict`, in the order of the layers."""
    return [
        Pair(f"{name}.{tensor.torch}", f"{name}.{tensor.ours}", tensor)
        for name, layer in model.named_layers()
        for tensor in kind_of(layer).tensors(layer)
        if getattr(layer, tensor.ours) is not None
    ]


def state_dict(model: Chain) -> dict[str, Array]:
    """The model's tensors by PyTorch's names and in PyTorch's layout."""
    ours = variables(model)
    return {pair.name: np.array(pair.tensor.to_torch(ours[pair.variable]), order="C") for pair in correspondence(model)}


def with_input_shape(model: Chain, shape: tuple[int, ...]) -> Chain:
    """The same network for examples of another shape.

    Raises:
        UserError: If its layers do not fit that shape.
    """
    other = nnx.clone(model)
    try:
        other.input_shape = tuple(shape)
        _ = other.output_shape
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{model.kind} does not fit input_shape={shape}: it was made for {model.input_shape}"
        ) from error
    return other
