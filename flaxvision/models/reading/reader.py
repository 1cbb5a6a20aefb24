"""A network that grows from the operations of a Keras or ONNX model, with its numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import NoReturn

import numpy as np
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import Dropout, Flatten, Network, Node, Preprocess
from flaxvision.layers.kinds import Shape
from flaxvision.models.files import assign, variables
from flaxvision.models.reading.axes import Axes, Layout, atoms_of
from flaxvision.models.reading.compare import HALVES, TOLERANCE
from flaxvision.models.reading.graph import MOST_NUMBERS, Call, Growth, Held, Numbers, Value

VOCABULARY = (
    "convolutions, linear layers, normalizations, pools, activations, dropout, sums, products, concatenations and "
    "reshapes would do"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """An operation of another framework, where it stands: see `Call`."""

    where: str  # "Keras layer 'dense'"
    words: str  # "a Dense"
    wished_name: str
    owns_name: bool = True

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Raise that `what` cannot be read here."""
        raise UserError(f"{self.where}: {what} cannot be read as a flaxvision network: {instead}")


def a(kind: str) -> str:
    """A kind with its article.

    >>> a("Conv"), a("Erf"), a("LSTM"), a("GRU")
    ('a Conv', 'an Erf', 'an LSTM', 'a GRU')
    """
    spelt = kind[:2].isupper() and kind[0] in "FHLMNRSX"
    return f"an {kind}" if kind[0] in "AEIO" or spelt else f"a {kind}"


class Reader(Growth):
    """A network under construction, its numbers, and what is to be said about it.

    Args:
        kind: The network's name, for messages.
        input_shape: Of one example, (H, W, C) or (D,).
    """

    passing = (*Growth.passing, Dropout)

    def __init__(self, kind: str, input_shape: Shape):
        super().__init__(kind, input_shape, ())
        self.numbers: dict[str, np.ndarray] = {}  # by "layer.variable", as ours lie
        self.preprocess = Preprocess()
        self.said: list[str] = []
        self.frozen: set[str] = set()  # layers that do not learn
        self.tolerance = TOLERANCE  # within which outputs are compared, of the largest
        self.shared: set[str | None] = set()  # values that more than one operation takes; None is the input
        self._layer_of: dict[Hashable, str] = {}

    @classmethod
    def taking(cls, kind: str, sizes: Shape, *, last: bool) -> tuple[Reader, Held]:
        """One whose input has these sizes in the model, an image's channels at its end or at its begin."""
        ours = (*sizes[1:], sizes[0]) if len(sizes) == 3 and not last else sizes
        reader = cls(kind, (*ours, 1) if len(ours) == 2 else ours)  # images without an axis of channels
        base = Layout.plain(reader.input_shape).base
        axes = base if len(sizes) == 1 or (len(sizes) == 3 and not last) else (*base[1:], *base[: len(sizes) - 2])
        return reader, Held(Value(None, reader.input_shape), Layout(base, axes))

    def say(self, words: str) -> None:
        """Note what is to be said, once."""
        if words not in self.said:
            self.said.append(words)

    def computes_in(self, dtype: str) -> None:
        """Note a type in which the model computes."""
        if dtype in HALVES:
            self.tolerance = max(self.tolerance, HALVES[dtype])
            self.say(f"computed in {dtype} there, in float32 here: compared within {HALVES[dtype]:.0%} of the largest")

    def weighted(
        self, call: Call, key: Hashable, layer: nnx.Module, held: Held, numbers: Mapping[str, np.ndarray]
    ) -> Value:
        """A node of a layer with numbers, by our names and as ours lie; the same layer for the same key.

        Raises:
            UserError: If the layer would need other numbers here than at its first place.
        """
        name = self._layer_of.get(key)
        if name is None:
            name = self._layer_of[key] = self._free(call.wished_name, own=call.owns_name)
            self.numbers |= {f"{name}.{part}": value for part, value in numbers.items()}
        elif any(not np.array_equal(self.numbers[f"{name}.{part}"], value) for part, value in numbers.items()):
            call.refuse(f"{call.words} that is applied to differently ordered features", "flatten alike before each")
        return self.apply(call, name, layer, held)

    def changed(self, node: Node, change: Hashable) -> bool:
        """Whether the layer of a node, its own so far, is with this change one that there is, which it has from now on.

        Later calls of the layer as it was have another.
        """
        key = next(key for key, name in self._layer_of.items() if name == node.layer)
        del self._layer_of[key]
        name = self._layer_of.setdefault((key, change), node.layer)
        self.nodes[self.nodes.index(node)] = dataclasses.replace(node, layer=name)
        return name != node.layer

    def flat(self, call: Call, held: Held) -> tuple[Held, np.ndarray | None]:
        """A tensor of one axis in a vector of ours, and which of its features each of the vector's is (None: in order).

        So weights are reordered, rather than values, where a model flattens channels last.
        """
        layout = held.layout
        (axis,) = layout.axes
        if len(layout.base) == 3:
            layout = Layout((atoms_of(layout.base),), layout.axes)
            held = Held(self.add(held.by or call, Flatten(), held), layout)
        order = [axis.index(atom) for atom in layout.base[0]]
        if order == sorted(order):
            return held, None
        features = np.arange(math.prod(held.shape)).reshape([atom.size for atom in axis])
        return held, features.transpose(order).ravel()

    def with_base(self, call: Call, held: Held, base: Axes) -> Held:
        """As `Growth.with_base`; a map that is flattened channels last stays so."""
        whole = held.layout.base
        if len(base) == 1 and len(whole) == 3 and base[0] == atoms_of((*whole[1:], whole[0])) != atoms_of(whole):
            value = self.add(held.by or call, Flatten(channels_last=True), held)
            return Held(value, Layout(base, held.layout.axes))
        return super().with_base(call, held, base)

    def featured(self, call: Call, held: Held, axis: int) -> tuple[Held, np.ndarray | None]:
        """As `Growth.featured`; a flattened map stays as it lies."""
        return self.flat(call, held) if len(held.shape) == 1 else super().featured(call, held, axis)

    def absorbed(self, held: Held, scale: Numbers, shift: Numbers) -> bool:
        """Whether the value is the network's input, taken here alone, and its preprocessing now does this, too."""
        if held.value.name is not None or None in self.shared:
            return False
        factor, number = np.asarray(scale), np.asarray(shift)
        both = np.broadcast_arrays(factor * self.preprocess.scale, factor * np.asarray(self.preprocess.offset) + number)
        parts: list[Numbers] = [
            float(part.flat[0]) if all((p == p.flat[0]).all() for p in both) else tuple(map(float, part))
            for part in both
        ]
        self.preprocess = Preprocess(*parts)
        return True

    def network(self, call: Call, output: Held) -> Network:
        """The network that gives `output`, with its numbers and preprocessing, and without what leads nowhere.

        Raises:
            UserError: If it is the input as it came.
        """
        self.end_at(output)
        if not self.nodes:
            call.refuse("a model without layers", "give one that computes something")
        if self.ending:
            self.say(f"the {self.ending} at the end is left out: outputs are scores, predict gives probabilities")
        network = Network(self.layers.items(), input_shape=self.input_shape, kind=self.kind, nodes=self.nodes)
        numbers = {each: value for each, value in self.numbers.items() if each.rpartition(".")[0] in self.layers}
        assign(network, variables(network) | numbers, self.kind, keep_types=True)
        network.preprocess = self.preprocess
        return network

    def check_memory(self, examples: int) -> None:
        """Raise if a call of so many examples would take too much."""
        if examples * self.largest > 4 * MOST_NUMBERS:
            raise UserError(f"{self.kind} takes {examples} examples a call: export it for one, or for any number")
