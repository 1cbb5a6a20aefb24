"""The layer vocabulary: for each kind, the settings from which an equal layer can be built again."""

from __future__ import annotations

from typing import Any

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


def describe(name: str, layer: nnx.Module) -> dict[str, Any]:
    """The layer as plain data: its name, kind and settings.

    Raises:
        UserError: If the layer is of a kind outside the vocabulary.
    """
    if type(layer) not in KINDS:
        allowed = ", ".join(kind.__name__ for kind in KINDS)
        raise UserError(f"layer {name!r} is a {type(layer).__name__}, which cannot be saved; allowed kinds: {allowed}")
    return {
        "name": name,
        "kind": type(layer).__name__,
        **{field: getattr(layer, field) for field in KINDS[type(layer)]},
    }


def build(description: dict[str, Any]) -> tuple[str, nnx.Module]:
    """The (name, layer) pair of a description made by `describe`, with parameters of no meaning."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items()}
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
    if isinstance(settings.get("padding"), tuple):
        settings["padding"] = tuple(tuple(pair) for pair in settings["padding"])
    return name, cls(**settings)
