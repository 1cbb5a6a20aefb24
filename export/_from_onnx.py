"""Our own ONNX files back into models."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from export._onnx import DESCRIPTION
from export._tensors import correspondence
from flaxvision.errors import UserError
from flaxvision.layers import Chain
from flaxvision.models.files import build_model


def from_onnx(path: str | Path) -> Chain:
    """The model of a file that `to_onnx` wrote, whatever its options; a folded BatchNorm stays folded.

    Dropout comes back with rate 0: an evaluation-mode graph does not hold it.

    Raises:
        UserError: If the file is missing, is no ONNX file, or was not written by `to_onnx`.
    """
    try:
        proto = onnx.load(path)
    except FileNotFoundError as error:
        raise UserError(f"no ONNX file {path}: give a file that export.to_onnx wrote") from error
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} is no ONNX file ({error}): give a file that export.to_onnx wrote") from error
    about = {entry.key: entry.value for entry in proto.metadata_props}
    if DESCRIPTION not in about:
        raise UserError(f"{path} was not written by export.to_onnx: it has no {DESCRIPTION} in its metadata")
    model = build_model(json.loads(about[DESCRIPTION]))
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for tensor in correspondence(model):
        if tensor.name not in given:
            raise UserError(f"{path} does not fit its own description: {tensor.name} is missing")
        found[tensor.variable] = tensor.from_torch(given[tensor.name])
    names = model.parameter_names()
    for key, variable in nnx.to_flat_state(nnx.state(model)):
        if names[key] in found:
            variable.set_value(jnp.asarray(found[names[key]]))  # which may be float64
    return model
