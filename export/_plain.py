"""The rows of pools, arithmetic, and what only moves values: layers without weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export._place import Place
from export._rows import (
    Emit,
    InKeras,
    Row,
    any_place,
    in_keras,
    keras_layer,
    node,
    number_of,
    on_maps,
    own_torch_layer,
    register,
    torch_layer,
)
from export._weighted import onnx_window
from flaxvision import layers
from flaxvision.layers.kinds import MisfitError

if TYPE_CHECKING:
    from export._onnx import Graph

# Pools.


def _window(place: Place) -> dict[str, Any]:
    counts = {"count_include_pad": 1} if getattr(place.layer, "count_include_pad", False) else {}
    return onnx_window(place.layer.window, place.layer.strides, place.pads) | counts


def _torch_pool(place: Place) -> Any:
    from torch import nn

    from export._torch_layers import PaddedAvgPool2d, PaddedMaxPool2d

    layer, is_max = place.layer, isinstance(place.layer, layers.MaxPool)
    if any(low != high for low, high in place.pads):  # PyTorch's pad alike on both sides
        return PaddedMaxPool2d(place) if is_max else PaddedAvgPool2d(place)
    settings: dict[str, Any] = {"stride": layer.strides, "padding": tuple(low for low, _ in place.pads)}
    if is_max:
        return nn.MaxPool2d(layer.window, **settings)
    return nn.AvgPool2d(layer.window, **settings, count_include_pad=layer.count_include_pad)


def _keras_pool(name: str) -> InKeras:
    def apply(place: Place, inputs: Sequence[Any]) -> Any:
        from keras import ops

        layer, (x,) = place.layer, inputs
        counts = getattr(layer, "count_include_pad", False)
        named = isinstance(layer.padding, str) and not counts

        def pool(x: Any) -> Any:
            padding = layer.padding.lower() if named else "valid"
            return in_keras(place, [x], name, pool_size=layer.window, strides=layer.strides, padding=padding)

        if named or not any(map(any, place.pads)):
            return pool(x)
        pads = ((0, 0), *place.pads, (0, 0))
        if isinstance(layer, layers.MaxPool):
            return pool(ops.pad(x, pads, constant_values=-math.inf))
        sums = pool(ops.pad(x, pads))
        return sums if counts else ops.divide(sums, pool(ops.pad(ops.ones_like(x), pads)))

    return apply


def _global_pool(onnx: str, torch: str, keras: str) -> Row:
    torch_pool, keras_pool = (
        torch_layer(torch, lambda place: (1,)),
        keras_layer(keras, lambda place: {"keepdims": True}),
    )
    return Row(node(onnx), torch_pool, keras_pool, on_maps)


def _upsample(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    scales = number_of(graph, place, "scales", (1, 1, *place.layer.scale), np.float32)
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", [*inputs, "", scales], place.name, **settings)


def _resize(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    """By scales, as sizes would fix the batch; each the least float32 number that gives the size."""
    sides = zip(place.layer.size, place.shape[:2], strict=True)
    scales = number_of(graph, place, "scales", (1, 1, *(_scale_to(new, side) for new, side in sides)), np.float32)
    way = "align_corners" if place.layer.align_corners else "half_pixel"
    return graph.add("Resize", [*inputs, "", scales], place.name, mode="linear", coordinate_transformation_mode=way)


def _scale_to(new: int, side: int) -> np.float32:
    scale = np.float32(new / side)
    return scale if side * float(scale) >= new else np.nextafter(scale, np.float32(np.inf))


def _torch_resize(place: Place) -> Any:
    from torch import nn

    return nn.Upsample(size=place.layer.size, mode="bilinear", align_corners=place.layer.align_corners)


def _keras_resize(place: Place, inputs: Sequence[Any]) -> Any:
    from keras import ops

    if place.layer.align_corners:
        raise MisfitError("has align_corners, for which Keras has no layer")
    settings = {"interpolation": "bilinear", "antialias": False, "data_format": "channels_last"}
    return ops.image.resize(inputs[0], place.layer.size, **settings)


register(layers.Resize, Row(_resize, _torch_resize, _keras_resize, on_maps))
register(layers.MaxPool, Row(node("MaxPool", _window), _torch_pool, _keras_pool("MaxPooling2D"), on_maps))
register(layers.AvgPool, Row(node("AveragePool", _window), _torch_pool, _keras_pool("AveragePooling2D"), on_maps))
register(layers.GlobalMaxPool, _global_pool("GlobalMaxPool", "AdaptiveMaxPool2d", "GlobalMaxPooling2D"))
register(layers.GlobalAvgPool, _global_pool("GlobalAveragePool", "AdaptiveAvgPool2d", "GlobalAveragePooling2D"))
register(
    layers.Upsample,
    Row(
        _upsample,
        torch_layer("Upsample", lambda p: (None, tuple(map(float, p.layer.scale)))),
        keras_layer("UpSampling2D", lambda p: {"size": p.layer.scale}),
        on_maps,
    ),
)


# Several values, and constants.


def _fold(op: str) -> Emit:
    """A node of two inputs over several."""

    def emit(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
        value = inputs[0]
        for number, other in enumerate(inputs[1:], 2):
            value = graph.add(op, [value, other], place.name if number == len(inputs) else None)
        return value

    return emit


def _affine(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    numbers = {"scale": place.layer.scale, "shift": place.layer.shift}
    return graph.affine(inputs[0], place.name, numbers, place.along, place.dtype)


def _keras_affine(place: Place) -> dict[str, Any]:
    return {"scale": np.asarray(place.layer.scale).tolist(), "offset": np.asarray(place.layer.shift).tolist()}


def _keras_divide(place: Place, inputs: Sequence[Any]) -> Any:
    from keras import ops

    return ops.divide(*inputs)


_concat = node("Concat", lambda place: {"axis": place.channels})
register(layers.Add, Row(_fold("Add"), own_torch_layer("Add"), keras_layer("Add"), any_place))
register(layers.Subtract, Row(_fold("Sub"), own_torch_layer("Subtract"), keras_layer("Subtract"), any_place))
register(layers.Divide, Row(_fold("Div"), own_torch_layer("Divide"), _keras_divide, any_place))
register(layers.Multiply, Row(_fold("Mul"), own_torch_layer("Multiply"), keras_layer("Multiply"), any_place))
register(layers.Concat, Row(_concat, own_torch_layer("Concat"), keras_layer("Concatenate"), any_place))
register(layers.Affine, Row(_affine, own_torch_layer("Affine"), keras_layer("Rescaling", _keras_affine), any_place))


# What moves or re-expresses values.


def _reorders(place: Place) -> bool:
    """Whether a Flatten of channels first and one of channels last give different orders."""
    return len(place.shape) == 3 and place.shape[2] > 1 and math.prod(place.shape[:2]) > 1


def _flatten(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    value = inputs[0]
    if place.layer.channels_last and _reorders(place):
        value = graph.add("Transpose", [value], perm=[0, 2, 3, 1])
    return graph.add("Flatten", [value], place.name, axis=1)


def _torch_flatten(place: Place) -> Any:
    reorders = place.layer.channels_last and _reorders(place)
    return own_torch_layer("ChannelsLastFlatten")(place) if reorders else torch_layer("Flatten")(place)


def _keras_flatten(place: Place, inputs: Sequence[Any]) -> Any:
    import keras

    (x,) = inputs
    if not place.layer.channels_last and _reorders(place):
        x = keras.layers.Permute((3, 1, 2), name=f"{place.keras_name}_order")(x)
    return in_keras(place, [x], "Flatten")


register(layers.Flatten, Row(_flatten, _torch_flatten, _keras_flatten, any_place))


def _polar(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    """Radius and angle as `hypot` and `atan2` give them, at -0.0, at infinity and where squares overflow, too.

    ONNX has neither. With q = the smaller of |x|, |y| by the larger, r = larger * sqrt(1 + q^2), and the angle comes
    from atan(q) by the eighth of the plane.
    """

    def number(name: str, value: object, dtype: Any = None) -> str:
        return number_of(graph, place, name, value, dtype)

    (points,) = inputs
    x, y = (graph.add("Gather", [points, number(n, [i], np.int64)], axis=1) for i, n in enumerate(("first", "second")))
    width, height = graph.add("Abs", [x]), graph.add("Abs", [y])
    larger, smaller = graph.add("Max", [width, height]), graph.add("Min", [width, height])
    zero, one = number("zero", 0), number("one", 1)
    finite = number("largest", np.finfo(place.dtype).max)  # infinity by infinity is not a number
    divisor = graph.add("Where", [graph.add("Equal", [larger, zero]), one, graph.add("Min", [larger, finite])])
    ratio = graph.add("Div", [graph.add("Min", [smaller, finite]), divisor])
    root = graph.add("Sqrt", [graph.add("Add", [graph.add("Mul", [ratio, ratio]), one])])
    radius = graph.add("Mul", [larger, root])
    angle = graph.add("Atan", [ratio])
    steep = graph.add("Greater", [height, width])
    angle = graph.add("Where", [steep, graph.add("Sub", [number("quarter", math.pi / 2), angle]), angle])
    left = _negative(graph, x, zero, one)
    angle = graph.add("Where", [left, graph.add("Sub", [number("pi", math.pi), angle]), angle])
    sign = graph.add("Where", [_negative(graph, y, zero, one), number("minus", -1), one])
    return graph.add("Concat", [radius, graph.add("Mul", [angle, sign])], place.name, axis=1)


def _negative(graph: Graph, value: str, zero: str, one: str) -> str:
    """Whether a number has a minus, as -0.0 has: one by it is less than zero."""
    signed = graph.add("Where", [graph.add("Equal", [value, zero]), graph.add("Div", [one, value]), value])
    return graph.add("Less", [signed, zero])


def _keras_polar(place: Place, inputs: Sequence[Any]) -> Any:
    from keras import ops

    (x,) = inputs
    first, second = x[:, 0:1], x[:, 1:2]
    width, height = ops.absolute(first), ops.absolute(second)
    larger, smaller = ops.maximum(width, height), ops.minimum(width, height)
    limits = np.finfo(place.dtype)  # squares would overflow; and neither 0 by 0 nor infinity by infinity is a number
    ratio = ops.minimum(smaller, float(limits.max)) / ops.clip(larger, float(limits.tiny), float(limits.max))
    return ops.concatenate([larger * ops.sqrt(1 + ratio * ratio), ops.arctan2(second, first)], axis=1)


register(layers.PolarTransform, Row(_polar, own_torch_layer("PolarTransform"), _keras_polar, any_place))
