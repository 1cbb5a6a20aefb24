"""The table of ONNX operators: for each what makes nodes of a network of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from flaxvision.models.onnx_reader.constants import axes_of
from flaxvision.models.onnx_reader.nodes import Node
from flaxvision.models.reading.graph import Held
from flaxvision.models.reading.reader import VOCABULARY, Operation, Reader
from flaxvision.models.reading.table import Table, strange

Known = Held | np.ndarray  # a value of the network, channels first, or a constant
Given = Known | tuple[Known, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A node that is read: what it takes, and where it stands."""

    reader: Reader
    call: Operation
    node: Node
    inputs: Sequence[Known | None]
    opset: int
    examples: int  # of a call
    alone: bool  # whether nothing else takes the value of its first input, nor the one that this came from

    def held(self, position: int = 0) -> Held:
        """An input that is a value of the network."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if isinstance(value, Held):
            return value
        self.call.refuse(f"{self.call.words} of a constant as input {position + 1}", "give it a value of the network")

    def constant(self, position: int) -> np.ndarray:
        """An input that is constant."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if isinstance(value, np.ndarray):
            return value
        what = "without" if value is None else "with a computed"
        self.call.refuse(f"{self.call.words} {what} input {position + 1}", "a constant there would do")

    def weight(self, position: int) -> np.ndarray:
        """A constant of floating-point numbers, at least float32."""
        value = self.constant(position)
        return value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)

    def optional(self, position: int) -> np.ndarray | None:
        """As `weight`; None for an input that is left out."""
        return self.weight(position) if self.node.has(position) else None

    def wholes(self, name: str, position: int) -> tuple[int, ...] | None:
        """Whole numbers, an attribute in early operator sets and an input in later ones; None without."""
        if name in self.node.attributes:
            return self.node.wholes(name)
        return tuple(int(each) for each in self.constant(position).ravel()) if self.node.has(position) else None

    def axes(self, rank: int) -> tuple[int, ...] | None:
        """The axes of an attribute or a second input, counted with the batch; None where there are none."""
        constants = [self.constant(1)] if self.node.has(1) else []
        return axes_of(self.node, [np.empty(0), *constants], 1, rank)

    def axis(self, number: int) -> int:
        """An axis of the first input, counted without the batch."""
        rank = len(self.held().shape) + 1
        if not -rank <= number < rank:
            self.call.refuse(f"{self.call.words} on axis {number} of {rank}", "an axis that there is would do")
        if number % rank == 0:
            self.call.refuse(f"{self.call.words} on the axis of the examples", "keep them along the first axis")
        return number % rank - 1

    @property
    def key(self) -> Hashable:
        """What nodes that apply one layer have in common."""
        return self.node.op, self.node.inputs[1:], repr(sorted(self.node.attributes.items()))


Handler = Callable[[At], Given]
TABLE = Table[Handler](VOCABULARY)  # by operator
reads, refuses = TABLE.reads, TABLE.refuses


def carry_out(at: At) -> Given:
    """What a node gives.

    Raises:
        UserError: If it is outside the table, or its inputs and attributes are.
    """
    handler = TABLE.handler(at.call, at.node.op)
    for each in at.inputs:
        if isinstance(each, np.ndarray):
            at.reader.computes_in(each.dtype.name)
    with strange(at.call, "with these inputs", "look at it with onnx.checker, and export again"):
        return handler(at)


refuses("recurrent layers are outside it; convolutions or linear layers would do", "LSTM", "GRU", "RNN")
refuses("attention is outside it; convolutions would do", "Attention", "MultiHeadAttention", "RotaryEmbedding")
refuses("export the model in floating point, before quantization", "QLinearConv", "QLinearMatMul", "ConvInteger")
refuses(
    "export the model in floating point, before quantization",
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "com.microsoft.QLinearAdd"),
)
refuses("a graph without branches and loops would do: export it with fixed sizes, or simplify it", "If", "Loop", "Scan")
refuses("GroupNormalization or BatchNormalization would do", "LRN", "MeanVarianceNormalization", "LpNormalization")
refuses("Relu, LeakyRelu, Elu or Softplus would do", "ThresholdedRelu", "Softsign", "Shrink")
refuses(
    "a pool over the map, or a convolution with strides, would do", "RoiAlign", "MaxRoiPool", "GridSample", "LpPool"
)
