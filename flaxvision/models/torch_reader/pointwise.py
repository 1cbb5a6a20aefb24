"""How activations, dropout and arithmetic are read."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flaxvision.layers import Activation, Add, Affine, Divide, Dropout, Multiply, Scale, SpatialDropout, Subtract
from flaxvision.models.reading import arithmetic
from flaxvision.models.reading.arithmetic import axis_of
from flaxvision.models.reading.graph import Growth, Held
from flaxvision.models.torch_reader.calls import Call
from flaxvision.models.torch_reader.table import Handler, Loose, reads
from flaxvision.models.torch_reader.trace import facts

# Activations.

PLAIN: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {  # ours -> PyTorch's, and those that work in place
    "relu": ((F.relu, torch.relu, "relu"), (F.relu_, "relu_")),
    "tanh": ((F.tanh, torch.tanh, "tanh"), (torch.tanh_, "tanh_")),
    "sigmoid": ((torch.sigmoid, F.sigmoid, "sigmoid"), (torch.sigmoid_, "sigmoid_")),
    "relu6": ((F.relu6,), ()),
    "hardswish": ((F.hardswish,), ()),
    "hardsigmoid": ((F.hardsigmoid,), ()),
    "silu": ((F.silu,), ()),
    "mish": ((F.mish,), ()),
}
WITH_NUMBER = {"leaky_relu": (F.leaky_relu, "negative_slope", 0.01), "elu": (F.elu, "alpha", 1.0)}


def _plain(name: str, always: bool) -> Handler:
    def read(growth: Growth, call: Call, input: Held, inplace: bool = False) -> Held:
        return _in_place_if(always or inplace, growth, call, input, Activation(name))

    return read


def _numbered(name: str, argument: str, default: float) -> Handler:
    def read(growth: Growth, call: Call, input: Held, *number: float, inplace: bool = False, **named: float) -> Held:
        value = number[0] if number else named.get(argument, default)
        return _in_place_if(inplace, growth, call, input, Activation(name, value))

    return read


def _in_place_if(inplace: bool, growth: Growth, call: Call, held: Held, *layers: Any) -> Held:
    result = held
    for layer in layers:
        result = growth.elementwise(call, layer, result)
    return _written(inplace, growth, call, held, result)


def _written(inplace: bool, growth: Growth, call: Call, held: Any, result: Held) -> Held:
    """The result, in the tensor's own place if it is written there."""
    if not inplace:
        return result
    if isinstance(held, Held):
        return growth.in_place(held, result, call)
    if isinstance(held, Loose):
        call.refuse(f"{call.words} into the parameter {held.name!r}", "write y = x + parameter")
    return _clone(growth, call, result)  # a constant from here on is a tensor of the network, and shares none's place


for ours, (targets, in_place) in PLAIN.items():
    reads(*targets)(_plain(ours, False))
    reads(*in_place)(_plain(ours, True))
for ours, (target, word, number) in WITH_NUMBER.items():
    reads(target)(_numbered(ours, word, number))


@reads(F.gelu)
def _gelu(growth: Growth, call: Call, input: Held, approximate: str = "none") -> Held:
    return growth.elementwise(call, Activation("gelu" if approximate == "none" else "gelu_tanh"), input)


@reads(F.softplus)
def _softplus(growth: Growth, call: Call, input: Held, beta: float = 1.0, threshold: float = 20.0) -> Held:
    if threshold < 20:  # of beta * x, from which on PyTorch computes x itself
        call.refuse(f"F.softplus with threshold={threshold}", "threshold=20 would do")
    layers = [Affine(beta), Activation("softplus"), Affine(1 / beta)]
    return _in_place_if(False, growth, call, input, *(layers if beta != 1 else layers[1:2]))


@reads(F.selu, torch.selu)
def _selu(growth: Growth, call: Call, input: Held, inplace: bool = False) -> Held:
    return _written(inplace, growth, call, input, arithmetic.selu(growth, call, input))


@reads(F.celu, torch.celu)
def _celu(growth: Growth, call: Call, input: Held, alpha: float = 1.0, inplace: bool = False) -> Held:
    return _written(inplace, growth, call, input, arithmetic.celu(growth, call, input, alpha))


@reads(F.logsigmoid)
def _log_sigmoid(growth: Growth, call: Call, input: Held) -> Held:
    return _in_place_if(False, growth, call, input, Affine(-1.0), Activation("softplus"), Affine(-1.0))


@reads(F.tanhshrink)
def _tanhshrink(growth: Growth, call: Call, input: Held) -> Held:
    return growth.together(call, Subtract(), input, growth.elementwise(call, Activation("tanh"), input))


@reads(torch.abs, "abs", torch.absolute)
def _abs(growth: Growth, call: Call, input: Held) -> Held:
    """`relu(x) + relu(-x)`."""
    both = input, growth.elementwise(call, Affine(-1.0), input)
    return growth.together(call, Add(), *(growth.elementwise(call, Activation("relu"), each) for each in both))


@reads(F.softsign)
def _softsign(growth: Growth, call: Call, input: Held) -> Held:
    size = growth.elementwise(call, Affine(1.0, 1.0), _abs(growth, call, input))
    return growth.together(call, Divide(), input, size)


def _extreme(largest: bool) -> Handler:
    def read(growth: Growth, call: Call, input: Held, other: Held) -> Held:
        """`a + relu(b - a)`, or `a - relu(a - b)`."""
        if not isinstance(input, Held) or not isinstance(other, Held):
            call.refuse(f"{call.words} of a constant", "two tensors of the network, or x.clamp(min=…, max=…), would do")
        apart = growth.together(call, Subtract(), *((other, input) if largest else (input, other)))
        apart = growth.elementwise(call, Activation("relu"), apart)
        return growth.together(call, Add() if largest else Subtract(), input, apart)

    return read


larger = reads(torch.maximum, "maximum")(_extreme(True))
reads(torch.minimum, "minimum")(_extreme(False))


@reads(F.hardtanh)
def _hardtanh(
    growth: Growth, call: Call, input: Held, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Held:
    return _written(inplace, growth, call, input, arithmetic.clipped(growth, call, input, min_val, max_val))


@reads(torch.clamp, "clamp", torch.clip, "clip")
def _clamp(growth: Growth, call: Call, input: Held, min: Any = None, max: Any = None) -> Held:
    if not all(end is None or isinstance(end, (int, float)) for end in (min, max)):
        call.refuse(f"{call.words} to tensors", "give two numbers, or one of them")
    return arithmetic.clipped(growth, call, input, min, max)


def _softmax(name: str) -> Handler:
    def read(
        growth: Growth, call: Call, input: Held, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Held:
        axes = len(input.shape) + 1
        axis = (0 if axes in (1, 3) else 1) if dim is None else dim % axes  # as PyTorch guesses
        return arithmetic.over_axis(growth, call, input, name, axis - 1)

    return read


for ours in ("softmax", "log_softmax"):
    reads(getattr(F, ours), getattr(torch, ours), ours)(_softmax(ours))


# Dropout.


def _dropout(kind: type[Dropout]) -> Handler:
    def read(
        growth: Growth, call: Call, input: Held, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Held:
        if _trains(call.twin):
            call.refuse(
                f"{call.words} that drops in evaluation, too,", "give training=self.training, or use nn.Dropout"
            )
        if not training or p == 0:
            return input
        held = growth.as_map(call, input) if kind is SpatialDropout else input
        return _in_place_if(inplace, growth, call, held, kind(p))

    return read


def _trains(node: Any) -> bool:
    args: tuple = node.args
    return bool(node.kwargs.get("training", args[2] if len(args) > 2 else True))


reads(F.dropout)(_dropout(Dropout))
reads(F.dropout2d)(_dropout(SpatialDropout))


# Arithmetic.


def _arithmetic(sign: str, reverse: bool = False, inplace: bool = False) -> Handler:
    def read(growth: Growth, call: Call, input: Any, other: Any, *, alpha: float = 1) -> Held:
        first, second = (other, input) if reverse else (input, other)
        if alpha != 1:
            if not isinstance(other, Held):
                call.refuse(f"{call.words} with alpha={alpha} and no tensor of the network", "write x + alpha * y")
            second = growth.elementwise(call, Affine(alpha), other)
        held = _of_two(growth, call, sign, first, second)
        return _written(inplace, growth, call, input, held)

    return read


def _of_two(growth: Growth, call: Call, sign: str, a: Any, b: Any) -> Held:
    held, other = (a, b) if isinstance(a, Held) else (b, a)
    if isinstance(other, Loose):
        return _with_parameter(growth, call, sign, held, other)
    if not isinstance(other, (Held, bool, int, float, torch.Tensor)):
        call.refuse(f"{call.words} with a {type(other).__name__}", "give numbers and tensors")
    first, second = (each if isinstance(each, Held) else np.asarray(each, np.float64) for each in (a, b))
    return arithmetic.of_two(growth, call, sign, first, second)


def _with_parameter(growth: Growth, call: Call, sign: str, held: Held, loose: Loose) -> Held:
    if sign not in "+*":
        call.refuse(
            f"{call.words} with the parameter {loose.name!r}", "parameters of a block may be added and multiplied by"
        )
    size = loose.tensor.numel()
    if size > 1:
        held = growth.with_features(call, held, axis_of(call, held, tuple(loose.tensor.shape)))
    layer = growth.layers.get(loose.name, Scale(size, "multiply" if sign == "*" else "add"))
    if not isinstance(layer, Scale) or layer.operation != ("multiply" if sign == "*" else "add"):
        call.refuse(f"the parameter {loose.name!r}, added and multiplied by,", "give a parameter for each")
    return Held(growth.apply(call, loose.name, layer, held), held.layout)


SIGNS: dict[str, tuple[tuple[object, ...], str]] = {
    "+": ((operator.add, torch.add, "add"), "add_"),
    "-": ((operator.sub, torch.sub, "sub", torch.subtract), "sub_"),
    "*": ((operator.mul, torch.mul, "mul", torch.multiply), "mul_"),
    "/": ((operator.truediv, torch.div, "div", torch.true_divide), "div_"),
}
for symbol, (names, writing) in SIGNS.items():
    reads(*names)(_arithmetic(symbol))
    reads(writing)(_arithmetic(symbol, inplace=True))
reads(torch.rsub, "rsub")(_arithmetic("-", reverse=True))


@reads(operator.neg, torch.neg, "neg")
def _neg(growth: Growth, call: Call, input: Held) -> Held:
    return growth.elementwise(call, Affine(-1.0), input)


@reads(operator.pow, torch.pow, "pow")
def _pow(growth: Growth, call: Call, input: Held, exponent: float) -> Held:
    if not isinstance(exponent, (int, float)) or not isinstance(input, Held):
        given = f"the parameter {exponent.name!r}" if isinstance(exponent, Loose) else exponent
        call.refuse(f"{call.words} to {given}", "squares, x ** 2, and cubes would do")
    return arithmetic.power(growth, call, input, exponent)


@reads(torch.square, "square")
def _square(growth: Growth, call: Call, input: Held) -> Held:
    return growth.together(call, Multiply(), input, input)


# What leaves the numbers as they are.


@reads("contiguous", "float", "double", "to", "type_as", "cpu", "requires_grad_")
def _same(growth: Growth, call: Call, input: Held, *_: Any, **__: Any) -> Held:
    if not facts(call.node).value.is_floating_point():
        call.refuse(f"{call.words} to whole numbers", "keep floating-point numbers")
    return input


@reads("clone", torch.clone)
def _clone(growth: Growth, call: Call, input: Held, **_: Any) -> Held:
    return Held(type(input.value)(input.value.name, input.value.shape), input.layout, input.by)


@reads(torch.zeros_like, torch.ones_like, torch.full_like, "new_zeros", "new_ones", "new_full")
def _constant(growth: Growth, call: Call, *_: Any, **__: Any) -> torch.Tensor:
    return facts(call.node).value
