"""The rows of activations and dropout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from export._place import Place
from export._rows import Row, any_place, keras_layer, no_node, no_weights, number_of, on_maps, register, torch_layer
from flaxvision.layers import ACTIVATIONS, Activation, Dropout, SpatialDropout

if TYPE_CHECKING:
    from export._onnx import Graph


def _gelu(graph: Graph, place: Place, x: str) -> str:
    if place.opset >= 20:
        return graph.add("Gelu", [x], place.name, approximate="none")
    scaled = graph.add("Div", [x, number_of(graph, place, "sqrt2", math.sqrt(2))])  # x / 2 * (1 + erf(x / sqrt 2))
    factor = graph.add("Add", [graph.add("Erf", [scaled]), number_of(graph, place, "one", 1)])
    half = graph.add("Mul", [x, number_of(graph, place, "half", 0.5)])
    return graph.add("Mul", [half, factor], place.name)


def _gelu_tanh(graph: Graph, place: Place, x: str) -> str:
    if place.opset >= 20:
        return graph.add("Gelu", [x], place.name, approximate="tanh")
    cube = graph.add("Mul", [graph.add("Mul", [x, x]), x])  # x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
    inner = graph.add("Add", [x, graph.add("Mul", [cube, number_of(graph, place, "cubic", 0.044715)])])
    tanh = graph.add("Tanh", [graph.add("Mul", [inner, number_of(graph, place, "scale", math.sqrt(2 / math.pi))])])
    half = graph.add("Mul", [x, number_of(graph, place, "half", 0.5)])
    return graph.add("Mul", [half, graph.add("Add", [tanh, number_of(graph, place, "one", 1)])], place.name)


def _clip(low: float, high: float) -> Callable[[Graph, Place, str], str]:
    def emit(graph: Graph, place: Place, x: str) -> str:
        ends = [number_of(graph, place, name, value) for name, value in (("low", low), ("high", high))]
        return graph.add("Clip", [x, *ends], place.name)

    return emit


def _hardsigmoid(graph: Graph, place: Place, x: str) -> str:
    return graph.add("HardSigmoid", [x], place.name, alpha=1 / 6, beta=0.5)


def _hardswish(graph: Graph, place: Place, x: str) -> str:
    if place.opset >= 14:
        return graph.add("HardSwish", [x], place.name)
    return graph.add("Mul", [x, graph.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)], place.name)


def _mish(graph: Graph, place: Place, x: str) -> str:
    return graph.add("Mul", [x, graph.add("Tanh", [graph.add("Softplus", [x])])], place.name)


def _op(name: str, **attributes: Any) -> Callable[[Graph, Place, str], str]:
    return lambda graph, place, x: graph.add(name, [x], place.name, **attributes)


def _with_alpha(name: str) -> Callable[[Graph, Place, str], str]:
    return lambda graph, place, x: graph.add(name, [x], place.name, alpha=place.layer.argument)


def _over_features(name: str) -> Callable[[Graph, Place, str], str]:
    return lambda graph, place, x: graph.add(name, [x], place.name, axis=place.channels)


def _keras_function(name: str) -> Callable[[Place, Any], Any]:
    return lambda place, x: keras_layer("Activation", lambda _: {"activation": name})(place, [x])


def _keras_named(name: str, setting: str) -> Callable[[Place, Any], Any]:
    return lambda place, x: keras_layer(name, lambda _: {setting: place.layer.argument})(place, [x])


def _keras_gelu_tanh(place: Place, x: Any) -> Any:
    from keras import ops

    return ops.gelu(x, approximate=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """An activation in the three worlds."""

    onnx: Callable[[Graph, Place, str], str]
    torch: Callable[[Place], Any]
    keras: Callable[[Place, Any], Any]


def _softmax_axis(place: Place) -> tuple:
    return (place.channels,)


FUNCTIONS: dict[str, Function] = {
    "relu": Function(_op("Relu"), torch_layer("ReLU"), _keras_function("relu")),
    "sigmoid": Function(_op("Sigmoid"), torch_layer("Sigmoid"), _keras_function("sigmoid")),
    "tanh": Function(_op("Tanh"), torch_layer("Tanh"), _keras_function("tanh")),
    "identity": Function(lambda graph, place, x: x, torch_layer("Identity"), _keras_function("linear")),
    "leaky_relu": Function(
        _with_alpha("LeakyRelu"),
        torch_layer("LeakyReLU", lambda p: (p.layer.argument,)),
        _keras_named("LeakyReLU", "negative_slope"),
    ),
    "elu": Function(
        _with_alpha("Elu"), torch_layer("ELU", lambda p: (p.layer.argument,)), _keras_named("ELU", "alpha")
    ),
    "gelu": Function(_gelu, torch_layer("GELU"), _keras_function("gelu")),
    "gelu_tanh": Function(_gelu_tanh, torch_layer("GELU", lambda p: ("tanh",)), _keras_gelu_tanh),
    "silu": Function(
        lambda graph, place, x: graph.add("Mul", [x, graph.add("Sigmoid", [x])], place.name),
        torch_layer("SiLU"),
        _keras_function("silu"),
    ),
    "softplus": Function(_op("Softplus"), torch_layer("Softplus"), _keras_function("softplus")),
    "relu6": Function(_clip(0, 6), torch_layer("ReLU6"), _keras_function("relu6")),
    "hardswish": Function(_hardswish, torch_layer("Hardswish"), _keras_function("hard_swish")),
    "hardsigmoid": Function(_hardsigmoid, torch_layer("Hardsigmoid"), _keras_function("hard_sigmoid")),
    "hardtanh": Function(_clip(-1, 1), torch_layer("Hardtanh"), _keras_function("hard_tanh")),
    "mish": Function(_mish, torch_layer("Mish"), _keras_function("mish")),
    "softmax": Function(_over_features("Softmax"), torch_layer("Softmax", _softmax_axis), _keras_function("softmax")),
    "log_softmax": Function(
        _over_features("LogSoftmax"), torch_layer("LogSoftmax", _softmax_axis), _keras_function("log_softmax")
    ),
}
if set(FUNCTIONS) != set(ACTIVATIONS):
    raise ImportError(f"export and flaxvision differ in activations: {set(FUNCTIONS) ^ set(ACTIVATIONS)}")

register(
    Activation,
    Row(
        lambda graph, place, inputs: FUNCTIONS[place.layer.function].onnx(graph, place, inputs[0]),
        lambda place: FUNCTIONS[place.layer.function].torch(place),
        lambda place, inputs: FUNCTIONS[place.layer.function].keras(place, inputs[0]),
        no_weights,
        any_place,
    ),
)
register(
    Dropout,
    Row(
        no_node,
        torch_layer("Dropout", lambda p: (float(p.layer.rate[...]),)),
        keras_layer("Dropout", lambda p: {"rate": float(p.layer.rate[...])}),
        no_weights,
        any_place,
    ),
)
register(
    SpatialDropout,
    Row(
        no_node,
        torch_layer("Dropout2d", lambda p: (float(p.layer.rate[...]),)),
        keras_layer("SpatialDropout2D", lambda p: {"rate": float(p.layer.rate[...])}),
        no_weights,
        on_maps,
    ),
)
