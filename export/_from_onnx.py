"""Our own ONNX files back into models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from export._onnx_about import DESCRIPTION
from flaxvision.errors import UserError
from flaxvision.layers import Carried, Chain
from flaxvision.models._state_dict import correspondence, state_dict
from flaxvision.models.files import assign, build_model, variables


def from_onnx(path: str | Path) -> Chain:
    """The model of a file that `to_onnx` wrote, whatever its options; a folded BatchNorm stays folded.

    Dropout comes back with rate 0: an evaluation-mode graph does not hold it. Weights keep their type; float64 ones
    become float32 where JAX has no 64-bit mode, and that is said.

    Raises:
        UserError: If the file is missing, is not an ONNX file, was not written by `to_onnx`, is damaged, or weights
            that lie beside it are gone.

    >>> import export, flaxvision as fv
    >>> path = export.to_onnx(fv.models.create("linear", num_classes=3), "three.onnx")
    >>> export.from_onnx(path).output_shape
    (3,)
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise UserError(f"no ONNX file {path}: give a file that export.to_onnx wrote") from error
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} is not an ONNX file ({error}): give a file that export.to_onnx wrote") from error
    about = {entry.key: entry.value for entry in proto.metadata_props}
    if DESCRIPTION not in about:
        raise UserError(f"{path} was not written by export.to_onnx: it has no {DESCRIPTION} in its metadata")
    try:
        description = json.loads(about[DESCRIPTION])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {DESCRIPTION} in its metadata is not valid JSON ({error})") from error
    model = build_model(description, str(path))
    given = _numbers(Path(path), proto)
    carried = {
        name for name, layer in model.named_layers() if isinstance(layer, Carried)
    }  # which a graph has no use for
    wanted = {name: array.shape for name, array in state_dict(model).items() if name not in carried}
    for name, shape in wanted.items():  # one number per channel has axes of 1 in the graph
        if name in given and _wide(given[name].shape) == _wide(shape):
            given[name] = given[name].reshape(shape)
    wrong = [f"{name} is missing" for name in wanted if name not in given]
    wrong += [
        f"{name} has shape {given[name].shape}, not {shape}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    if wrong:
        few = "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise UserError(f"{path} does not fit its own description: {few}; export the model again")
    ours = variables(model)
    pairs = [pair for pair in correspondence(model) if pair.name not in carried]
    found = {pair.variable: pair.from_torch(given[pair.name], ours[pair.variable].shape) for pair in pairs}
    assign(model, ours | found, str(path), keep_types=True)
    return model


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _numbers(path: Path, proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The initializers by name, also those that lie beside the file."""
    try:
        return {tensor.name: numpy_helper.to_array(tensor, str(path.parent)) for tensor in proto.graph.initializer}
    except (onnx.checker.ValidationError, OSError, ValueError, TypeError, RuntimeError) as error:
        beside = {entry.value for t in proto.graph.initializer for entry in t.external_data if entry.key == "location"}
        if not beside:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is damaged ({reason}): export the model again") from error
        raise UserError(
            f"{path} keeps its weights beside it, in {', '.join(sorted(beside))}, which cannot be read: put that into "
            "the same folder, or export the model again"
        ) from error
