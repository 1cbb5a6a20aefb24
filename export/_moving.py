"""The rows of what moves values about, and of tensors that are no layer's in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export._place import Place
from export._rows import Row, in_keras, number_of, on_maps_and_vectors, register
from flaxvision.layers import Carried, Pad, Rearrange, Scale
from flaxvision.layers.kinds import MisfitError
from flaxvision.layers.moving import MODES

if TYPE_CHECKING:
    from export._onnx import Graph


def _torch(name: str) -> Callable[[Place], Any]:
    def make(place: Place) -> Any:
        from export import _torch_moving

        return getattr(_torch_moving, name)(place)

    return make


def _rearrange(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    layer = place.layer
    (value,) = inputs
    before = (place.shape[-1], *place.shape[:-1])
    if layer.split != before:
        value = graph.add("Reshape", [value, graph.integers(f"{place.name}.split", [0, *layer.split])])
    moved = tuple(layer.split[axis] for axis in layer.order)
    if layer.order != tuple(range(len(layer.order))):
        value = graph.add("Transpose", [value], perm=[0, *(axis + 1 for axis in layer.order)])
    if layer.shape != moved:
        value = graph.add("Reshape", [value, graph.integers(f"{place.name}.shape", [0, *layer.shape])])
    return value


def _keras_rearrange(place: Place, inputs: Sequence[Any]) -> Any:
    from keras import ops

    layer, (x,) = place.layer, inputs
    x = ops.transpose(x, (0, 3, 1, 2)) if len(place.shape) == 3 else x
    x = ops.reshape(x, (-1, *layer.split))
    x = ops.transpose(x, (0, *(axis + 1 for axis in layer.order)))
    x = ops.reshape(x, (-1, *layer.shape))
    return ops.transpose(x, (0, 2, 3, 1)) if len(layer.shape) == 3 else x


register(Rearrange, Row(_rearrange, _torch("Rearrange"), _keras_rearrange, on_maps_and_vectors))


def _pad(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    *sides, channels = place.layer.pads
    axes = ((0, 0), channels, *sides)
    counts = graph.integers(f"{place.name}.pads", [pads[end] for end in (0, 1) for pads in axes])
    if place.layer.mode != "constant":
        return graph.add("Pad", [*inputs, counts], place.name, mode=MODES[place.layer.mode])
    return graph.add("Pad", [*inputs, counts, number_of(graph, place, "value", place.layer.value)], place.name)


def _keras_pad(place: Place, inputs: Sequence[Any]) -> Any:
    from keras import ops

    (x,) = inputs
    if place.layer.mode != "constant":
        return ops.pad(x, [(0, 0), *place.layer.pads], mode=MODES[place.layer.mode])
    ends = zip(place.shape, place.layer.pads, strict=True)
    x = x[(slice(None), *(slice(max(0, -low), size - max(0, -high)) for size, (low, high) in ends))]
    around = [(0, 0), *((max(0, low), max(0, high)) for low, high in place.layer.pads)]
    return ops.pad(x, around, constant_values=place.layer.value) if any(map(any, around)) else x


register(Pad, Row(_pad, _torch("Pad"), _keras_pad, on_maps_and_vectors))


def _scale(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    along = (-1, 1, 1) if len(place.shape) == 3 else (-1,)
    numbers = graph.initializer(place.layer_name, place.tensors[""].reshape(along))
    return graph.add("Mul" if place.layer.operation == "multiply" else "Add", [*inputs, numbers], place.name)


def _keras_scale(place: Place, inputs: Sequence[Any]) -> Any:
    if place.layer.size != place.shape[-1]:
        raise MisfitError("has one number for all channels, for which Keras has no layer")
    axes = "hwc"[-len(place.shape) :]
    bias = {"bias_axes": "c"} if place.layer.operation == "add" else {}
    equation = f"b{axes},c->b{axes}"
    return in_keras(place, inputs, "EinsumDense", equation=equation, output_shape=place.shape, **bias)


def _keras_numbers(layer: Scale, ours: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    numbers = ours["weight"]
    return [numbers] if layer.operation == "multiply" else [np.ones_like(numbers), numbers]


register(Scale, Row(_scale, _torch("Scale"), _keras_scale, on_maps_and_vectors, _keras_numbers))


def _nowhere(*_: object) -> Any:
    raise MisfitError("is carried along and stands nowhere")


register(Carried, Row(_nowhere, _nowhere, _nowhere, _nowhere, lambda layer, ours: []))
