"""Nodes of an ONNX graph as plain data, with attributes that are what they should be."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterable
from typing import NoReturn

import onnx

from flaxvision.errors import UserError

TORCH_SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter by torch.export keeps a node's modules
WRAPPERS = ("StatefulPartitionedCall", "PartitionedCall")  # scopes that TensorFlow adds
WEIGHTS = ("weight", "kernel", "gamma", "scale", "slope", "alpha")  # the ends of weights' names


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph."""

    op: str  # with the domain before it, unless that is ONNX's own: "com.microsoft.FusedConv"
    name: str  # as the file has it, or of its first output
    inputs: tuple[str, ...]  # "" for one that is left out
    outputs: tuple[str, ...]
    attributes: dict[str, object]
    scope: str = ""  # of the module or layer that it is part of, with dots: "layer1.0.conv1"

    @classmethod
    def of(cls, proto: onnx.NodeProto) -> Node:
        """The node of a file."""
        words = (proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
        if not all(isinstance(word, str) for word in words):  # protobuf gives bytes where they are no UTF-8
            raise UserError(f"the ONNX node {proto.name!r} has names that are no text: the file is damaged")
        domain = "" if proto.domain in ("", "ai.onnx") else f"{proto.domain}."
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in proto.attribute}
        name = proto.name or next(iter(proto.output), "")
        scopes = next((each.value for each in proto.metadata_props if each.key == TORCH_SCOPES), None)
        scope = _scope_of(proto.name) if scopes is None else _last_scope(scopes)
        return cls(domain + proto.op_type, name, tuple(proto.input), tuple(proto.output), attributes, scope)

    @property
    def where(self) -> str:
        """The node, for messages."""
        return f"ONNX node {self.name!r}"

    def has(self, position: int) -> bool:
        """Whether there is an input."""
        return position < len(self.inputs) and bool(self.inputs[position])

    # Attributes, of the type that they should have.

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else self._odd(name, value)

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self.attributes.get(name, default)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else self._odd(name, value)

    def text(self, name: str, default: str) -> str:
        """A word."""
        value = self.attributes.get(name, default)
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        return value if isinstance(value, str) else self._odd(name, value)

    def wholes(self, name: str, default: tuple[int, ...] | None = None, count: int | None = None) -> tuple[int, ...]:
        """Whole numbers, `count` of them."""
        value = self.attributes.get(name, default)
        if value is None or not isinstance(value, (list, tuple)) or not all(isinstance(each, int) for each in value):
            return self._odd(name, value)
        return tuple(value) if count in (None, len(value)) else self._odd(name, value)

    def _odd(self, name: str, value: object) -> NoReturn:
        raise UserError(f"{self.where}, a {self.op}, has {name}={value!r}: the file is damaged, export the model again")


def name_for(node: Node, containers: Iterable[str]) -> str:
    """What the layer of a node should be called: as its weight, as the module that it is, or as its operator."""
    for weight in node.inputs[1:2]:
        stem, _, end = weight.removesuffix(":0").replace("/", ".").rpartition(".")
        if stem and end in WEIGHTS:
            return stem
    word = node.op.rpartition(".")[2].lower()
    if not node.scope:
        return word
    return f"{node.scope}.{word}" if node.scope in containers else node.scope


def _scope_of(name: str) -> str:
    """The scope in a name such as PyTorch's "/layer1/layer1.0/Conv" and TensorFlow's "sequential/conv2d/Conv2D"."""
    if "/" not in name:
        return ""
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):  # PyTorch repeats the name of a Sequential
            parts[-1] = part
        elif part not in WRAPPERS:
            parts.append(part)
    return ".".join(parts)


def _last_scope(scopes: str) -> str:
    """The innermost module of a list such as "['', 'layer1', 'layer1.0', 'conv2d']", whose last is the operation."""
    try:
        listed = ast.literal_eval(scopes) if len(scopes) < 10_000 else ()
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return ""
    names = [each for each in listed if isinstance(each, str)] if isinstance(listed, (list, tuple)) else []
    return names[-2] if len(names) > 1 else ""
