"""Models to Keras 3, channels last: kernels keep their layout."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from export._layers import check_layers, places
from export._place import KERAS_INPUT, keras_names
from flaxvision.errors import UserError
from flaxvision.layers import (
    BatchNorm,
    Chain,
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


def to_keras(model: Chain, path: str | Path | None = None) -> keras.Model:
    """A Keras model with the same weights, that gives the same outputs; takes and gives NHWC.

    Layers have the chain's names with "_" for "." and "/"; where two would be one, the later has a number at its end.

    Args:
        model: The model.
        path: Where to write it as well, a `.keras` file; None does not.

    Raises:
        UserError: If Keras is missing, a layer cannot be exported, or the path cannot be written.
    """
    keras = import_keras()
    check_layers(model)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(str(model.dtype))
    try:
        inputs = x = keras.Input(model.input_shape, dtype=str(model.dtype), name=KERAS_INPUT)
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


def import_keras() -> Any:
    """Keras on JAX, or the `UserError` that says how to install it."""
    # Keras takes TensorFlow unless told otherwise, before its first import.
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise UserError("this needs Keras 3: pip install 'flaxvision[keras]'") from error
    return keras
