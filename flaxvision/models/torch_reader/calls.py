"""One operation of a module as the walk meets it."""

from __future__ import annotations

import dataclasses
import operator
import re
from typing import Any, NoReturn

import torch
from torch import fx, nn

from flaxvision.models.reading.axes import Shape
from flaxvision.models.torch_reader.refusal import refusal
from flaxvision.models.torch_reader.trace import facts

VOCABULARY = (
    "write it with convolutions, linear layers, normalizations, pools, activations, dropout, + - *, cat, flatten, view "
    "and permute, or grow the network with fv.models.Build"
)
_SYMBOLS = {operator.pow: "**", operator.matmul: "@", operator.floordiv: "//", operator.mod: "%"}


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """An operation, and where it stands."""

    node: fx.Node
    twin: fx.Node  # the same in evaluation mode, for another number of examples
    module: nn.Module | None  # of a layer

    @property
    def shape(self) -> Shape:
        """Of what it gives in PyTorch, without the batch.

        Raises:
            UserError: If that depends on the batch otherwise than in its first axis, or it gives no tensor.
        """
        value, other = facts(self.node).value, facts(self.twin).value
        if not isinstance(value, torch.Tensor):
            self.refuse(f"{self.words}, which gives a {type(value).__name__},", VOCABULARY)
        shape, twin = tuple(value.shape), tuple(other.shape)
        sizes = facts_of_batch(self)
        if not shape or (shape[0], twin[0]) != sizes or shape[1:] != twin[1:]:
            self.refuse(
                f"{self.words} to the shape {shape} from {sizes[0]} examples",
                "keep the examples along the first axis, as x.view(x.size(0), -1) and x.flatten(1) do",
            )
        return shape[1:]

    @property
    def words(self) -> str:
        """The operation, as the user would write it."""
        return operation_of(self.node, self.module)

    @property
    def where(self) -> object:
        """The user's line; else the layer."""
        held = facts(self.node)
        return held.line or (f"layer {held.path!r}" if held.path else "the module")

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Raise that `what` cannot be read here."""
        raise refusal(self.where, what, instead)

    @property
    def owns_name(self) -> bool:
        """Whether that name is a module's."""
        held = facts(self.node)
        return self.module is not None or bool(held.in_torch and held.path)

    @property
    def wished_name(self) -> str:
        """The name that its layer should have: the module's, or the operation's within its module."""
        held = facts(self.node)
        if self.module is not None:
            return str(self.node.target)
        if held.in_torch and held.path:
            return held.path
        word = re.sub(r"_\d+$", "", self.node.name).strip("_")
        return f"{held.path}.{word}" if held.path else word


def facts_of_batch(call: Call) -> tuple[int, int]:
    """The numbers of examples with which the two graphs were made."""
    first, second = (next(iter(node.graph.nodes)) for node in (call.node, call.twin))
    return len(facts(first).value), len(facts(second).value)


def operation_of(node: fx.Node, module: nn.Module | None = None) -> str:
    """An operation, as the user would write it."""
    target: Any = node.target
    if module is not None:
        return f"nn.{type(module).__name__}"
    if node.op == "call_module":
        return f"the layer {target!r}"
    if target is getattr:
        return f"Tensor.{node.args[1]}"
    if node.op == "call_method":
        return f"Tensor.{target}"
    if target in _SYMBOLS:
        return f"the operator {_SYMBOLS[target]}"
    name = getattr(target, "__name__", str(target))
    if name == "fn":  # torch.nn.functional's dispatch by a boolean, such as return_indices
        name = re.sub(r"_\d+$", "", node.name)
    home = str(getattr(target, "__module__", None) or "torch")
    if home in ("_operator", "operator", "builtins"):
        return f"the operator {name}"
    if home.startswith("torch"):
        return f"F.{name}" if getattr(torch.nn.functional, name, None) is target else f"torch.{name}"
    return f"{home}.{name}"
