"""The registry of layers in other worlds: for each kind its ONNX nodes, its PyTorch layer and its Keras layer."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from export._place import Place, keras_names
from flaxvision.errors import UserError
from flaxvision.layers import KINDS, Chain
from flaxvision.layers.kinds import MisfitError, kind_of, outside
from flaxvision.layers.network import Step

if TYPE_CHECKING:
    from export._onnx import Graph

TYPES = ("float32", "float64", "float16")  # of the numbers that can be exported
Emit = Callable[["Graph", Place, Sequence[str]], str]  # adds nodes on the values so named, returns the output's name
InKeras = Callable[[Place, Sequence[Any]], Any]  # applied to Keras tensors, channels last
Settings = Callable[[Place], dict[str, Any]]


def ours_in_order(layer: nnx.Module, ours: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The weights of a Keras layer that has the kind's tensors, those that there are, as ours lie."""
    return [ours[tensor.ours] for tensor in kind_of(layer).tensors(layer) if tensor.ours in ours]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One kind of layer in the three worlds."""

    onnx: Emit
    torch: Callable[[Place], Any]  # a torch.nn.Module, its weights as they come
    keras: InKeras
    check: Callable[[Place], None]  # raises `MisfitError` for what the others lack
    weights: Callable[[Any, Mapping[str, np.ndarray]], list[np.ndarray]] = ours_in_order  # of the Keras layer


ROWS: dict[type[nnx.Module], Row] = {}


def register(kind: type[nnx.Module], row: Row) -> None:
    """Add the row of a kind."""
    ROWS[kind] = row


def check_registry() -> None:
    """Raise unless every kind of the library has a row."""
    missing = [kind.__name__ for kind in KINDS if kind not in ROWS]
    if missing:
        raise ImportError(f"export has no row for {', '.join(missing)}")


# What many rows have in common.


def node(op: str, attributes: Settings = lambda place: {}) -> Emit:
    """A single ONNX node."""
    return lambda graph, place, inputs: graph.add(op, inputs, place.name, **attributes(place))


def no_node(graph: Graph, place: Place, inputs: Sequence[str]) -> str:
    """Dropout and the identity leave no node."""
    return inputs[0]


def number_of(graph: Graph, place: Place, name: str, value: object, dtype: Any = None) -> str:
    """A constant of a layer's graph, of the layer's type unless told otherwise."""
    return graph.constant(f"{place.name}.{name}", np.asarray(value, place.dtype if dtype is None else dtype))


def any_place(place: Place) -> None:
    """Wherever it stands, the others have it."""


def on_maps(place: Place) -> None:
    """The others have it for maps only."""
    _only(place, (3,), "maps (H, W, C)")


def on_maps_and_vectors(place: Place) -> None:
    """The others count channels first, which only maps and vectors have."""
    _only(place, (1, 3), "maps (H, W, C) and vectors")


def _only(place: Place, axes: tuple[int, ...], words: str) -> None:
    if len(place.shape) not in axes:
        kind = type(place.layer).__name__
        raise MisfitError(f"is a {kind} on examples of shape {place.shape}: it can be exported for {words} only")


def torch_layer(name: str, arguments: Callable[[Place], tuple] = lambda place: ()) -> Callable[[Place], Any]:
    """`torch.nn.NAME(*arguments)`."""
    return lambda place: getattr(importlib.import_module("torch.nn"), name)(*arguments(place))


def own_torch_layer(name: str) -> Callable[[Place], Any]:
    """A layer that PyTorch lacks."""
    return lambda place: getattr(importlib.import_module("export._torch_layers"), name)(place)


def keras_layer(name: str, settings: Settings = lambda place: {}) -> InKeras:
    """`keras.layers.NAME(**settings)`."""
    return lambda place, inputs: in_keras(place, inputs, name, **settings(place))


def in_keras(place: Place, inputs: Sequence[Any], name: str, **settings: Any) -> Any:
    """What `keras.layers.NAME(**settings)` makes of the inputs."""
    import keras

    if place.layer_name not in place.keras_layers:  # a layer may stand at several places
        place.keras_layers[place.layer_name] = getattr(keras.layers, name)(**settings, name=place.keras_name)
    layer = place.keras_layers[place.layer_name]
    with _undrawn(layer):
        return layer(inputs[0] if len(inputs) == 1 else list(inputs))


@contextlib.contextmanager
def _undrawn(layer: object) -> Iterator[None]:
    """Let a Keras layer start at zeros: ours replace them, and drawing would compile a program for every shape."""

    def zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.zeros(shape, dtype)

    initializers = {key: value for key, value in vars(layer).items() if key.endswith("_initializer")}
    for key in initializers:
        setattr(layer, key, zeros)
    try:
        yield
    finally:
        for key, value in initializers.items():
            setattr(layer, key, value)


# A network's layers with their rows.


def row_of(position: int, name: str, layer: nnx.Module, kind: str) -> Row:
    """The row of a layer.

    Raises:
        UserError: For a layer outside the table, naming it, its place and the allowed kinds.
    """
    if type(layer) not in ROWS:
        raise UserError(f"layer {position} {name!r} of {kind} {outside(layer, ROWS, 'exported')}")
    return ROWS[type(layer)]


def check_pixels(model: Chain) -> None:
    """Raise for a model whose inputs are not pixels, which could be scaled."""
    if len(model.input_shape) != 3:
        raise UserError(f"normalize=True is for images; {model.kind} takes points of shape {model.input_shape}")


def check_layers(model: Chain) -> None:
    """Raise for what is not a model, or the first layer that cannot be exported, before anything is done with any."""
    _check_numbers(model)
    for position, (name, layer) in enumerate(model.named_layers()):
        row_of(position, name, layer, model.kind)
    for position, (_, row, place) in enumerate(places(model, {})):
        try:
            row.check(place)
        except MisfitError as error:
            raise UserError(f"layer {position} {place.name!r} {error}") from error


def _check_numbers(model: Chain) -> None:
    """Raise unless it is a network whose layers all hold numbers of one type that every exporter has."""
    if not isinstance(model, Chain):
        instead = "a model of fv.models.create or fv.load_model"
        if isinstance(model, (str, Path)):
            instead = f"fv.load_model({str(model)!r})"
        elif isinstance(getattr(model, "model", None), Chain):
            instead = "its .model"
        raise UserError(f"a {type(model).__name__} cannot be exported: give {instead}")
    first: dict[str, str] = {}  # type -> the first layer that has it
    for name, layer in model.named_layers():
        for leaf in jax.tree.leaves(nnx.state(layer, (nnx.Param, nnx.BatchStat))):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise UserError(f"layer {name!r} of {model.kind} holds no numbers: create it outside nnx.eval_shape")
            first.setdefault(str(leaf.dtype), name)
    strange = next((dtype for dtype in first if dtype not in TYPES), None)
    if strange:
        raise UserError(
            f"layer {first[strange]!r} of {model.kind} holds numbers of {strange}: {', '.join(TYPES)} can be exported; "
            "build it with param_dtype=jax.numpy.float32"
        )
    if len(first) > 1:
        held = " and ".join(f"{name!r} holds {dtype}" for dtype, name in first.items())
        raise UserError(f"layers of {model.kind} differ in type ({held}): give all of them one to export it")


def places(model: Chain, tensors: Mapping[str, np.ndarray], opset: int = 0) -> Iterator[tuple[Step, Row, Place]]:
    """Every node of a network with its row, in order."""
    named, made = keras_names(node.name for node in model.nodes), dict[str, Any]()
    dtype = model.dtype  # once: it goes through all variables
    for position, step in enumerate(model.walk()):
        node, layer, shape = step.node, step.layer, step.inputs[0]
        own = own_tensors(node.layer, tensors)
        place = Place(node.name, layer, shape, own, step.output, node.layer, dtype, opset, named[node.name], made)
        yield step, row_of(position, node.name, layer, model.kind), place


def own_tensors(layer: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of a network's tensors, by the names "layer.tensor", that are a layer's own, by the names within it."""
    own = {key[len(layer) + 1 :]: value for key, value in tensors.items() if key.rpartition(".")[0] == layer}
    return own | ({"": tensors[layer]} if layer in tensors else {})  # the layer is itself a tensor
