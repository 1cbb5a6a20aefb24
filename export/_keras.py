"""Models to Keras 3 and back, channels last: kernels keep their layout."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from export._layers import check_layers, places
from export._place import KERAS_INPUT, Place, keras_crop, keras_names, pair
from flaxvision.errors import UserError
from flaxvision.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
)
from flaxvision.models.files import variables

if TYPE_CHECKING:
    import keras

# Our variables in the order of a Keras layer's weights.
WEIGHTS = {
    nnx.Linear: ("kernel", "bias"),
    nnx.Conv: ("kernel", "bias"),
    nnx.ConvTranspose: ("kernel", "bias"),
    BatchNorm: ("scale", "bias", "mean", "var"),
}

# What a Keras layer's settings must be for ours to equal it, by kind, where they could be otherwise.
PLAIN: dict[str, Any] = {"data_format": "channels_last", "dilation_rate": (1, 1), "groups": 1, "output_padding": None}
PLAIN |= {"max_value": None, "threshold": 0}


def to_keras(model: Chain, path: str | Path | None = None) -> keras.Model:
    """A Keras model with the same weights, that gives the same outputs; takes and gives NHWC.

    Layers have the chain's names with "_" for "." and "/"; where two would be one, the later has a number at its end.

    Args:
        model: The model.
        path: Where to write it as well, a `.keras` file; None does not.

    Raises:
        UserError: If Keras is missing, a layer cannot be exported, or the path cannot be written.
    """
    keras = _import_keras()
    check_layers(model)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(str(model.dtype))
    try:
        inputs = x = keras.Input(model.input_shape, name=KERAS_INPUT)
        for row, place in places(model, {}):
            x = row.keras(place, x)
    finally:
        keras.config.set_dtype_policy(policy)
    twin = keras.Model(inputs, x, name=re.sub(r"[:./]", "_", model.kind))
    names = keras_names(model.names)
    ours = variables(model)
    for name, layer in model.named_layers():
        if type(layer) in WEIGHTS:
            kernel_first = [ours[f"{name}.{part}"] for part in WEIGHTS[type(layer)] if f"{name}.{part}" in ours]
            twin.get_layer(names[name]).set_weights([_keras_kernel(layer, array) for array in kernel_first])
    if path is not None:
        _save(twin, Path(path))
    return twin


def from_keras(source: str | Path | keras.Model) -> Chain:
    """The chain of a Keras model whose layers stand one after the other, with its weights.

    Args:
        source: A `.keras` file or a model: Dense, Conv2D, Conv2DTranspose, BatchNormalization, Dropout, Flatten,
            pools, activations, zero padding before a Conv2D and cropping after a Conv2DTranspose, channels last. Bare
            operations are not taken, and so not what `to_keras` makes of a PolarTransform.

    Returns:
        The model; layers are named as in Keras, where "conv.0" is "conv_0". A Keras file knows nothing of pixel scaling
        and class names: set `preprocess` and `classes` where they matter.

    Raises:
        UserError: If Keras is missing, the file is no Keras file, or a layer has no counterpart; it is named.
    """
    keras = _import_keras()
    twin: Any = _load(Path(source)) if isinstance(source, (str, os.PathLike)) else source
    layers: list[tuple[str, nnx.Module]] = []
    pads: tuple | None = None
    before: Any = None
    start = 0  # of what the layer before became
    for layer in _operations(twin):
        if isinstance(layer, keras.layers.InputLayer):
            before = layer
            continue
        if before is not None and layer.input is not before.output:
            raise UserError(
                f"Keras layer {layer.name!r} does not stand right after {before.name!r}: give a plain chain"
            )
        previous, before = before, layer
        if isinstance(layer, keras.layers.ZeroPadding2D):
            pads = layer.padding
        elif isinstance(layer, keras.layers.Cropping2D) and isinstance(previous, keras.layers.Conv2DTranspose):
            layers[start:] = _ours(previous, None, layer.cropping)
        else:
            start = len(layers)
            layers += _ours(layer, pads)
            pads = None
    chain = Chain(layers, input_shape=tuple(int(size) for size in twin.input_shape[1:]), kind=twin.name)
    return chain


def _operations(twin: Any) -> list[Any]:
    """Layers and bare operations, in order."""
    if isinstance(twin, _import_keras().Sequential):
        return list(twin.layers)
    return list(getattr(twin, "operations", twin.layers))


def _ours(layer: Any, pads: tuple | None, crop: tuple | None = None) -> list[tuple[str, nnx.Module]]:
    kind, name = type(layer).__name__, layer.name
    if not isinstance(layer, _import_keras().Layer):
        raise UserError(f"the Keras operation {name!r} has no counterpart: give a chain of layers")
    config, rngs = layer.get_config(), nnx.Rngs(0)
    _check_plain(layer, config, pads)
    weights = [np.asarray(_import_keras().ops.convert_to_numpy(weight.value)) for weight in layer.weights]
    made: nnx.Module
    if kind == "Dense":
        made = nnx.Linear(*weights[0].shape, use_bias=config["use_bias"], rngs=rngs)
    elif kind in ("Conv2D", "Conv2DTranspose"):
        size, strides = tuple(config["kernel_size"]), tuple(config["strides"])
        padding: Any = pads or config["padding"].upper()
        if kind == "Conv2D":
            inputs, outputs = weights[0].shape[2:]
            made = nnx.Conv(inputs, outputs, size, strides, padding=padding, use_bias=config["use_bias"], rngs=rngs)
        else:
            outputs, inputs = weights[0].shape[2:]
            made = nnx.ConvTranspose(
                inputs,
                outputs,
                size,
                strides,
                padding=padding,
                use_bias=config["use_bias"],
                transpose_kernel=True,
                rngs=rngs,
            )
            if crop is not None:
                _cut(name, made, padding, crop)
    elif kind == "BatchNormalization":
        made = BatchNorm(len(weights[0]), config["momentum"], config["epsilon"])
    elif kind == "Dropout":
        made = Dropout(config["rate"])
    elif kind == "Flatten":
        made = Flatten()
    elif kind in ("MaxPooling2D", "AveragePooling2D"):
        pool = MaxPool if kind == "MaxPooling2D" else AvgPool
        made = pool(pair(tuple(config["pool_size"])), pair(tuple(config["strides"])), config["padding"].upper())
    elif kind in ("GlobalMaxPooling2D", "GlobalAveragePooling2D"):
        made = GlobalMaxPool() if kind == "GlobalMaxPooling2D" else GlobalAvgPool()
    elif kind in ("Activation", "ReLU", "LeakyReLU"):
        made = Activation(
            {"ReLU": "relu", "LeakyReLU": "leaky_relu"}.get(kind) or _function(name, config["activation"])
        )
    else:
        allowed = "Dense, Conv2D, Conv2DTranspose, BatchNormalization, Dropout, Flatten, pools, activations"
        raise UserError(f"Keras layer {name!r} is a {kind}, which has no counterpart; allowed kinds: {allowed}")
    for part, array in zip(WEIGHTS.get(type(made), ()), weights, strict=False):
        getattr(made, part)[...] = jnp.asarray(array)
    after = config.get("activation") if kind in ("Dense", "Conv2D", "Conv2DTranspose") else None
    extra = [] if after in (None, "linear") else [(f"{name}_{after}", Activation(_function(name, after)))]
    squeeze = kind.startswith("Global") and not config["keepdims"]
    return [(name, made), *extra, *([(f"{name}_flatten", Flatten())] if squeeze else [])]


def _cut(name: str, layer: Any, padding: str, crop: tuple) -> None:
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


def _check_plain(layer: Any, config: dict[str, Any], pads: tuple | None) -> None:
    kind, name = type(layer).__name__, layer.name
    plain = dict(PLAIN)
    if kind in ("ReLU", "LeakyReLU"):
        plain["negative_slope"] = 0.01 if kind == "LeakyReLU" else 0
    if kind == "BatchNormalization":
        plain |= {"axis": -1, "center": True, "scale": True}
        config = config | {"axis": -1 if int(np.ravel(config["axis"])[0]) in (-1, layer.input.ndim - 1) else "other"}
    if kind == "Dense":
        config = config | {"an input of more than one axis": layer.input.ndim > 2}
        plain["an input of more than one axis"] = False
    for setting, value in plain.items():
        given = config.get(setting, value)
        if (tuple(given) if isinstance(given, list) else given) != value:
            raise UserError(f"Keras layer {name!r} has {setting}={given!r}, which has no counterpart: give {value!r}")
    if pads and (kind != "Conv2D" or config["padding"] != "valid"):
        raise UserError(
            f"the zero padding before Keras layer {name!r} has no counterpart: only a 'valid' Conv2D takes it"
        )


def _function(name: str, activation: Any) -> str:
    function = "identity" if activation == "linear" else activation
    if function not in ACTIVATIONS or function == "leaky_relu":  # Keras's slope is 0.2, as a layer it can be set
        raise UserError(f"Keras layer {name!r} has activation {activation!r}: allowed are {', '.join(ACTIVATIONS)}")
    return function


def _keras_kernel(layer: Any, array: np.ndarray) -> np.ndarray:
    if isinstance(layer, nnx.ConvTranspose) and not layer.transpose_kernel and array.ndim == 4:
        return array[::-1, ::-1].transpose(0, 1, 3, 2)
    return array


def _save(twin: Any, path: Path) -> None:
    if path.suffix != ".keras":
        raise UserError(f"{path} does not end in .keras: give a path that does")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Keras's own, under NumPy 2
                twin.save(whole)
            os.replace(whole, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give a path in a folder that you can write") from error


def _load(path: Path) -> Any:
    keras = _import_keras()
    if not path.is_file():
        raise UserError(f"no Keras file {path}: give a .keras file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as in _save
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever zip, json, h5py or Keras raise for a damaged or foreign file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no Keras file that can be loaded ({reason})") from error


def _import_keras() -> Any:
    # Keras takes TensorFlow unless told otherwise, before its first import.
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise UserError("this needs Keras 3: pip install 'flaxvision[keras]'") from error
    return keras
