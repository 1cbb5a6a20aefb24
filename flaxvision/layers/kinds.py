"""The layer vocabulary: for each kind, the settings from which an equal layer can be built again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flax import nnx

from flaxvision.errors import UserError, unknown
from flaxvision.layers.basic import Activation, Flatten, PolarTransform
from flaxvision.layers.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from flaxvision.layers.stochastic import BatchNorm, Dropout

_CONV = ("in_features", "out_features", "kernel_size", "strides", "padding", "use_bias")
KINDS: dict[type[nnx.Module], tuple[str, ...]] = {
    nnx.Linear: ("in_features", "out_features", "use_bias"),
    nnx.Conv: _CONV,
    nnx.ConvTranspose: (*_CONV, "transpose_kernel"),
    BatchNorm: ("num_features", "momentum", "epsilon"),
    Dropout: (),  # the rate is in the state
    Activation: ("function",),
    Flatten: (),
    PolarTransform: (),
    MaxPool: ("window", "strides", "padding"),
    AvgPool: ("window", "strides", "padding"),
    GlobalMaxPool: (),
    GlobalAvgPool: (),
}

# Settings of Flax that are described where they are not these: without one, another network would be built.
PLAIN: dict[str, Any] = {"kernel_dilation": 1, "input_dilation": 1, "feature_group_count": 1}


def describe(name: str, layer: nnx.Module) -> dict[str, Any]:
    """The layer as plain data: its name, kind and settings.

    Raises:
        UserError: If the layer is of a kind outside the vocabulary.
    """
    if type(layer) not in KINDS:
        raise UserError(f"layer {name!r} {outside(layer, KINDS, 'saved')}")
    if getattr(layer, "mask", None) is not None:
        raise UserError(f"layer {name!r} sets mask: it cannot be saved; multiply the kernel by it instead")
    settings = {field: _plain(getattr(layer, field)) for field in KINDS[type(layer)]}
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


def _plain(value: Any) -> Any:
    """A setting as JSON holds it: tuples for sequences, Python's numbers for numpy's."""
    if isinstance(value, (tuple, list, np.ndarray)):
        return tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def build(description: dict[str, Any]) -> tuple[str, nnx.Module]:
    """The (name, layer) pair of a description made by `describe`, with parameters of no meaning."""
    settings: dict[str, Any] = {field: _plain(value) for field, value in description.items()}
    name, kind = settings.pop("name"), settings.pop("kind")
    by_name = {cls.__name__: cls for cls in KINDS}
    if kind not in by_name:
        raise unknown("layer kind", kind, by_name)
    cls = by_name[kind]
    if cls is Dropout:
        settings["rate"] = 0.0
    if cls in (nnx.Linear, nnx.Conv, nnx.ConvTranspose):
        zeros = nnx.initializers.zeros_init()  # drawing would compile a program for every shape
        settings |= {"rngs": nnx.Rngs(0), "kernel_init": zeros, "bias_init": zeros}
    return name, cls(**settings)
