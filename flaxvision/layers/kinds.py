"""The registry of layer kinds: for each, one record of all that the library knows about it.

A kind is added by its class and its `register(Kind(…))` beside it, or `register(light(…))` for one that makes no
products. The record says of every fact what it is; there is no default that could be wrong in silence. What other
frameworks make of a kind is in `export`, also in one record.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.errors import UserError, unknown
from flaxvision.layers.context import EVALUATION, Context, ContextLayer
from flaxvision.layers.initializers import zeros
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import Form, Policy

Shape = tuple[int, ...]  # of one example, (H, W, C) or (D,)
L = TypeVar("L", bound=nnx.Module)


class MisfitError(ValueError):
    """A layer does not fit the shapes that it is given; the message goes on after the layer's name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a layer: its name in a PyTorch `state_dict`, and the variable of ours with the same numbers."""

    torch: str  # "weight"
    ours: str  # "kernel"
    axes: tuple[int, ...] = ()  # PyTorch's axes among ours, as `transpose` takes them; () for the same order
    flipped: bool = False  # whether ours runs backwards along height and width

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our layout to PyTorch's."""
        array = array[::-1, ::-1] if self.flipped else array
        return array.transpose(self.axes) if self.axes else array

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's layout to ours."""
        array = array.transpose(tuple(int(i) for i in np.argsort(self.axes))) if self.axes else array
        return array[::-1, ::-1] if self.flipped else array


@dataclasses.dataclass(frozen=True, slots=True)
class Kind(Generic[L]):
    """What the library knows about a kind of layer."""

    layer: type[L]
    settings: tuple[str, ...]  # attributes from which `make` builds an equal layer again
    make: Callable[..., L]  # of the settings, with placeholder parameters
    shape: Callable[[L, Sequence[Shape]], Shape]  # the output's of the inputs'; raises `MisfitError`
    apply: Callable[[L, Sequence[Maps], Context], Maps]  # in the form and layout that are fastest
    tensors: Callable[[L], Sequence[Tensor]]  # those that it may have, in PyTorch's order
    multiply_adds: Callable[[L, Sequence[Shape], Shape], int]  # of one example, from the inputs' and output's shapes
    form: Callable[[L, Shape, jnp.dtype, Policy], tuple[Form | None, int]]  # of a convolution on a batch, see `no_form`
    inputs: int | None = 1  # how many values it takes; None for two or more


AnyKind = Kind[Any]  # of a layer of whichever class
KINDS: dict[type[nnx.Module], AnyKind] = {}


def register(kind: Kind[L]) -> Kind[L]:
    """Add a kind to the registry."""
    if any(kind.layer.__name__ == other.__name__ for other in KINDS):
        raise ValueError(f"two kinds are named {kind.layer.__name__}")
    KINDS[kind.layer] = kind
    return kind


def kind_of(layer: nnx.Module) -> AnyKind:
    """The record of a layer; a makeshift for one outside the vocabulary, which trains but cannot be exported."""
    return KINDS.get(type(layer)) or _foreign(type(layer))


# What many kinds have in common.


class MapsLayer(nnx.Module):
    """Base of the layers that take maps in any layout."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer to `x`, shape (B, ..., C)."""
        return self.on(Maps(x)).array

    def on(self, maps: Maps) -> Maps:
        """Apply the layer to maps in any layout."""
        raise NotImplementedError(type(self).__name__)


def on_maps(layer: MapsLayer, maps: Sequence[Maps], context: Context) -> Maps:
    """How a `MapsLayer` is applied."""
    return layer.on(maps[0])


def light(
    layer: type[L],
    settings: tuple[str, ...],
    shape: Callable[[L, Sequence[Shape]], Shape],
    apply: Callable[[L, Sequence[Maps], Context], Maps],
    tensors: Callable[[L], Sequence[Tensor]],
    *,
    make: Callable[..., L] | None = None,
    inputs: int | None = 1,
) -> Kind[L]:
    """The record of a kind without products to speak of, which so has neither forms nor multiply-adds."""
    return Kind(layer, settings, make or layer, shape, apply, tensors, no_products, no_form, inputs)


def same_shape(layer: nnx.Module, shapes: Sequence[Shape]) -> Shape:
    """The shape of what works value by value."""
    return shapes[0]


def no_tensors(layer: nnx.Module) -> Sequence[Tensor]:
    """The tensors of a layer without any."""
    return ()


def no_products(layer: nnx.Module, shapes: Sequence[Shape], output: Shape) -> int:
    """The multiply-adds of what has none to speak of."""
    return 0


def no_form(layer: nnx.Module, shape: Shape, dtype: jnp.dtype, policy: Policy) -> tuple[Form | None, int]:
    """The form of what is not a convolution; of one, the form for inputs (N, H, W, C) and the bytes of its patches."""
    return None, 0


def one_or_each(count: int, of: str, shape: Shape) -> Shape:
    """The shape, or the error that a layer has neither one number nor one for each of its channels."""
    if count not in (1, shape[-1]):
        raise MisfitError(f"has {count} {of} for {shape[-1]} channels: give 1 or as many")
    return shape


def as_map(shape: Shape) -> tuple[int, int, int]:
    """A shape as a map's, or the error that it is not one."""
    if len(shape) != 3:
        raise MisfitError("needs a map (H, W, C)")
    return shape[0], shape[1], shape[2]


def non_empty(before: Shape, after: Shape) -> Shape:
    """The shape `after`, or the error that nothing would be left."""
    if min(after) < 1:
        raise MisfitError(f"would turn a map of {before} into {after}; use larger images or a smaller network")
    return after


def placeholders(layer: Callable[..., L]) -> Callable[..., L]:
    """A layer of Flax's with zeros for parameters: drawing would compile a program for every shape."""
    return lambda **settings: layer(**settings, rngs=nnx.Rngs(0), kernel_init=zeros, bias_init=zeros)


# Layers outside the vocabulary.


@functools.cache
def _foreign(cls: type[nnx.Module]) -> AnyKind:
    """How a user's own layer is taken: with the batch first, its shape by tracing it, its form unknown."""

    def call(layer: Callable[[jax.Array], jax.Array], x: jax.Array, context: Context) -> jax.Array:
        return layer(x, context) if isinstance(layer, ContextLayer) else layer(x)

    def shape(layer: nnx.Module, shapes: Sequence[Shape]) -> Shape:
        graphdef, state = nnx.split(layer)
        leaves = jax.tree.leaves(nnx.state(layer, nnx.Param))
        example = jax.ShapeDtypeStruct((1, *shapes[0]), leaves[0].dtype if leaves else jnp.float32)
        traced = jax.eval_shape(lambda state, x: call(nnx.merge(graphdef, state), x, EVALUATION), state, example)
        return tuple(traced.shape[1:])

    def apply(layer: Callable[[jax.Array], jax.Array], maps: Sequence[Maps], context: Context) -> Maps:
        return Maps(call(layer, maps[0].first(), context))

    return Kind(cls, (), cls, shape, apply, no_tensors, no_products, lambda *_: (Form.NATIVE, 0))


# Layers as plain data.

# Settings that are described where they are not these: without one, another network would be built.
PLAIN: dict[str, object] = {
    "kernel_dilation": 1,
    "input_dilation": 1,
    "feature_group_count": 1,
    "number": None,
    "count_include_pad": False,
    "channels_last": False,
    "affine": True,
    "use_bias": True,
    "batches": 0,
    "align_corners": False,
}


def describe(name: str, layer: nnx.Module) -> dict[str, Any]:
    """The layer as plain data: its name, kind and settings.

    Raises:
        UserError: If the layer is of a kind outside the vocabulary.
    """
    if type(layer) not in KINDS:
        raise UserError(f"layer {name!r} {outside(layer, KINDS, 'saved')}")
    if getattr(layer, "mask", None) is not None:
        raise UserError(f"layer {name!r} sets mask: it cannot be saved; multiply the kernel by it instead")
    settings = {field: _plain(getattr(layer, field)) for field in KINDS[type(layer)].settings}
    given = {field: _plain(getattr(layer, field, plain)) for field, plain in PLAIN.items()}
    settings |= {field: value for field, value in given.items() if np.any(np.asarray(value) != PLAIN[field])}
    return {"name": name, "kind": type(layer).__name__, **settings}


def outside(layer: object, kinds: Iterable[type[nnx.Module]], what: str) -> str:
    """That a layer of none of the `kinds` cannot be `what`; with its package where its name is one of theirs."""
    named = {kind.__name__: kind for kind in kinds}
    own = type(layer)
    is_a = f"is a {own.__name__}"
    if own.__name__ in named:
        is_a = f"is {_whole(own)}, not {_whole(named[own.__name__])}"
    return f"{is_a}, which cannot be {what}; allowed kinds: {', '.join(named)}"


def _whole(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(value: object) -> object:
    """A setting as JSON holds it: tuples for sequences, Python's numbers for numpy's."""
    if isinstance(value, (tuple, list, np.ndarray)):
        return tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def build(description: Mapping[str, object]) -> tuple[str, nnx.Module]:
    """The (name, layer) pair of a description made by `describe`, with placeholder parameters."""
    settings = {field: _plain(value) for field, value in description.items()}
    name, kind = str(settings.pop("name")), settings.pop("kind")
    by_name = {layer.__name__: known for layer, known in KINDS.items()}
    if kind not in by_name:
        raise unknown("layer kind", kind, by_name)
    return name, by_name[kind].make(**settings)
