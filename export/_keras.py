"""Models to Keras 3, channels last: kernels keep their layout."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export._layers import check_layers, check_pixels, places
from export._place import KERAS_INPUT
from export._rows import ROWS, own_tensors
from flaxvision.errors import UserError
from flaxvision.layers import Chain
from flaxvision.layers.kinds import MisfitError
from flaxvision.models._ending import with_ending
from flaxvision.models.files import variables
from flaxvision.models.keras_reader.load import import_keras

if TYPE_CHECKING:
    import keras


def to_keras(model: Chain, path: str | Path | None = None, *, normalize: bool = False) -> keras.Model:
    """A Keras model with the same weights, that gives the same outputs; takes and gives NHWC.

    Layers have the chain's names with "_" for "." and "/"; where two would be one, the later has a number at its end.

    Args:
        model: The model.
        path: Where to write it as well, a `.keras` file; None does not.
        normalize: Take pixels as they are stored, 0 to 255, and scale them by `model.preprocess`, a Rescaling layer.
            Not for points.

    Raises:
        UserError: If Keras is missing, a layer cannot be exported, the path cannot be written; for `normalize` on a
            model of points.

    >>> import export, flaxvision as fv
    >>> export.to_keras(fv.models.create("linear", num_classes=3)).output_shape
    (None, 3)
    """
    keras = import_keras()
    check_layers(model)
    model = with_ending(model)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(str(model.dtype))
    try:
        inputs = x = keras.Input(model.input_shape, dtype=str(model.dtype), name=KERAS_INPUT)
        if normalize:
            check_pixels(model)
            numbers = {name: np.asarray(value).tolist() for name, value in asdict(model.preprocess).items()}
            x = keras.layers.Rescaling(**numbers)(x)
        values: dict[str | None, Any] = {None: x}
        made: dict[str, Any] = {}
        for step, row, place in places(model, {}):
            try:
                x = values[step.node.name] = row.keras(place, [values[name] for name in step.node.takes])
            except MisfitError as error:
                raise UserError(f"layer {place.name!r} {error}") from error
            made |= place.keras_layers
    finally:
        keras.config.set_dtype_policy(policy)
    twin = keras.Model(inputs, x, name=re.sub(r"[:./]", "_", model.kind))
    ours = variables(model)
    for name, layer in model.named_layers():
        if weights := ROWS[type(layer)].weights(layer, own_tensors(name, ours)):
            theirs = made[name]
            theirs.set_weights([a.reshape(w.shape) for a, w in zip(weights, theirs.weights, strict=True)])
    if path is not None:
        _save(twin, Path(path))
    return twin


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
