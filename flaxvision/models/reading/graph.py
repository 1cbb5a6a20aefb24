"""The network under construction: values that views share, and the nodes that give them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import NoReturn, Protocol

import numpy as np
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import Activation, AvgPool, Flatten, GlobalAvgPool, GlobalMaxPool, MaxPool, Node, Rearrange
from flaxvision.layers.kinds import Shape, describe
from flaxvision.layers.network import fitted
from flaxvision.layers.torch_module import ENDINGS
from flaxvision.models.reading.axes import Axes, Axis, Layout, atoms_of, fresh, shape_of

MOST_NUMBERS = 2**28  # of one value of one example: 1 GiB
Numbers = float | tuple[float, ...]  # one, or one a channel


class Call(Protocol):
    """An operation of another framework, as it is met."""

    @property
    def words(self) -> str:
        """What it is, for messages."""

    @property
    def wished_name(self) -> str:
        """The name that its layer should have."""

    @property
    def owns_name(self) -> bool:
        """Whether that name is a layer's in the other framework."""

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Raise that `what` cannot be read here."""


@dataclasses.dataclass(slots=True)
class Value:
    """A value of the network; what works in place puts another in its stead, for all views of it."""

    name: str | None  # of the node; None is the network's input
    shape: Shape  # of one example: (H, W, C) or (D,)


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A tensor of another framework: a value, and how the tensor lies in it."""

    value: Value
    layout: Layout
    by: Call | None = None  # the view that made it, which names the layer that it takes

    @property
    def shape(self) -> Shape:
        """The tensor's, without the batch."""
        return self.layout.shape


class Growth:
    """Layers and nodes so far.

    Args:
        kind: The network's name, for messages.
        input_shape: Of one example, (H, W, C) or (D,).
        taken: Names that no operation may have: those of modules and tensors.
    """

    passing: tuple[type[nnx.Module], ...] = (Flatten, Rearrange)  # what may follow the activation at the end

    def __init__(self, kind: str, input_shape: Shape, taken: Iterable[str]):
        self.kind = kind
        self.input_shape = input_shape
        self.layers: dict[str, nnx.Module] = {}
        self.nodes: list[Node] = []
        self.ending = ""  # of `ENDINGS`: the activation at the end that was left out
        self.shapes: dict[str | None, Shape] = {None: input_shape}  # of the values; None is the input
        self.largest = 0  # value of one example, in numbers
        self._taken = set(taken)
        self._check_size("its input", input_shape)

    def entry(self) -> Held:
        """The network's input."""
        return Held(Value(None, self.input_shape), Layout.plain(self.input_shape))

    # Nodes.

    def add(self, call: Call, layer: nnx.Module, *inputs: Held, end: str = "") -> Value:
        """A node of a new layer on whole values, named as the call wishes; with `end` it is beside what that names."""
        name = self._free(call.wished_name + end, own=call.owns_name and not end)
        self.layers[name] = layer
        return self._node(name, name, layer, inputs)

    def apply(self, call: Call, name: str, layer: nnx.Module, held: Held) -> Value:
        """A node of the module or parameter `name`, whose layer is `layer` if it has none yet."""
        known = self.layers.setdefault(name, layer)
        if describe(name, known) != describe(name, layer):
            call.refuse(
                f"{call.words} by the layer {name!r} with other settings than at its first use",
                "give each its own layer",
            )
        used = {node.name for node in self.nodes}
        return self._node(self._free(name) if name in used else name, name, known, (held,))

    def weighted(
        self, call: Call, key: Hashable, layer: nnx.Module, held: Held, numbers: Mapping[str, np.ndarray]
    ) -> Value:
        """A node of the module `key`, whose numbers are filled in by its name."""
        return self.apply(call, str(key), layer, held)

    def _node(self, name: str, layer_name: str, layer: nnx.Module, inputs: tuple[Held, ...]) -> Value:
        shapes = tuple(held.value.shape for held in inputs)
        shape = fitted(name, layer, shapes, self.kind, self.input_shape)
        self._check_size(f"layer {name!r}", shape)
        self.nodes.append(Node(name, layer_name, tuple(held.value.name for held in inputs)))
        self.shapes[name] = shape
        return Value(name, shape)

    def _free(self, wished: str, *, own: bool = False) -> str:
        """The wished name, or that with a number; `own`: it is the name of the module that the call is."""
        used = {*self.layers, *(node.name for node in self.nodes)}
        if own and wished not in used:
            return wished
        tries = itertools.chain([wished], (f"{wished}_{number}" for number in itertools.count(1)))
        return next(name for name in tries if name not in used and name not in self._taken)

    def end_at(self, held: Held) -> None:
        """Leave out what does not lead to the output, and what makes probabilities of scores there: see `ending`.

        That is a softmax or log_softmax over all outputs, or the sigmoid of one.
        """
        needed = {held.value.name}
        for node in reversed(self.nodes):
            needed |= set(node.takes) if node.name in needed else set()
        self.nodes = [node for node in self.nodes if node.name in needed]
        found = self.last_activation()
        if found is not None and len(held.value.shape) == 1:
            last, function = found
            shape, scores = self.shapes[last.name], last.takes[0]
            if math.prod(shape) == (1 if function == "sigmoid" else shape[-1]):
                self.ending = function
                self.nodes = [
                    dataclasses.replace(node, takes=tuple(scores if name == last.name else name for name in node.takes))
                    for node in self.nodes
                    if node is not last
                ]
        used = {node.layer for node in self.nodes}
        self.layers = {name: layer for name, layer in self.layers.items() if name in used}

    def last_activation(self) -> tuple[Node, str] | None:
        """The softmax, log_softmax or sigmoid at the end, behind which numbers only move, and which of them it is."""
        for node in reversed(self.nodes):
            layer = self.layers[node.layer]
            if isinstance(layer, Activation) and layer.function in ENDINGS:
                return node, layer.function
            if not isinstance(layer, self.passing):
                break
        return None

    def absorbed(self, held: Held, scale: Numbers, shift: Numbers) -> bool:
        """Whether `scale * held + shift` takes no layer, as what stands before the network does it."""
        return False

    def check_window(self, call: Call, held: Held, sides: Iterable[int]) -> None:
        """Raise if a map (C, H, W), padded or spread to `sides` for a window, would take too much."""
        self._check_size(f"layer {call.wished_name!r}", (*sides, held.shape[0]))

    def _check_size(self, what: str, shape: Shape) -> None:
        self.largest = max(self.largest, math.prod(shape))
        if math.prod(shape) > MOST_NUMBERS:
            raise UserError(
                f"{self.kind}: {what} would hold {math.prod(shape):.3g} numbers for one example, of shape {shape}; "
                f"up to {MOST_NUMBERS:.3g} are read"
            )

    # Values with their axes where an operation needs them.

    def with_base(self, call: Call, held: Held, base: Axes) -> Held:
        """The tensor in a value with the axes `base` in PyTorch's order: of a map (C, H, W), or of a vector (D,)."""
        layout = held.layout
        if layout.base == base:
            return held
        by, end = (call, "_input") if held.by is None else (held.by, "")
        atoms = atoms_of(layout.base)
        if len(base) == 1 and len(layout.base) == 3 and base[0] == atoms:
            value = self.add(by, Flatten(), held, end=end)
        else:
            order = tuple(atoms.index(atom) for atom in atoms_of(base))
            split = tuple(atom.size for atom in atoms)
            value = self.add(by, Rearrange(split, order, shape_of(base)), held, end=end)
        return Held(value, Layout(base, layout.axes))

    def plain(self, call: Call, held: Held) -> Held:
        """The tensor as a map or vector of its own."""
        if held.layout.is_plain:
            return held
        if len(held.shape) not in (1, 3):
            call.refuse(
                f"{call.words} on a tensor of {len(held.shape) + 1} axes {('N', *held.shape)}",
                "give it one of 4 axes, (N, C, H, W), or of 2, (N, D)",
            )
        return self.with_base(call, held, held.layout.axes)

    def as_map(self, call: Call, held: Held) -> Held:
        """The tensor as a map of its own."""
        if len(held.shape) != 3:
            call.refuse(
                f"{call.words} on a tensor of {len(held.shape) + 1} axes {('N', *held.shape)}",
                "give it one of 4 axes, (N, C, H, W)",
            )
        return self.plain(call, held)

    def with_features(self, call: Call, held: Held, axis: int) -> Held:
        """The tensor in a value whose features are the tensor's axis."""
        axes = held.layout.axes
        if len(axes) == 1:
            return self.plain(call, held)
        if held.layout.base[0] == axes[axis]:
            return held
        others = atoms_of(each for number, each in enumerate(axes) if number != axis)
        return self.with_base(call, held, (axes[axis], others, ()))

    def featured(self, call: Call, held: Held, axis: int) -> tuple[Held, np.ndarray | None]:
        """The tensor in a value whose features are an axis of it, and which those are (None: in order)."""
        return self.with_features(call, held, axis), None

    # What many operations are.

    def joined(self, call: Call, layer: nnx.Module, *inputs: Held) -> Held:
        """An operation whose value is a map or vector of its own."""
        value = self.add(call, layer, *inputs)
        return Held(value, Layout.plain(value.shape))

    def on_map(self, call: Call, layer: nnx.Module, held: Held) -> Held:
        """An operation on a map."""
        return self.joined(call, layer, self.as_map(call, held))

    def elementwise(self, call: Call, layer: nnx.Module, held: Held) -> Held:
        """An operation on every number by itself, however the tensor lies."""
        return dataclasses.replace(held, value=self.add(call, layer, held))

    def in_place(self, held: Held, result: Held, call: Call) -> Held:
        """What an operation that writes into its tensor gives: every view of that has the new numbers."""
        if result.layout.base != held.layout.base:
            call.refuse(f"{call.words} into a view", "write y = f(x) in place of f_(x)")
        held.value.name, held.value.shape = result.value.name, result.value.shape
        return dataclasses.replace(result, value=held.value)

    def together(self, call: Call, layer: nnx.Module, a: Held, b: Held) -> Held:
        """An operation of two tensors, number by number; an axis of 1 is broadcast."""
        if len(a.shape) != len(b.shape):
            call.refuse(
                f"{call.words} of tensors of shapes {('N', *a.shape)} and {('N', *b.shape)}",
                "give both as many axes, as x.view(n, c, 1, 1) does",
            )
        if a.layout.signature == b.layout.signature:
            return Held(self.add(call, layer, a, b), a.layout)
        order = a.layout.permutation
        if order is None or order != b.layout.permutation:
            same = b.layout.refined(a.layout) if a.shape == b.shape else None
            if same is not None:
                layout, base = same
                b = self.with_base(call, dataclasses.replace(b, layout=layout), base)
                return Held(self.add(call, layer, a, b), a.layout)
            a, b = self.plain(call, a), self.plain(call, b)
            order = tuple(range(len(a.shape)))
        value = self.add(call, layer, a, b)
        if value.shape == a.value.shape:
            return Held(value, a.layout)
        base = fresh(Layout.plain(value.shape).shape)
        return Held(value, Layout(base, tuple(base[axis] for axis in order)))

    def reduce(self, call: Call, held: Held, dims: tuple[int, ...], keep: bool, largest: bool) -> Held:
        """The mean, or the largest, over axes of the tensor (counted without the batch)."""
        gone = set(atoms_of(held.layout.axes[axis] for axis in dims))
        base = held.layout.base
        if gone:
            over = {number for number in (1, 2) if len(base) == 3 and base[number] and gone >= set(base[number])}
            if set(atoms_of(base[number] for number in over)) != gone:
                kept: Axis = tuple(atom for atom in atoms_of(held.layout.axes) if atom not in gone)
                removed: Axis = tuple(atom for atom in atoms_of(held.layout.axes) if atom in gone)
                held, over = self.with_base(call, held, (kept, removed, ())), {1, 2}
            base = held.layout.base
            whole = gone == set(atoms_of(base[1:]))
            if whole:
                layer: nnx.Module = GlobalMaxPool() if largest else GlobalAvgPool()
            else:
                window = tuple(math.prod(a.size for a in base[n]) if n in over else 1 for n in (1, 2))
                pair = (window[0], window[1])
                layer = MaxPool(pair) if largest else AvgPool(pair)
            value = self.add(call, layer, held)
            base = tuple(() if number and (whole or number in over) else axis for number, axis in enumerate(base))
        else:
            value = dataclasses.replace(held.value)
        axes = [() if number in dims else axis for number, axis in enumerate(held.layout.axes)]
        kept_axes = tuple(axis for number, axis in enumerate(axes) if keep or number not in dims)
        return Held(value, Layout(base, kept_axes), call)
