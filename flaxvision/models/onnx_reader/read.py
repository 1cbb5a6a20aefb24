"""The walk: a graph's nodes, one after the other, into a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from flaxvision.errors import UserError
from flaxvision.layers import Network
from flaxvision.layers.kinds import Shape
from flaxvision.models.onnx_reader import pointwise, pools, shaping, weighted  # noqa: F401 (they fill the table)
from flaxvision.models.onnx_reader.constants import constant, fold
from flaxvision.models.onnx_reader.file import Graph
from flaxvision.models.onnx_reader.nodes import Node, name_for
from flaxvision.models.onnx_reader.table import TABLE, At, Known, carry_out
from flaxvision.models.reading.graph import Held
from flaxvision.models.reading.reader import Operation, Reader, a
from flaxvision.models.reading.table import strange

LAYOUTS = ("NCHW", "NHWC")
FEW = (1, 3, 4)  # channels of images


def read(graph: Graph, layout: str, sizes: Shape) -> tuple[Network, Reader, Held]:
    """The network of a graph, what was found on the way, and how its output lies in the network's.

    Args:
        graph: The graph.
        layout: Of its input, "NCHW" or "NHWC", where it is an image.
        sizes: Of one example, in the graph's order.
    """
    reader, entry = Reader.taking(graph.name, sizes, last=layout == "NHWC")
    reader.computes_in(tensor_dtype_to_np_dtype(graph.element).name)
    uses = Counter(name for node in graph.nodes for name in dict.fromkeys(node.inputs))
    scopes = {node.scope for node in graph.nodes if node.scope}
    containers = {scope[:n] for scope in scopes for n, letter in enumerate(scope) if letter == "."}
    values: dict[str, Known] = {**graph.constants, graph.entry: entry}
    for node in graph.nodes:
        inputs = [values.get(name) if name else None for name in node.inputs]
        missing = next((n for n, v in zip(node.inputs, inputs, strict=True) if n and v is None), None)
        if missing is not None:
            raise UserError(f"{node.where} takes {missing!r}, which no node before it gives: export the model again")
        call = Operation(node.where, a(node.op), name_for(node, containers))
        if all(not isinstance(each, Held) for each in inputs):
            values |= _folded(node, call, [each for each in inputs if isinstance(each, np.ndarray)])
            continue
        taken = {name: value for name, value in zip(node.inputs, inputs, strict=True) if isinstance(value, Held)}
        reader.shared |= {value.value.name for name, value in taken.items() if uses[name] > 1}
        alone = reader.shared.isdisjoint(value.value.name for value in taken.values())
        given = carry_out(At(reader, call, node, inputs, graph.opset, graph.examples, alone))
        parts = given if isinstance(given, tuple) else (given,)
        values |= dict(zip(node.outputs, parts, strict=False))
    end = Operation(f"the output {graph.exit!r}", "what is given", "output", owns_name=False)
    output = values.get(graph.exit)
    if not isinstance(output, Held):
        end.refuse("a constant output", "a graph that computes something of its input would do")
    if output.layout.permutation not in ((0,), (0, 1, 2), (1, 2, 0)):
        output = reader.plain(end, output)
    return reader.network(end, output), reader, output


def layout_of(graph: Graph, sizes: Shape) -> tuple[str, bool]:
    """How the images of a graph lie, and whether its nodes tell: if none does, few channels at the end do."""
    name = graph.entry
    while True:
        takers = [node for node in graph.nodes if name in node.inputs]
        if len(takers) != 1:
            break
        (taker,) = takers
        if taker.op == "Transpose":
            return ("NHWC" if taker.attributes.get("perm") == [0, 3, 1, 2] else "NCHW"), True
        if taker.op not in ("Identity", "Cast", "Dropout", "Sub", "Mul", "Div", "Add"):
            break
        name = taker.outputs[0]
    takes_maps = any(node.op in ("Conv", "MaxPool", "AveragePool") and name in node.inputs for node in graph.nodes)
    last = len(sizes) == 3 and sizes[2] in FEW and sizes[0] not in FEW
    return ("NHWC" if last and not takes_maps else "NCHW"), takes_maps or len(sizes) != 3


def _folded(node: Node, call: Operation, inputs: list[np.ndarray]) -> Mapping[str, Known]:
    """What a node gives that takes constants only."""
    if node.op == "Constant":
        return {node.outputs[0]: constant(node)}
    with strange(call, "of these constants", "export the model again"), np.errstate(all="ignore"):
        value = fold(node, inputs)
    if value is None:
        instead = TABLE.instead.get(node.op, "let the exporter fold constants, or simplify the file")
        call.refuse(f"{call.words} of constants", instead)
    return {node.outputs[0]: value}
