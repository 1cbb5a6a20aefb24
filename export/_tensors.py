"""The same network for examples of another shape."""

from __future__ import annotations

from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import Chain


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
