"""Single layers of Keras to ours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from flax import nnx

from export._keras import import_keras
from export._place import Place, keras_crop, pair
from flaxvision.errors import UserError
from flaxvision.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
)

Shape = tuple[int, ...]  # of one example

# What a Keras layer's settings must be for ours to equal it, by kind, where they could be otherwise.
PLAIN: dict[str, Any] = {"data_format": "channels_last", "dilation_rate": (1, 1), "groups": 1, "output_padding": None}
PLAIN |= {"max_value": None, "threshold": 0, "noise_shape": None}
ALLOWED = "Dense, Conv2D, Conv2DTranspose, BatchNormalization, Dropout, Flatten, pools, activations"
# Our variables by Keras's names of its own.
KERNEL = {"kernel": "kernel", "bias": "bias"}
WEIGHTS: dict[type[nnx.Module], dict[str, str]] = dict.fromkeys((nnx.Linear, nnx.Conv, nnx.ConvTranspose), KERNEL)
WEIGHTS[BatchNorm] = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
POOLS: dict[str, type[MaxPool | AvgPool]] = {"MaxPooling2D": MaxPool, "AveragePooling2D": AvgPool}
GLOBAL_POOLS = {"GlobalMaxPooling2D": GlobalMaxPool, "GlobalAveragePooling2D": GlobalAvgPool}
FUNCTIONS = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu"}


def as_numpy(value: Any) -> np.ndarray:
    """A number, array or variable of Keras as numpy."""
    return np.asarray(import_keras().ops.convert_to_numpy(getattr(value, "value", value)))


def made_layer(name: str, kind: str, config: dict[str, Any], shape: Shape, pads: tuple | None) -> nnx.Module:
    """Our layer for one of Keras's, with placeholder parameters."""
    rngs = nnx.Rngs(0)
    if kind == "Dense":
        return nnx.Linear(math.prod(shape), config["units"], use_bias=config["use_bias"], rngs=rngs)
    if kind in ("Conv2D", "Conv2DTranspose"):
        sizes = (shape[-1], config["filters"], tuple(config["kernel_size"]), tuple(config["strides"]))
        settings = {"padding": pads or config["padding"].upper(), "use_bias": config["use_bias"], "rngs": rngs}
        if kind == "Conv2D":
            return nnx.Conv(*sizes, **settings)
        return nnx.ConvTranspose(*sizes, transpose_kernel=True, **settings)
    if kind == "BatchNormalization":
        return BatchNorm(shape[-1], config["momentum"], config["epsilon"])
    if kind == "Dropout":
        return Dropout(config["rate"])
    if kind == "Flatten" or (kind == "Reshape" and tuple(config["target_shape"]) in ((-1,), (math.prod(shape),))):
        return Flatten(channels_last=True)
    if kind in POOLS:
        window, strides = (pair(tuple(config[setting])) for setting in ("pool_size", "strides"))
        return POOLS[kind](window, strides, config["padding"].upper())
    if kind in GLOBAL_POOLS:
        return GLOBAL_POOLS[kind]()
    if kind in FUNCTIONS or kind == "Activation":
        return Activation(FUNCTIONS.get(kind) or function_of(name, config["activation"]))
    raise UserError(f"Keras layer {name!r} is a {kind}, which has no counterpart; allowed kinds: {ALLOWED}")


def cut(name: str, layer: Any, padding: str, crop: tuple) -> None:
    """Make a transposed convolution give what is left of it after Keras's cropping."""
    sizes = tuple(zip(layer.kernel_size, pair(layer.strides), crop, strict=True))
    explicit = tuple((k - 1 - low, k - 1 - high + max(s - k, 0)) for k, s, (low, high) in sizes)
    if padding != "VALID" or min(map(min, explicit)) < 0:
        raise UserError(
            f"the cropping after Keras layer {name!r} has no counterpart: only a 'valid' Conv2DTranspose takes it, "
            f"and no more than its kernel {layer.kernel_size}"
        )
    layer.padding = "SAME"  # where it is the same, since not every explicit padding can be exported
    if keras_crop(Place(name, layer, (), {})) != tuple(map(tuple, crop)):
        layer.padding = explicit


def check_plain(name: str, kind: str, config: dict[str, Any], shape: Shape, padded: bool) -> None:
    """Raise for settings of a Keras layer that ours has not, and for zero padding that it cannot take."""
    plain = dict(PLAIN)
    if kind in ("ReLU", "LeakyReLU"):
        plain["negative_slope"] = 0.01 if kind == "LeakyReLU" else 0
    if kind == "ELU":
        plain["alpha"] = 1
    if kind == "BatchNormalization":
        plain |= {"axis": -1, "center": True, "scale": True}
        config = config | {"axis": -1 if int(np.ravel(config["axis"])[0]) in (-1, len(shape)) else "other"}
    if kind == "Dense":
        config = config | {"an input of more than one axis": len(shape) > 1}
        plain["an input of more than one axis"] = False
    for setting, value in plain.items():
        given = config.get(setting, value)
        if (tuple(given) if isinstance(given, list) else given) != value:
            raise UserError(f"Keras layer {name!r} has {setting}={given!r}, which has no counterpart: give {value!r}")
    if padded and (kind != "Conv2D" or config["padding"] != "valid"):
        raise UserError(
            f"the zero padding before Keras layer {name!r} has no counterpart: only a 'valid' Conv2D takes it"
        )


def function_of(name: str, activation: Any) -> str:
    """Our name of a Keras layer's activation."""
    function = "identity" if activation == "linear" else activation
    if not isinstance(function, str) or function not in ACTIVATIONS or function == "leaky_relu":  # Keras's slope is 0.2
        allowed = [name for name in ACTIVATIONS if name not in ("leaky_relu", "identity")]
        raise UserError(f"Keras layer {name!r} has activation {activation!r}: allowed are {', '.join(allowed)}")
    return function
