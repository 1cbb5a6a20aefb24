"""A model: an ordered list of nodes, with the little that must travel with its weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import final

import jax
import jax.numpy as jnp
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers.context import EVALUATION, Context
from flaxvision.layers.kinds import AnyKind, MisfitError, Shape, kind_of
from flaxvision.layers.preprocess import Preprocess
from flaxvision.layers.torch_module import TorchModule
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import Form, Policy


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One use of a layer."""

    name: str  # of the value that it gives
    layer: str  # name of the layer; several nodes may use one
    takes: tuple[str | None, ...]  # names of the nodes whose values it takes, in order; None is the network's input


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """A node of a walk: what it takes and gives, for one example."""

    node: Node
    layer: nnx.Module
    kind: AnyKind
    inputs: tuple[Shape, ...]
    output: Shape

    @property
    def multiply_adds(self) -> int:
        """Multiplications with an addition, of one example."""
        return self.kind.multiply_adds(self.layer, self.inputs, self.output)

    def form(self, examples: int, dtype: jnp.dtype, policy: Policy) -> tuple[Form | None, int]:
        """The form of a convolution on `examples` examples and the bytes of its patches; (None, 0) for another kind."""
        return self.kind.form(self.layer, (examples, *self.inputs[0]), dtype, policy)


@final
class Network(nnx.Module):
    """Named layers, each applied to the value before it unless `nodes` say otherwise; calling it evaluates.

    Args:
        layers: (name, layer) pairs; a name is that of the layer in the PyTorch reference and may hold dots.
        input_shape: Shape of one example, (H, W, C) or (D,).
        kind: What `create` calls this network, for files and reports.
        nodes: Which layers are applied to what, in order; the last one gives the output. None for a chain.

    Raises:
        UserError: If two layers or nodes share a name, or a node takes what no earlier one gives.

    >>> from flaxvision.layers import Flatten, Linear
    >>> net = Network([("flat", Flatten()), ("out", Linear(16, 10, rngs=nnx.Rngs(0)))], input_shape=(4, 4, 1))
    >>> [(step.node.name, step.inputs, step.output) for step in net.walk()]
    [('flat', ((4, 4, 1),), (16,)), ('out', ((16,),), (10,))]
    """

    def __init__(
        self,
        layers: Iterable[tuple[str, nnx.Module]],
        *,
        input_shape: Shape,
        kind: str = "chain",
        nodes: Iterable[Node] | None = None,
    ):
        pairs = tuple(layers)
        self.names = tuple(name for name, _ in pairs)
        self.nodes = chained(self.names) if nodes is None else tuple(nodes)
        self._check()
        self.layers = nnx.List([layer for _, layer in pairs])
        self.input_shape = tuple(int(size) for size in input_shape)
        self.kind = kind
        self.classes: tuple[str, ...] = ()  # class names in the order of the outputs, once trained
        self.preprocess = Preprocess()  # set by `fit`; read by evaluate, predict and the exporters
        self.torch: TorchModule | None = None  # of the PyTorch module, or Keras model, that it was read from

    def __init_subclass__(cls) -> None:
        raise TypeError("a Network has no subclasses: put what is new into a layer of your own")

    def _check(self) -> None:
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise UserError(f"layer names {sorted(twice)} occur twice: give each layer of a chain a name of its own")
        known: set[str | None] = {None}
        for node in self.nodes:
            if node.layer not in self.names:
                raise UserError(f"node {node.name!r} applies {node.layer!r}, which is not a layer of the network")
            if node.name in known:
                raise UserError(f"two nodes are named {node.name!r}: give each a name of its own")
            missing = [name for name in node.takes if name not in known]
            if missing:
                raise UserError(f"node {node.name!r} takes {missing[0]!r}, which no node before it gives")
            known.add(node.name)

    def __call__(self, x: jax.Array, context: Context = EVALUATION) -> jax.Array:
        """Apply the network to `x` of shape (B, *input_shape), already preprocessed."""
        _, output = [("", Maps(x)), *self.values(x, context)][-1]
        return output.first()

    def values(self, x: jax.Array, context: Context = EVALUATION) -> Iterator[tuple[str, Maps]]:
        """Each node's name and value, in order, for `x` as in a call; the last one is the output."""
        layers = dict(self.named_layers())
        values: dict[str | None, Maps] = {None: Maps(x)}
        for position, node in enumerate(self.nodes):
            layer, inner = layers[node.layer], context.for_layer(node.layer, position)
            values[node.name] = kind_of(layer).apply(layer, [values[name] for name in node.takes], inner)
            yield node.name, values[node.name]

    def named_layers(self) -> Iterable[tuple[str, nnx.Module]]:
        """The (name, layer) pairs in order."""
        return zip(self.names, self.layers, strict=True)

    @property
    def is_chain(self) -> bool:
        """Whether every layer takes the value before it, and no other."""
        return self.nodes == chained(self.names)

    def walk(self) -> Iterator[Step]:
        """Every node in order with the shapes that it takes and gives, without running anything.

        Raises:
            UserError: For a node that does not fit what it takes; it names both.
        """
        layers = dict(self.named_layers())
        shapes: dict[str | None, Shape] = {None: self.input_shape}
        for node in self.nodes:
            layer, inputs = layers[node.layer], tuple(shapes[name] for name in node.takes)
            shapes[node.name] = fitted(node.name, layer, inputs, self.kind, self.input_shape)
            yield Step(node, layer, kind_of(layer), inputs, shapes[node.name])

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the parameters (float32 without any)."""
        leaves = jax.tree.leaves(nnx.state(self, nnx.Param))
        return leaves[0].dtype if leaves else jnp.dtype(jnp.float32)

    @property
    def output_shape(self) -> Shape:
        """Shape of the output for one example, found without running the network; parameters may be abstract."""
        return [self.input_shape, *(step.output for step in self.walk())][-1]

    def parameter_names(self) -> dict[tuple, str]:
        """The name "layer.variable" of every variable, by its path in the model's state."""
        state = nnx.to_flat_state(nnx.state(self))
        return {path: ".".join([self.names[int(str(path[1]))], *map(str, path[2:])]) for path, _ in state}


def chained(names: Iterable[str]) -> tuple[Node, ...]:
    """Nodes that apply layers one after the other."""
    return tuple(Node(name, name, (before,)) for before, name in itertools.pairwise((None, *names)) if name is not None)


def fitted(name: str, layer: nnx.Module, inputs: tuple[Shape, ...], kind: str, input_shape: Shape) -> Shape:
    """The output's shape of a layer on `inputs`; `UserError` that names layer and network where it does not fit."""
    known = kind_of(layer)
    try:
        if len(inputs) != known.inputs and (known.inputs is not None or len(inputs) < 2):
            wanted = "two or more values" if known.inputs is None else f"{known.inputs} values"
            raise MisfitError(f"takes {wanted}, not {len(inputs)}")
        return known.shape(layer, inputs)
    except MisfitError as error:
        raise UserError(f"{kind} does not fit examples of shape {input_shape}: layer {name!r} {error}") from error


Chain = Network  # as it was called while it held chains only
