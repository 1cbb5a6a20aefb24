"""The one table of layers: for each kind its ONNX nodes, its PyTorch layer and its Keras layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from export._place import Place, keras_crop, keras_names, pair, transpose_cuts
from export._tensors import check_plain, layers_with_shapes
from flaxvision.errors import UserError
from flaxvision.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    PolarTransform,
)
from flaxvision.layers.kinds import outside

if TYPE_CHECKING:
    from export._onnx import Graph


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One kind of layer in the three worlds; the builders get a `Place`."""

    onnx: Callable[[Graph, Place], None]
    torch: Callable[[Place], Any]  # a torch.nn.Module, its weights as they come
    keras: Callable[[Place, Any], Any]  # applied to a Keras tensor, channels last


TYPES = ("float32", "float64", "float16")  # of the numbers that can be exported
NORM = ("weight", "bias", "running_mean", "running_var")  # a BatchNorm's tensors in ONNX's order

# ONNX nodes.


def _weighted(op: str, attributes: Callable[[Place], dict[str, Any]], *order: str) -> Callable[[Graph, Place], None]:
    """A node that takes the layer's tensors after its input, in `order`, where there are such."""

    def emit(graph: Graph, place: Place) -> None:
        names = [f"{place.name}.{part}" for part in order if f"{place.name}.{part}" in place.tensors]
        graph.initializers |= {name: place.tensors[name] for name in names}
        graph.add(op, [graph.value, *names], place.name, **attributes(place))

    return emit


def _node(op: str, attributes: Callable[[Place], dict[str, Any]] = lambda place: {}) -> Callable[[Graph, Place], None]:
    return lambda graph, place: _discard(graph.add(op, output=place.name, **attributes(place)))


def _discard(_: object) -> None:
    return None


def _nothing(graph: Graph, place: Place) -> None:
    """Dropout and the identity leave no node."""


def _window(place: Place) -> dict[str, Any]:
    layer = place.layer
    return {"kernel_shape": list(layer.window), "strides": list(layer.strides), "pads": _onnx_pads(place.pads)}


def _conv(place: Place) -> dict[str, Any]:
    layer = place.layer
    return {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(pair(layer.strides)),
        "pads": _onnx_pads(place.pads),
    }


def _conv_transpose(place: Place) -> dict[str, Any]:
    cuts, spare = transpose_cuts(place)
    attributes = {**_conv(place), "pads": _onnx_pads(cuts)}
    return attributes | ({"output_padding": spare} if any(spare) else {})


def _onnx_pads(pads: list[tuple[int, int]]) -> list[int]:
    return [low for low, _ in pads] + [high for _, high in pads]


def _norm(graph: Graph, place: Place) -> None:
    """BatchNormalization wants channels on the second axis, where flat features and maps of an NCHW graph have them."""
    axes = len(place.shape) + 1
    emit = _weighted("BatchNormalization", lambda p: {"epsilon": p.layer.epsilon}, *NORM)
    if axes in (2, 4):
        return emit(graph, place)
    graph.add("Transpose", perm=[0, axes - 1, *range(1, axes - 1)])
    emit(graph, place)
    graph.add("Transpose", perm=[0, *range(2, axes), 1])


ONNX_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "softplus": ("Softplus", {}),
}


def _activation(graph: Graph, place: Place) -> None:
    function, x = place.layer.function, graph.value
    if function in ONNX_ACTIVATIONS:
        op, attributes = ONNX_ACTIVATIONS[function]
        graph.add(op, output=place.name, **attributes)
    elif function == "silu":
        graph.add("Mul", [x, graph.add("Sigmoid")], place.name)
    elif function == "gelu" and place.opset >= 20:
        graph.add("Gelu", output=place.name, approximate="none")
    elif function == "gelu":  # x / 2 * (1 + erf(x / sqrt 2)), before the operator existed
        number = lambda name, value: graph.constant(f"{place.name}.{name}", np.asarray(value, place.dtype))  # noqa: E731
        scaled = graph.add("Div", [x, number("sqrt2", math.sqrt(2))])
        erf = graph.add("Erf", [scaled])
        factor = graph.add("Add", [erf, number("one", 1)])
        half = graph.add("Mul", [x, number("half", 0.5)])
        graph.add("Mul", [half, factor], place.name)


def _polar(graph: Graph, place: Place) -> None:
    """Radius and angle as `hypot` and `atan2` give them, at -0.0, at infinity and where squares overflow, too.

    ONNX has neither. With q = the smaller of |x|, |y| by the larger, r = larger * sqrt(1 + q^2), and the angle comes
    from atan(q) by the eighth of the plane.
    """

    def number(name: str, value: object, dtype: Any = place.dtype) -> str:
        return graph.constant(f"{place.name}.{name}", np.asarray(value, dtype))

    points = graph.value
    x, y = (graph.add("Gather", [points, number(n, [i], np.int64)], axis=1) for i, n in enumerate(("first", "second")))
    width, height = graph.add("Abs", [x]), graph.add("Abs", [y])
    larger, smaller = graph.add("Max", [width, height]), graph.add("Min", [width, height])
    zero, one = number("zero", 0), number("one", 1)
    finite = number("largest", np.finfo(place.dtype).max)  # infinity by infinity is no number
    divisor = graph.add("Where", [graph.add("Equal", [larger, zero]), one, graph.add("Min", [larger, finite])])
    ratio = graph.add("Div", [graph.add("Min", [smaller, finite]), divisor])
    root = graph.add("Sqrt", [graph.add("Add", [graph.add("Mul", [ratio, ratio]), one])])
    radius = graph.add("Mul", [larger, root])
    angle = graph.add("Atan", [ratio])
    steep = graph.add("Greater", [height, width])
    angle = graph.add("Where", [steep, graph.add("Sub", [number("quarter", math.pi / 2), angle]), angle])
    angle = graph.add(
        "Where", [_negative(graph, x, zero, one), graph.add("Sub", [number("pi", math.pi), angle]), angle]
    )
    sign = graph.add("Where", [_negative(graph, y, zero, one), number("minus", -1), one])
    phi = graph.add("Mul", [angle, sign])
    graph.add("Concat", [radius, phi], place.name, axis=1)


def _negative(graph: Graph, value: str, zero: str, one: str) -> str:
    """Whether a number has a minus, as -0.0 has: one by it is less than zero."""
    signed = graph.add("Where", [graph.add("Equal", [value, zero]), graph.add("Div", [one, value]), value])
    return graph.add("Less", [signed, zero])


# PyTorch layers.


def _torch(name: str, arguments: Callable[[Place], tuple]) -> Callable[[Place], Any]:
    """`torch.nn.NAME(*arguments)`."""

    def make(place: Place) -> Any:
        import torch

        return getattr(torch.nn, name)(*arguments(place))

    return make


def _ours(name: str) -> Callable[[Place], Any]:
    """A layer that PyTorch lacks."""

    def make(place: Place) -> Any:
        from export import _torch_layers

        return getattr(_torch_layers, name)(place)

    return make


def _torch_conv(place: Place) -> Any:
    layer, pads = place.layer, place.pads
    if any(low != high for low, high in pads):
        return _ours("PaddedConv2d")(place)
    arguments = (layer.in_features, layer.out_features, layer.kernel_size, pair(layer.strides))
    return _torch("Conv2d", lambda _: (*arguments, tuple(low for low, _ in pads), 1, 1, layer.use_bias))(place)


def _torch_norm(place: Place) -> Any:
    layer, axes = place.layer, len(place.shape)
    settings = (layer.num_features, layer.epsilon, 1 - layer.momentum)
    if axes not in (1, 3):
        from export._torch_layers import LastAxisBatchNorm

        return LastAxisBatchNorm(*settings)
    return _torch("BatchNorm2d" if axes == 3 else "BatchNorm1d", lambda _: settings)(place)


def _torch_pool(place: Place) -> Any:
    if place.layer.padding == "SAME":
        return _ours("PaddedMaxPool2d" if isinstance(place.layer, MaxPool) else "PaddedAvgPool2d")(place)
    name = "MaxPool2d" if isinstance(place.layer, MaxPool) else "AvgPool2d"
    return _torch(name, lambda place: (place.layer.window, place.layer.strides))(place)


TORCH_ACTIVATIONS = {
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "identity": "Identity",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "softplus": "Softplus",
}


def _torch_activation(place: Place) -> Any:
    return _torch(TORCH_ACTIVATIONS[place.layer.function], lambda _: ())(place)


# Keras layers.


def _keras(name: str, settings: Callable[[Place], dict[str, Any]] = lambda place: {}) -> Callable[[Place, Any], Any]:
    """`keras.layers.NAME(**settings)`."""

    def apply(place: Place, x: Any) -> Any:
        import keras

        return getattr(keras.layers, name)(**settings(place), name=place.keras_name)(x)

    return apply


def _keras_conv(place: Place, x: Any) -> Any:
    import keras

    layer = place.layer
    padding = layer.padding.lower() if isinstance(layer.padding, str) else "valid"
    if not isinstance(layer.padding, str) and any(map(any, place.pads)):
        x = keras.layers.ZeroPadding2D(tuple(place.pads), name=f"{place.keras_name}_padding")(x)
    return _keras(
        "Conv2D",
        lambda _: {
            "filters": layer.out_features,
            "kernel_size": layer.kernel_size,
            "strides": pair(layer.strides),
            "padding": padding,
            "use_bias": layer.use_bias,
        },
    )(place, x)


def _keras_conv_transpose(place: Place, x: Any) -> Any:
    import keras

    layer = place.layer
    x = _keras(
        "Conv2DTranspose",
        lambda _: {
            "filters": layer.out_features,
            "kernel_size": layer.kernel_size,
            "strides": pair(layer.strides),
            "use_bias": layer.use_bias,
        },
    )(place, x)
    crop = keras_crop(place)
    return keras.layers.Cropping2D(crop, name=f"{place.keras_name}_crop")(x) if any(map(any, crop)) else x


def _keras_activation(place: Place, x: Any) -> Any:
    if place.layer.function == "leaky_relu":
        return _keras("LeakyReLU", lambda _: {"negative_slope": 0.01})(place, x)
    function = "linear" if place.layer.function == "identity" else place.layer.function
    return _keras("Activation", lambda _: {"activation": function})(place, x)


def _keras_polar(place: Place, x: Any) -> Any:
    from keras import ops

    first, second = x[:, 0:1], x[:, 1:2]
    width, height = ops.absolute(first), ops.absolute(second)
    larger, smaller = ops.maximum(width, height), ops.minimum(width, height)
    limits = np.finfo(place.dtype)  # squares would overflow; and neither 0 by 0 nor infinity by infinity is a number
    ratio = ops.minimum(smaller, float(limits.max)) / ops.clip(larger, float(limits.tiny), float(limits.max))
    return ops.concatenate([larger * ops.sqrt(1 + ratio * ratio), ops.arctan2(second, first)], axis=1)


def _keras_window(place: Place) -> dict[str, Any]:
    layer = place.layer
    return {"pool_size": layer.window, "strides": layer.strides, "padding": layer.padding.lower()}


ROWS: dict[type[nnx.Module], Row] = {
    nnx.Linear: Row(
        _weighted("Gemm", lambda place: {"transB": 1}, "weight", "bias"),
        _torch("Linear", lambda p: (p.layer.in_features, p.layer.out_features, p.layer.use_bias)),
        _keras("Dense", lambda p: {"units": p.layer.out_features, "use_bias": p.layer.use_bias}),
    ),
    nnx.Conv: Row(_weighted("Conv", _conv, "weight", "bias"), _torch_conv, _keras_conv),
    nnx.ConvTranspose: Row(
        _weighted("ConvTranspose", _conv_transpose, "weight", "bias"),
        _ours("ConvTranspose2d"),
        _keras_conv_transpose,
    ),
    BatchNorm: Row(
        _norm,
        _torch_norm,
        _keras("BatchNormalization", lambda p: {"momentum": p.layer.momentum, "epsilon": p.layer.epsilon}),
    ),
    Dropout: Row(
        _nothing,
        _torch("Dropout", lambda p: (float(p.layer.rate[...]),)),
        _keras("Dropout", lambda p: {"rate": float(p.layer.rate[...])}),
    ),
    Activation: Row(_activation, _torch_activation, _keras_activation),
    Flatten: Row(_node("Flatten", lambda p: {"axis": 1}), _torch("Flatten", lambda p: ()), _keras("Flatten")),
    MaxPool: Row(_node("MaxPool", _window), _torch_pool, _keras("MaxPooling2D", _keras_window)),
    AvgPool: Row(_node("AveragePool", _window), _torch_pool, _keras("AveragePooling2D", _keras_window)),
    GlobalMaxPool: Row(
        _node("GlobalMaxPool"),
        _torch("AdaptiveMaxPool2d", lambda p: (1,)),
        _keras("GlobalMaxPooling2D", lambda p: {"keepdims": True}),
    ),
    GlobalAvgPool: Row(
        _node("GlobalAveragePool"),
        _torch("AdaptiveAvgPool2d", lambda p: (1,)),
        _keras("GlobalAveragePooling2D", lambda p: {"keepdims": True}),
    ),
    PolarTransform: Row(_polar, _ours("PolarTransform"), _keras_polar),
}


def row_of(position: int, name: str, layer: nnx.Module, kind: str) -> Row:
    """The row of a layer.

    Raises:
        UserError: For a layer outside the table, naming it, its place and the allowed kinds.
    """
    if type(layer) not in ROWS:
        raise UserError(f"layer {position} {name!r} of {kind} {outside(layer, ROWS, 'exported')}")
    return ROWS[type(layer)]


def check_layers(model: Chain) -> None:
    """Raise for what is no model, or the first layer that cannot be exported, before anything is done with any."""
    _check_numbers(model)
    for position, (name, layer, shape) in enumerate(layers_with_shapes(model)):
        row_of(position, name, layer, model.kind)
        check_plain(name, position, layer, shape)


def _check_numbers(model: Chain) -> None:
    """Raise unless it is a chain whose layers all hold numbers of one type that every exporter has."""
    if not isinstance(model, Chain):
        instead = "a model of fv.models.create or fv.load_model"
        if isinstance(model, (str, Path)):
            instead = f"fv.load_model({str(model)!r})"
        elif isinstance(getattr(model, "model", None), Chain):
            instead = "its .model"
        raise UserError(f"a {type(model).__name__} cannot be exported: give {instead}")
    first: dict[str, str] = {}  # type -> the first layer that has it
    for name, layer in model.named_layers():
        for leaf in jax.tree.leaves(nnx.state(layer, (nnx.Param, nnx.BatchStat))):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise UserError(f"layer {name!r} of {model.kind} holds no numbers: create it outside nnx.eval_shape")
            first.setdefault(str(leaf.dtype), name)
    strange = next((dtype for dtype in first if dtype not in TYPES), None)
    if strange:
        raise UserError(
            f"layer {first[strange]!r} of {model.kind} holds numbers of {strange}: {', '.join(TYPES)} can be exported; "
            "build it with param_dtype=jax.numpy.float32"
        )
    if len(first) > 1:
        held = " and ".join(f"{name!r} holds {dtype}" for dtype, name in first.items())
        raise UserError(f"layers of {model.kind} differ in type ({held}): give all of them one to export it")


def places(model: Chain, tensors: dict[str, np.ndarray], opset: int = 0) -> Iterator[tuple[Row, Place]]:
    """Every layer of a chain with its row, in order."""
    dtype, in_keras = model.dtype, keras_names(model.names)
    for position, (name, layer, shape) in enumerate(layers_with_shapes(model)):
        own = {key: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        yield row_of(position, name, layer, model.kind), Place(name, layer, shape, own, dtype, opset, in_keras[name])
