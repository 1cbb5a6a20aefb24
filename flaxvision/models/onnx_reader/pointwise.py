"""How ONNX's activations and arithmetic are read."""

from __future__ import annotations

import functools
import math

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from flaxvision.layers import Affine, Conv, ConvTranspose, Dropout, GroupNorm, LayerNorm, Linear
from flaxvision.layers.kinds import build, describe
from flaxvision.models.onnx_reader.table import At, Handler, Known, reads
from flaxvision.models.reading import arithmetic
from flaxvision.models.reading.arithmetic import SELU_ALPHA, SELU_GAMMA
from flaxvision.models.reading.graph import Held

PLAIN = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "HardSwish": "hardswish",
    "Mish": "mish",
}
FAR = 3e38  # numbers beyond it mean that there is no end
SIGNS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}


def _plain(name: str) -> Handler:
    return lambda at: arithmetic.activation(at.reader, at.call, at.held(), name)


for operator, ours in PLAIN.items():
    reads(operator)(_plain(ours))


@reads("LeakyRelu")
def _leaky_relu(at: At) -> Held:
    return arithmetic.activation(at.reader, at.call, at.held(), "leaky_relu", at.node.number("alpha", 0.01))


@reads("Elu")
def _elu(at: At) -> Held:
    return arithmetic.activation(at.reader, at.call, at.held(), "elu", at.node.number("alpha", 1.0))


@reads("Selu")
def _selu(at: At) -> Held:
    numbers = (at.node.number(n, default) for n, default in (("alpha", SELU_ALPHA), ("gamma", SELU_GAMMA)))
    return arithmetic.selu(at.reader, at.call, at.held(), *numbers)


@reads("Celu")
def _celu(at: At) -> Held:
    return arithmetic.celu(at.reader, at.call, at.held(), at.node.number("alpha", 1.0))


@reads("Gelu")
def _gelu(at: At) -> Held:
    name = "gelu_tanh" if at.node.text("approximate", "none") == "tanh" else "gelu"
    return arithmetic.activation(at.reader, at.call, at.held(), name)


@reads("Swish")
def _swish(at: At) -> Held:
    alpha = at.node.number("alpha", 1.0)
    held = at.held() if alpha == 1 else at.reader.elementwise(at.call, Affine(alpha), at.held())
    held = arithmetic.activation(at.reader, at.call, held, "silu")
    return held if alpha == 1 else at.reader.elementwise(at.call, Affine(1 / alpha), held)


@reads("HardSigmoid")
def _hard_sigmoid(at: At) -> Held:
    alpha, beta = at.node.number("alpha", 0.2), at.node.number("beta", 0.5)
    return arithmetic.hard_sigmoid(at.reader, at.call, at.held(), alpha, beta)


@reads("Clip")
def _clip(at: At) -> Held:
    low, high = (_end(at, name, position) for position, name in ((1, "min"), (2, "max")))
    return arithmetic.clipped(at.reader, at.call, at.held(), low, high)


def _end(at: At, name: str, position: int) -> float | None:
    """An end of an interval, an attribute before operator set 11; None for none."""
    if not at.node.has(position) and name not in at.node.attributes:
        return None
    end = float(at.constant(position).item()) if at.node.has(position) else at.node.number(name, 0.0)
    return None if abs(end) >= FAR else end


@reads("Max", "Min")
def _extreme(at: At) -> Held:
    held = next(each for each in at.inputs if isinstance(each, Held))
    others = [each for each in at.inputs if each is not held]
    if len(others) != 1 or not isinstance(others[0], np.ndarray) or others[0].size != 1:
        at.call.refuse(f"{at.call.words} of several values", "Relu, Clip or a MaxPool would do")
    end = others[0].item()
    return arithmetic.clipped(at.reader, at.call, held, *((end, None) if at.node.op == "Max" else (None, end)))


@reads("Softmax", "LogSoftmax")
def _softmax(at: At) -> Held:
    held = at.held()
    axis = at.axis(at.node.whole("axis", 1 if at.opset < 13 else -1))
    many = at.opset < 13 and math.prod(held.shape) != held.shape[axis]  # it was over all axes from there on
    if many and axis != len(held.shape) - 1:
        at.call.refuse(f"{at.call.words} over several axes", "one over the last axis would do")
    name = "softmax" if at.node.op == "Softmax" else "log_softmax"
    return arithmetic.over_axis(at.reader, at.call, held, name, axis)


@reads("Dropout")
def _dropout(at: At) -> Held:
    rate = at.constant(1).item() if at.node.has(1) else at.node.number("ratio", 0.5)
    if not 0 < rate < 1:
        return at.held()
    held = at.reader.elementwise(at.call, Dropout(float(rate)), at.held())
    at.reader.say("its dropout acts in training again")
    return held


@reads("Identity")
def _identity(at: At) -> Held:
    return at.held()


@reads("Cast")
def _cast(at: At) -> Held:
    to = at.node.whole("to", 1)
    if to not in (1, 10, 11, 16):  # float32, float16, float64, bfloat16
        at.call.refuse(f"{at.call.words} to whole numbers", "keep floating-point numbers")
    at.reader.computes_in(tensor_dtype_to_np_dtype(to).name)
    return at.held()


# Arithmetic.


def _arithmetic(sign: str) -> Handler:
    def read(at: At) -> Held:
        a, b = (_known(at, position) for position in (0, 1))
        absorbed = _absorbed(at, sign, a, b)
        return arithmetic.of_two(at.reader, at.call, sign, a, b, learns=True) if absorbed is None else absorbed

    return read


for operator, symbol in SIGNS.items():
    reads(operator)(_arithmetic(symbol))


def _known(at: At, position: int) -> Known:
    value = at.inputs[position]
    if value is None:
        at.call.refuse(f"{at.call.words} without input {position + 1}", "export the model again")
    return value


def _absorbed(at: At, sign: str, a: Known, b: Known) -> Held | None:
    """A sum or product of a layer's value and a number for each channel as that layer's own; None where it cannot be.

    So a MatMul and an Add are one Linear again, and a normalization has its scale and bias.
    """
    held, numbers = (a, b) if isinstance(a, Held) else (b, a)
    if sign not in "+*" or not at.alone or not isinstance(held, Held) or not isinstance(numbers, np.ndarray):
        return None
    node = next((each for each in reversed(at.reader.nodes) if each.name == held.value.name), None)
    if node is None or sum(each.layer == node.layer for each in at.reader.nodes) > 1:
        return None
    layer, features = at.reader.layers[node.layer], held.value.shape[-1]
    shape = (1,) * (len(held.shape) + 1 - numbers.ndim) + numbers.shape
    axis = next((n for n, each in enumerate(held.layout.axes, 1) if each and each == held.layout.base[0]), 0)
    along = axis and len(shape) == len(held.shape) + 1 and shape[axis] == numbers.size == features
    if not along and not features == numbers.size == 1:
        return None
    each, own = numbers.ravel(), at.reader.numbers
    each = each.astype(np.float64 if each.dtype == np.float64 else np.float32)
    norm = isinstance(layer, (LayerNorm, GroupNorm))
    biased = sign == "+" and isinstance(layer, (Linear, Conv, ConvTranspose)) and layer.bias is None
    if not norm and not biased:
        return None
    if at.reader.changed(node, (sign, each.tobytes())):
        return held
    if biased:
        at.reader.layers[node.layer] = build({**describe(node.layer, layer), "use_bias": True})[1]
        own[f"{node.layer}.bias"] = each
    elif sign == "+":
        own[f"{node.layer}.bias"] = own[f"{node.layer}.bias"] + each
    else:
        own[f"{node.layer}.scale"], own[f"{node.layer}.bias"] = (
            own[f"{node.layer}.{part}"] * each for part in ("scale", "bias")
        )
    return held


@reads("Sum")
def _sum(at: At) -> Held:
    values = sorted((_known(at, n) for n in range(len(at.inputs))), key=lambda each: isinstance(each, np.ndarray))
    total = functools.reduce(lambda a, b: arithmetic.of_two(at.reader, at.call, "+", a, b, learns=True), values)
    assert isinstance(total, Held)
    return total


@reads("Neg")
def _neg(at: At) -> Held:
    return arithmetic.affine(at.reader, at.call, at.held(), np.asarray(-1.0), np.asarray(0.0))


@reads("Pow")
def _pow(at: At) -> Held:
    exponent = at.constant(1)
    if exponent.size != 1:
        at.call.refuse(f"{at.call.words} to several powers", "a square would do")
    return arithmetic.power(at.reader, at.call, at.held(), float(exponent.item()))
