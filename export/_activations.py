"""The rows of activations and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from export._place import Place
from export._rows import (
    Emit,
    InKeras,
    Row,
    any_place,
    keras_layer,
    no_node,
    node,
    number_of,
    on_maps,
    own_torch_layer,
    register,
    torch_layer,
)
from flaxvision.layers import ACTIVATIONS, Activation, Dropout, DropPath, SpatialDropout

if TYPE_CHECKING:
    from export._onnx import Graph

SIXTH: dict[str, Any] = {"alpha": 1 / 6, "beta": 0.5}  # of a HardSigmoid, as PyTorch and JAX have it


def _gelu(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    (x,) = inputs
    if place.opset >= 20:
        return graph.add("Gelu", [x], place.name, approximate="none")
    scaled = graph.add("Div", [x, number_of(graph, place, "sqrt2", math.sqrt(2))])  # x / 2 * (1 + erf(x / sqrt 2))
    factor = graph.add("Add", [graph.add("Erf", [scaled]), number_of(graph, place, "one", 1)])
    half = graph.add("Mul", [x, number_of(graph, place, "half", 0.5)])
    return graph.add("Mul", [half, factor], place.name)


def _gelu_tanh(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    (x,) = inputs
    if place.opset >= 20:
        return graph.add("Gelu", [x], place.name, approximate="tanh")
    cube = graph.add("Mul", [graph.add("Mul", [x, x]), x])  # x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
    inner = graph.add("Add", [x, graph.add("Mul", [cube, number_of(graph, place, "cubic", 0.044715)])])
    tanh = graph.add("Tanh", [graph.add("Mul", [inner, number_of(graph, place, "scale", math.sqrt(2 / math.pi))])])
    half = graph.add("Mul", [x, number_of(graph, place, "half", 0.5)])
    return graph.add("Mul", [half, graph.add("Add", [tanh, number_of(graph, place, "one", 1)])], place.name)


def _clip(low: float, high: float) -> Emit:
    def emit(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
        ends = [number_of(graph, place, name, value) for name, value in (("low", low), ("high", high))]
        return graph.add("Clip", [*inputs, *ends], place.name)

    return emit


def _gated(*ops: str, **attributes: Any) -> Emit:
    """x times what the operators make of it, one after the other."""

    def emit(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
        gate = inputs[0]
        for op in ops:
            gate = graph.add(op, [gate], **attributes)
        return graph.add("Mul", [*inputs, gate], place.name)

    return emit


def _hardswish(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    emit = node("HardSwish") if place.opset >= 14 else _gated("HardSigmoid", **SIXTH)
    return emit(graph, place, inputs)


def _keras(name: str) -> InKeras:
    return keras_layer("Activation", lambda place: {"activation": name})


def _keras_gelu_tanh(place: Place, inputs: Sequence[Any]) -> Any:
    from keras import ops

    return ops.gelu(inputs[0], approximate=True)


def _row(onnx: Emit, torch: str, keras: str) -> Row:
    """The row of an activation that is one layer in PyTorch and one function in Keras."""
    return Row(onnx, torch_layer(torch), _keras(keras), any_place)


def _of_features(name: str, keras: str) -> Row:
    """The row of an activation over the features."""
    onnx = node(name, lambda place: {"axis": place.channels})
    return Row(onnx, torch_layer(name, lambda place: (place.channels,)), _keras(keras), any_place)


def _of_number(onnx: str, torch: str, setting: str) -> Row:
    """The row of an activation that has a number, which is `setting` in Keras."""
    return Row(
        node(onnx, lambda place: {"alpha": place.layer.argument}),
        torch_layer(torch, lambda place: (place.layer.argument,)),
        keras_layer(torch, lambda place: {setting: place.layer.argument}),
        any_place,
    )


FUNCTIONS: dict[str, Row] = {
    "relu": _row(node("Relu"), "ReLU", "relu"),
    "sigmoid": _row(node("Sigmoid"), "Sigmoid", "sigmoid"),
    "tanh": _row(node("Tanh"), "Tanh", "tanh"),
    "identity": _row(no_node, "Identity", "linear"),
    "leaky_relu": _of_number("LeakyRelu", "LeakyReLU", "negative_slope"),
    "elu": _of_number("Elu", "ELU", "alpha"),
    "gelu": _row(_gelu, "GELU", "gelu"),
    "gelu_tanh": Row(_gelu_tanh, torch_layer("GELU", lambda place: ("tanh",)), _keras_gelu_tanh, any_place),
    "silu": _row(_gated("Sigmoid"), "SiLU", "silu"),
    "softplus": _row(node("Softplus"), "Softplus", "softplus"),
    "relu6": _row(_clip(0, 6), "ReLU6", "relu6"),
    "hardswish": _row(_hardswish, "Hardswish", "hard_swish"),
    "hardsigmoid": _row(node("HardSigmoid", lambda place: SIXTH), "Hardsigmoid", "hard_sigmoid"),
    "hardtanh": _row(_clip(-1, 1), "Hardtanh", "hard_tanh"),
    "mish": _row(_gated("Softplus", "Tanh"), "Mish", "mish"),
    "softmax": _of_features("Softmax", "softmax"),
    "log_softmax": _of_features("LogSoftmax", "log_softmax"),
}
if set(FUNCTIONS) != set(ACTIVATIONS):
    raise ImportError(f"export and flaxvision differ in activations: {set(FUNCTIONS) ^ set(ACTIVATIONS)}")


def _rate(place: Place) -> float:
    return float(place.layer.rate[...])


def _dropout(torch: str, keras: str, check: Callable[[Place], None]) -> Row:
    in_keras = keras_layer(keras, lambda place: {"rate": _rate(place)})
    return Row(no_node, torch_layer(torch, lambda place: (_rate(place),)), in_keras, check)


register(
    Activation,
    Row(
        lambda graph, place, inputs: FUNCTIONS[place.layer.function].onnx(graph, place, inputs),
        lambda place: FUNCTIONS[place.layer.function].torch(place),
        lambda place, inputs: FUNCTIONS[place.layer.function].keras(place, inputs),
        any_place,
    ),
)
register(Dropout, _dropout("Dropout", "Dropout", any_place))
register(
    DropPath,
    Row(
        no_node,
        own_torch_layer("DropPath"),
        keras_layer("Dropout", lambda place: {"rate": _rate(place), "noise_shape": (None, *(1 for _ in place.shape))}),
        any_place,
    ),
)
register(SpatialDropout, _dropout("Dropout2d", "SpatialDropout2D", on_maps))
