"""How our variables and PyTorch's tensors correspond: names and layouts, both ways."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import (
    AvgPool,
    BatchNorm,
    Chain,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    PolarTransform,
)
from flaxvision.models.files import variables

Array = np.ndarray
Map = Callable[[Array], Array]
MAPS = (nnx.Conv, nnx.ConvTranspose, MaxPool, AvgPool, GlobalMaxPool, GlobalAvgPool)  # what takes maps (H, W, C) only


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a PyTorch `state_dict` and the variable of ours that holds the same numbers."""

    name: str  # in the state_dict: "fc.weight"
    variable: str  # ours: "fc.kernel"
    to_torch: Map  # our layout to PyTorch's
    from_torch: Map  # and back


def correspondence(model: Chain) -> list[Tensor]:
    """Every tensor of the model's PyTorch `state_dict`, in the order of the chain.

    Convolution kernels go from HWIO to OIHW, transposed ones to IOHW, linear kernels are transposed. PyTorch flattens
    (C, H, W), we flatten (H, W, C): what follows a Flatten, up to the next linear layer, has its features permuted, so
    that neither side needs a transposition.
    """
    return _walk(model)[0]


def _walk(model: Chain) -> tuple[list[Tensor], Array | None]:
    """The tensors, and the permutation of the features that leave the chain."""
    tensors: list[Tensor] = []
    order: Array | None = None  # PyTorch's flattened features, as positions in ours; None: the same order
    for name, layer, shape in layers_with_shapes(model):
        if isinstance(layer, Flatten) and len(shape) == 3:
            positions = np.arange(math.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()
            order = positions if min(math.prod(shape[:2]), shape[2]) > 1 else None
        tensors += _of_layer(name, layer, order)
        if isinstance(layer, nnx.Linear):
            order = None
    return tensors, order


def layers_with_shapes(model: Chain) -> Iterator[tuple[str, nnx.Module, tuple[int, ...]]]:
    """Every layer in order: its name, itself, and the shape of its input for one example."""
    shape, dtype = model.input_shape, model.dtype
    for name, layer in model.named_layers():
        yield name, layer, shape
        shape = tuple(jax.eval_shape(layer, jax.ShapeDtypeStruct((1, *shape), dtype)).shape[1:])


def final_order(model: Chain) -> Array | None:
    """How the output features are permuted against PyTorch's where a chain ends on a Flatten; None: not at all."""
    return _walk(model)[1]


def state_dict(model: Chain) -> dict[str, Array]:
    """The model's tensors by PyTorch's names and in PyTorch's layout."""
    ours = variables(model)
    return {t.name: np.array(t.to_torch(ours[t.variable]), order="C") for t in correspondence(model)}


def _of_layer(name: str, layer: nnx.Module, order: Array | None) -> list[Tensor]:
    def same(theirs: str, variable: str) -> Tensor:
        return Tensor(f"{name}.{theirs}", f"{name}.{variable}", lambda x: x, lambda x: x)

    def axes(forward: tuple[int, ...]) -> Tensor:
        back = tuple(int(i) for i in np.argsort(forward))
        return Tensor(f"{name}.weight", f"{name}.kernel", lambda x: x.transpose(forward), lambda x: x.transpose(back))

    if isinstance(layer, nnx.Linear):
        weight = axes((1, 0)) if order is None else _permuted_linear(name, order)
    elif isinstance(layer, nnx.Conv):
        weight = axes((3, 2, 0, 1))
    elif isinstance(layer, nnx.ConvTranspose):
        if layer.transpose_kernel:  # kernel (H, W, out, in), not flipped: as in PyTorch
            weight = axes((3, 2, 0, 1))
        else:  # kernel (H, W, in, out) of the flipped correlation
            weight = Tensor(
                f"{name}.weight",
                f"{name}.kernel",
                lambda x: x[::-1, ::-1].transpose(2, 3, 0, 1),
                lambda x: x.transpose(2, 3, 0, 1)[::-1, ::-1],
            )
    elif isinstance(layer, BatchNorm):
        pairs = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))
        if order is None:
            return [same(theirs, variable) for theirs, variable in pairs]
        back = np.argsort(order)
        return [
            Tensor(f"{name}.{theirs}", f"{name}.{variable}", lambda x: x[order], lambda x: x[back])
            for theirs, variable in pairs
        ]
    else:
        return []
    return [weight, same("bias", "bias")] if layer.use_bias else [weight]


def _permuted_linear(name: str, order: Array) -> Tensor:
    back = np.argsort(order)
    return Tensor(f"{name}.weight", f"{name}.kernel", lambda x: x[order].T, lambda x: x.T[back])


def check_plain(name: str, position: int, layer: nnx.Module, shape: tuple[int, ...]) -> None:
    """Raise for what no exporter has: dilation, groups, masks, odd padding, and maps where others count channels first.

    `shape` is that of the layer's input for one example.
    """
    for setting in ("kernel_dilation", "input_dilation", "feature_group_count", "mask"):
        value = getattr(layer, setting, None)
        if value is not None and (setting == "mask" or np.any(np.asarray(value) != 1)):
            raise UserError(f"layer {position} {name!r} sets {setting}: it cannot be exported")
    if isinstance(layer, nnx.Linear) and len(shape) > 1:
        raise UserError(
            f"layer {position} {name!r} is a Linear on maps of shape {shape}: it cannot be exported; "
            "put a Flatten before it"
        )
    if isinstance(layer, PolarTransform) and shape != (2,):
        raise UserError(
            f"layer {position} {name!r} is a PolarTransform on examples of shape {shape}: "
            "it can be exported for points of shape (2,) only"
        )
    if isinstance(layer, MAPS) and len(shape) != 3:
        raise UserError(
            f"layer {position} {name!r} is a {type(layer).__name__} on examples of shape {shape}: "
            "it can be exported for maps (H, W, C) only"
        )
    if not isinstance(layer, nnx.Conv | nnx.ConvTranspose):
        return
    if isinstance(layer.padding, str) and layer.padding not in ("SAME", "VALID"):
        raise UserError(f"layer {position} {name!r} has padding={layer.padding!r}: allowed are SAME, VALID, pixels")
    if len(layer.kernel_size) != 2:
        raise UserError(f"layer {position} {name!r} is no 2-D convolution: it cannot be exported")
    if isinstance(layer.padding, str):
        return
    sides = [layer.padding] * 2 if isinstance(layer.padding, int) else layer.padding
    if isinstance(layer, nnx.Conv) and any(np.min(side) < 0 for side in sides):
        raise UserError(f"layer {position} {name!r} has padding={layer.padding}, less than 0: it cannot be exported")
    if isinstance(layer, nnx.ConvTranspose) and any(
        np.max(side) >= size for side, size in zip(sides, layer.kernel_size, strict=True)
    ):
        raise UserError(
            f"layer {position} {name!r} has padding={layer.padding}, more than its kernel reaches: "
            "it cannot be exported"
        )


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
