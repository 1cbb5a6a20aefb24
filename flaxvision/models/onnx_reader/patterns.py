"""Several nodes that are one layer here: GELU by Erf, and normalizations written out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from flaxvision.models.onnx_reader.constants import constant
from flaxvision.models.onnx_reader.file import Graph, live
from flaxvision.models.onnx_reader.nodes import Node

NORMALIZED = "flaxvision.Normalization"  # of values over axes: mean 0, deviation 1


class Pieces:
    """A graph's nodes by what they give, and its single numbers by name."""

    def __init__(self, graph: Graph):
        self.makers = {output: node for node in graph.nodes for output in node.outputs}
        self.takers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.takers.setdefault(name, []).append(node)
        self.numbers = {name: array.item() for name, array in _constants(graph).items() if array.size == 1}
        self.exit = graph.exit

    def made_by(self, name: str, op: str) -> Node | None:
        """The node that gives a value, if it is of this operator."""
        node = self.makers.get(name)
        return node if node is not None and node.op == op else None

    def only_taker(self, name: str) -> Node | None:
        """The one node that takes a value."""
        takers = self.takers.get(name, [])
        return takers[0] if len(takers) == 1 and name != self.exit else None

    def other(self, node: Node, name: str) -> str:
        """The other input of two."""
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def is_cube(self, name: str, x: str) -> bool:
        """Whether a value is `x ** 3`, or `x * x * x`."""
        node = self.makers.get(name)
        if node is not None and node.op == "Pow":
            return node.inputs[0] == x and self.numbers.get(node.inputs[1]) == 3
        if node is None or node.op != "Mul" or x not in node.inputs:
            return False
        square = self.made_by(self.other(node, x), "Mul")
        return square is not None and square.inputs == (x, x)

    def scaled(self, name: str) -> tuple[str, float]:
        """A value and the number by which it was multiplied or divided to give `name`."""
        node = self.makers.get(name)
        if node is None or node.op not in ("Mul", "Div"):
            return name, 1.0
        for position, number in enumerate(map(self.numbers.get, node.inputs)):
            if number is not None and (node.op == "Mul" or position == 1):
                return node.inputs[1 - position], float(number if node.op == "Mul" else 1 / number)
        return name, 1.0


def _constants(graph: Graph) -> Mapping[str, np.ndarray]:
    made = {node.outputs[0]: constant(node) for node in graph.nodes if node.op == "Constant" and node.outputs}
    return graph.constants | {name: array for name, array in made.items() if array.dtype.kind in "fiu"}


def joined(graph: Graph) -> Graph:
    """The graph with one node for several, where they are one layer here."""
    pieces = Pieces(graph)
    found: dict[str, Node] = {}  # by the output that it takes over
    for node in graph.nodes:
        made = PATTERNS[node.op](pieces, node) if node.op in PATTERNS else None
        found |= {} if made is None else {made.outputs[0]: made}
    nodes = [found.get(node.outputs[0], node) if node.outputs else node for node in graph.nodes]
    return dataclasses.replace(graph, nodes=live(nodes, graph.exit))


def _gelu(pieces: Pieces, erf: Node) -> Node | None:
    """`0.5 * x * (1 + erf(x / sqrt(2)))`."""
    x, scale = pieces.scaled(erf.inputs[0])
    return _half_of(pieces, erf, x, "none") if math.isclose(scale, math.sqrt(0.5), rel_tol=1e-4) else None


def _gelu_tanh(pieces: Pieces, tanh: Node) -> Node | None:
    """`0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`."""
    inner, scale = pieces.scaled(tanh.inputs[0])
    total = pieces.made_by(inner, "Add")
    if total is None or not math.isclose(scale, math.sqrt(2 / math.pi), rel_tol=1e-4):
        return None
    for x in total.inputs:
        cube, factor = pieces.scaled(pieces.other(total, x))
        if math.isclose(factor, 0.044715, rel_tol=1e-4) and pieces.is_cube(cube, x):
            return _half_of(pieces, tanh, x, "tanh")
    return None


def _half_of(pieces: Pieces, curve: Node, x: str, approximate: str) -> Node | None:
    """A GELU, if the curve plus 1 is multiplied by `0.5 * x`, in whatever order."""
    one = pieces.only_taker(curve.outputs[0])
    if one is None or one.op != "Add" or pieces.numbers.get(pieces.other(one, curve.outputs[0])) != 1:
        return None
    node, factor, has_x = one, 1.0, False
    while not (has_x and math.isclose(factor, 0.5)):
        value = node.outputs[0]
        taker = pieces.only_taker(value)
        if taker is None or taker.op not in ("Mul", "Div"):
            return None
        other = pieces.other(taker, value)
        number = pieces.numbers.get(other)
        if number is not None and (taker.op == "Mul" or taker.inputs[0] == value):
            factor *= number if taker.op == "Mul" else 1 / number
        elif taker.op == "Mul" and not has_x:
            source, by = (x, 1.0) if other == x else pieces.scaled(other)
            if source != x:
                return None
            factor, has_x = factor * by, True
        else:
            return None
        node = taker
    return dataclasses.replace(node, op="Gelu", inputs=(x,), attributes={"approximate": approximate})


def _gated(pieces: Pieces, product: Node) -> Node | None:
    """`x * sigmoid(x)` and its like."""
    for x in product.inputs:
        gate = pieces.makers.get(pieces.other(product, x))
        if gate is None or not gate.inputs or pieces.only_taker(gate.outputs[0]) is not product:
            continue
        before = pieces.makers.get(gate.inputs[0])
        op = None
        if gate.op == "Sigmoid" and gate.inputs[0] == x:
            op = "Swish"
        elif gate.op == "HardSigmoid" and gate.inputs[0] == x:
            sixth = math.isclose(gate.number("alpha", 0.2), 1 / 6, rel_tol=1e-6) and gate.number("beta", 0.5) == 0.5
            op = "HardSwish" if sixth else None
        elif gate.op == "Tanh" and before is not None and before.op == "Softplus" and before.inputs[0] == x:
            op = "Mish"
        if op is not None:
            return dataclasses.replace(product, op=op, inputs=(x,), attributes={})
    return None


def _normalization(pieces: Pieces, root: Node) -> Node | None:
    """`(x - mean) / sqrt(mean((x - mean) ** 2) + epsilon)`."""
    shifted = pieces.made_by(root.inputs[0], "Add")
    if shifted is None:
        return None
    epsilons = [pieces.numbers.get(name) for name in shifted.inputs]
    if len(epsilons) != 2 or (epsilons[0] is None) == (epsilons[1] is None):
        return None
    variance = pieces.made_by(shifted.inputs[0 if epsilons[0] is None else 1], "ReduceMean")
    square = None if variance is None else pieces.makers.get(variance.inputs[0])
    if variance is None or square is None or square.op not in ("Mul", "Pow"):
        return None
    centred = square.inputs[0]
    twice = square.inputs[1]
    squares = twice == centred if square.op == "Mul" else pieces.numbers.get(twice) == 2
    less = pieces.made_by(centred, "Sub")
    mean = None if less is None else pieces.made_by(less.inputs[1], "ReduceMean")
    if not squares or less is None or mean is None or mean.inputs[0] != less.inputs[0]:
        return None
    if (mean.inputs[1:], mean.attributes.get("axes")) != (variance.inputs[1:], variance.attributes.get("axes")):
        return None
    end = pieces.only_taker(root.outputs[0])
    if end is not None and end.op == "Reciprocal":
        root, end = end, pieces.only_taker(end.outputs[0])
    if end is None or end.op not in ("Div", "Mul") or pieces.other(end, root.outputs[0]) != centred:
        return None
    if end.op == "Div" and end.inputs[0] != centred:
        return None
    epsilon = next(float(each) for each in epsilons if each is not None)
    attributes = {key: value for key, value in mean.attributes.items() if key == "axes"} | {"epsilon": epsilon}
    inputs = (less.inputs[0], *mean.inputs[1:])
    return dataclasses.replace(end, op=NORMALIZED, inputs=inputs, attributes=attributes)


PATTERNS = {"Erf": _gelu, "Tanh": _gelu_tanh, "Mul": _gated, "Sqrt": _normalization}  # by the operator that tells
