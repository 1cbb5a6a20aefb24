"""An ONNX file as nodes and constants, checked before anything is made of what it claims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

from flaxvision.errors import UserError
from flaxvision.models.onnx_reader.nodes import Node

OPSETS = range(9, 25)
MOST_NODES = 5000
EXAMPLES = 1_000_003  # a prime that stands for a number of examples that the file leaves open
STATES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Graph:
    """A graph with one input and one output."""

    name: str
    nodes: tuple[Node, ...]  # those that the output needs, in order
    constants: dict[str, np.ndarray]
    entry: str  # the input's name
    shape: tuple[int | None, ...]  # the input's, with the batch; None for a size that the file leaves open
    element: int  # the input's type, one of `TensorProto`
    exit: str  # the output's name
    opset: int
    proto: onnx.ModelProto  # the file with these nodes alone

    @property
    def examples(self) -> int:
        """How many examples a call takes, or `EXAMPLES`."""
        return self.shape[0] or EXAMPLES


def load(path: Path) -> onnx.ModelProto:
    """The file without weights that lie beside it.

    Raises:
        UserError: If it is missing or no ONNX file.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise UserError(f"no ONNX file {path}: give one") from error
    except (DecodeError, OSError, ValueError) as error:
        raise UserError(f"{path} is not an ONNX file ({_one_line(error)}): give one") from error


def graph_of(path: Path, proto: onnx.ModelProto) -> Graph:
    """The graph of a file.

    Raises:
        UserError: If the file is damaged, or more than one input and output, or of an operator set that is not read.
    """
    if proto.functions:
        proto = _checked(path, lambda: inline_local_functions(proto))
    if not proto.graph.node:
        raise UserError(f"{path} is not an ONNX file with a graph: give one")
    opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise UserError(
            f"{path} is of operator set {opset}: {OPSETS[0]} to {OPSETS[-1]} are read; export it for one of them, or "
            "convert it by onnx.version_converter"
        )
    if len(proto.graph.node) > MOST_NODES:
        raise UserError(f"{path} has {len(proto.graph.node)} nodes: up to {MOST_NODES} are read")
    if proto.graph.sparse_initializer:
        raise UserError(f"{path} has sparse weights: write them out as plain ones")
    _checked(path, lambda: onnx.checker.check_model(_without_weights(proto)))
    constants = {each.name: array_of(path, each) for each in proto.graph.initializer}
    entries = [each for each in proto.graph.input if each.name not in constants]
    for what, given in (("inputs", entries), ("outputs", proto.graph.output)):
        if len(given) != 1:
            names = ", ".join(repr(each.name) for each in given) or "none"
            raise UserError(f"{path} has {len(given)} {what} ({names}): a graph from one image to one output is read")
    kind = entries[0].type.tensor_type
    if not entries[0].type.HasField("tensor_type") or kind.elem_type not in STATES:
        raise UserError(f"{path} takes no numbers of a type that images have: float32 and uint8 are read")
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    nodes = live([Node.of(each) for each in proto.graph.node], proto.graph.output[0].name)
    name = proto.graph.name or path.stem
    kept = _only(proto, nodes)
    exit_name = proto.graph.output[0].name
    return Graph(name, nodes, constants, entries[0].name, shape, kind.elem_type, exit_name, opset, kept)


def live(nodes: Iterable[Node], exit_name: str) -> tuple[Node, ...]:
    """The nodes that an output needs."""
    needed, found = {exit_name}, list[Node]()
    for node in reversed(list(nodes)):  # a graph lists its nodes in the order of computation
        if needed.intersection(node.outputs):
            found.append(node)
            needed.update(node.inputs)
    return tuple(reversed(found))


def _only(proto: onnx.ModelProto, nodes: Iterable[Node]) -> onnx.ModelProto:
    """The file with just these of its nodes: what leads nowhere is not run, either."""
    kept = {node.outputs for node in nodes}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    copy.graph.node.extend(each for each in proto.graph.node if tuple(each.output) in kept)
    return copy


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The file for the checker with weights as inputs: those beside it may be gone, and 2 GB are too much for it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for output in bare.graph.output:  # whose shape the checker wants, and nothing else needs
        output.type.tensor_type.shape.SetInParent()
    del bare.graph.initializer[:]
    named = {each.name for each in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name not in named:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            bare.graph.input.add(name=tensor.name).type.CopyFrom(kind)
    return bare


def array_of(path: Path, tensor: TensorProto) -> np.ndarray:
    """An initializer, if it has as many numbers as it claims."""
    size = math.prod(tensor.dims)
    held = len(tensor.raw_data) + 8 * sum(
        len(each)
        for each in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    )
    external = tensor.data_location == TensorProto.EXTERNAL
    if min(tensor.dims, default=1) < 0 or (size > 8 * held and not external):
        claim = f"{tensor.name!r} claims the shape {tuple(tensor.dims)}"
        raise UserError(f"{path} is damaged ({claim}): export the model again")
    try:
        return numpy_helper.to_array(tensor, str(path.parent))
    except Exception as error:  # whatever protobuf, numpy or the file system raise
        beside = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if not beside:
            raise UserError(f"{path} is damaged ({_one_line(error)}): export the model again") from error
        place = path.parent / beside[0]
        advice = "export the model again"
        if not place.is_file():
            advice = f"put that into the same folder, or {advice}"
        elif place.is_symlink() or place.stat().st_nlink > 1:
            advice = "it is a link, which onnx does not follow; copy both files elsewhere by cp -L"
        raise UserError(
            f"{path} keeps its weights beside it, in {', '.join(beside)}, which cannot be read ({_one_line(error)}): "
            f"{advice}"
        ) from error


def _checked(path: Path, run: Callable[[], T]) -> T:
    """What onnx makes of the file."""
    try:
        return run()
    except Exception as error:  # of several classes, all of onnx's C++ part
        raise UserError(f"{path} is no valid ONNX graph ({_one_line(error)}): export the model again") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
