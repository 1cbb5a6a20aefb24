"""Arithmetic of values with constants and with each other, and activations."""

from __future__ import annotations

import math

import numpy as np

from flaxvision.layers import Activation, Add, Affine, Divide, Multiply, Scale, Subtract
from flaxvision.models.reading.graph import Call, Growth, Held

SELU_ALPHA, SELU_GAMMA = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017


def of_two(
    growth: Growth, call: Call, sign: str, a: Held | np.ndarray, b: Held | np.ndarray, *, learns: bool = False
) -> Held:
    """`a + b`, `a - b`, `a * b` or `a / b`, of two values or of one and a constant; see `affine`."""
    if isinstance(a, Held) and isinstance(b, Held):
        return growth.together(call, {"+": Add, "-": Subtract, "*": Multiply, "/": Divide}[sign](), a, b)
    held, other = (a, b) if isinstance(a, Held) else (b, a)
    assert isinstance(held, Held)
    assert isinstance(other, np.ndarray)
    if sign == "/" and held is not a:
        call.refuse(f"{call.words} of a number by a tensor", "divide a tensor by a tensor or a number")
    numbers = np.asarray(other, np.float64)
    if not numbers.size or not np.isfinite(numbers).all() or (sign == "/" and not numbers.all()):
        call.refuse(f"{call.words} with a constant that is not finite", "give finite numbers")
    scale, shift = {
        "+": (np.ones(()), numbers),
        "*": (numbers, np.zeros(())),
        "/": (1 / numbers if sign == "/" else numbers, np.zeros(())),
        "-": (np.ones(()), -numbers) if held is a else (-np.ones(()), numbers),
    }[sign]
    return affine(growth, call, held, scale, shift, learns=learns)


def affine(
    growth: Growth, call: Call, held: Held, scale: np.ndarray, shift: np.ndarray, *, learns: bool = False
) -> Held:
    """`scale * held + shift`, constants that are broadcast as in numpy.

    On the network's input it becomes preprocessing. Elsewhere one number stays one, and one a channel may be what a
    layer has learnt, such as its bias.

    Args:
        growth: The network.
        call: The operation.
        held: The value.
        scale: A number, or one for each index of an axis.
        shift: As `scale`.
        learns: Whether numbers by channel, but for the input, are parameters here.
    """
    both = [np.asarray(part, np.float64) for part in (scale, shift)]
    if all((part == part.flat[0]).all() for part in both):
        numbers = tuple(float(part.flat[0]) for part in both)
        shape = np.broadcast_shapes(*(part.shape for part in both))
        if len(shape) > len(held.shape) + 1:
            call.refuse(f"{call.words} to another number of axes", "give one number, or one a channel")
        if growth.absorbed(held, *numbers):
            return held
        return held if numbers == (1.0, 0.0) else growth.elementwise(call, Affine(*numbers), held)
    axis = axis_of(call, held, np.broadcast_shapes(*(part.shape for part in both)))
    size = held.shape[axis]
    held, order = growth.featured(call, held, axis)
    each = [np.broadcast_to(part.ravel(), (size,)) for part in both]
    each = each if order is None else [part[order] for part in each]
    if growth.absorbed(held, *(tuple(part.tolist()) for part in each)):
        return held
    if not learns:
        constants = (float(part[0]) if (part == part[0]).all() else tuple(part.tolist()) for part in each)
        return growth.elementwise(call, Affine(*constants), held)
    for name, part, nothing in (("multiply", each[0], 1.0), ("add", each[1], 0.0)):
        if (part == nothing).all():
            continue
        if (part == part[0]).all():
            held = growth.elementwise(call, Affine(*((part[0], 0.0) if name == "multiply" else (1.0, part[0]))), held)
        else:
            key = (call.wished_name, name, len(growth.nodes))
            layer, numbers32 = Scale(size, name), {"weight": part.astype(np.float32)}
            held = Held(growth.weighted(call, key, layer, held, numbers32), held.layout)
    return held


def axis_of(call: Call, held: Held, shape: tuple[int, ...]) -> int:
    """Along which axis of a value (without the batch's) constants of a shape differ."""
    axes = len(held.shape) + 1
    padded = (*(1,) * (axes - len(shape)), *shape)
    wide = [axis for axis, size in enumerate(padded) if size > 1]
    if len(padded) != axes or len(wide) != 1 or wide[0] == 0 or held.shape[wide[0] - 1] != padded[wide[0]]:
        call.refuse(
            f"{call.words} of a tensor {('N', *held.shape)} and numbers of the shape {shape}",
            "give one number, or one a channel",
        )
    return wide[0] - 1


def activation(growth: Growth, call: Call, held: Held, name: str, number: float | None = None) -> Held:
    """An activation by our name."""
    return growth.elementwise(call, Activation(name, number), held)


def over_axis(growth: Growth, call: Call, held: Held, name: str, axis: int, ends: bool = False) -> Held:
    """A softmax or log_softmax over an axis (counted without the batch); left out at the end, over classes."""
    if axis < 0:
        call.refuse(f"{call.words} over the examples", "one over the classes or channels would do")
    if ends and len(held.shape) == 1:
        return growth.ended(held, name)
    return growth.elementwise(call, Activation(name), growth.with_features(call, held, axis))


def sigmoid(growth: Growth, call: Call, held: Held, ends: bool) -> Held:
    """A sigmoid; left out at the end, of one output."""
    if ends and held.shape in ((1,), ()):
        return growth.ended(held, "sigmoid")
    return activation(growth, call, held, "sigmoid")


def clipped(growth: Growth, call: Call, held: Held, low: float | None, high: float | None) -> Held:
    """Values cut to an interval."""
    low, high = (None if end is None or math.isinf(end) else float(end) for end in (low, high))
    if low is None and high is None:
        return held
    if low == 0 and high in (6, None):
        return activation(growth, call, held, "relu6" if high else "relu")
    if low is None or high is None:
        sign, end = (1.0, low) if low is not None else (-1.0, high)
        assert end is not None
        held = growth.elementwise(call, Affine(sign, -sign * end), held)
        return growth.elementwise(call, Affine(sign, end), activation(growth, call, held, "relu"))
    if not low < high:
        call.refuse(f"{call.words} to {low} and {high}", "two numbers in order would do")
    return _piecewise(growth, call, held, 2 / (high - low), -(low + high) / (high - low), low, high)


def hard_sigmoid(growth: Growth, call: Call, held: Held, alpha: float, beta: float) -> Held:
    """`alpha * x + beta` cut to [0, 1]."""
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return activation(growth, call, held, "hardsigmoid")
    return _piecewise(growth, call, held, 2 * alpha, 2 * beta - 1, 0.0, 1.0)


def _piecewise(growth: Growth, call: Call, held: Held, scale: float, shift: float, low: float, high: float) -> Held:
    """`scale * x + shift` cut to [-1, 1], and from there to [low, high]."""
    for layer in (Affine(scale, shift), Activation("hardtanh"), Affine((high - low) / 2, (low + high) / 2)):
        if not (isinstance(layer, Affine) and (layer.scale, layer.shift) == (1.0, 0.0)):
            held = growth.elementwise(call, layer, held)
    return held


def power(growth: Growth, call: Call, held: Held, exponent: float) -> Held:
    """A square or cube."""
    if exponent not in (1, 2, 3):
        call.refuse(f"{call.words} to the power {exponent:g}", "squares and cubes would do")
    result = held
    for _ in range(int(exponent) - 1):
        result = growth.together(call, Multiply(), result, held)
    return result


def selu(growth: Growth, call: Call, held: Held, alpha: float = SELU_ALPHA, gamma: float = SELU_GAMMA) -> Held:
    """`gamma` times an ELU."""
    return growth.elementwise(call, Affine(gamma), activation(growth, call, held, "elu", alpha))


def celu(growth: Growth, call: Call, held: Held, alpha: float) -> Held:
    """`alpha` times the ELU of `x / alpha`."""
    held = held if alpha == 1 else growth.elementwise(call, Affine(1 / alpha), held)
    held = activation(growth, call, held, "elu")
    return held if alpha == 1 else growth.elementwise(call, Affine(alpha), held)
