"""Weights files: safetensors with the variables by name, and the network's description in the metadata."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision._files import weights_in, write_atomically
from flaxvision._text import visible
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Flatten, Node, Preprocess, TorchModule, TorchTensor
from flaxvision.layers.context import matches
from flaxvision.layers.kinds import build, describe
from flaxvision.models._flattened import flatten_as_pytorch
from flaxvision.ops.arrays import at_most, from_numpy

FORMAT = "flaxvision-2"
FIRST_FORMAT = "flaxvision-1"  # flattened (row, column, channel)
SPARE = 2**22  # numbers that a described network may have beyond those of its file, which leaves out what it can
LARGEST_SIDE = 2**24  # of an example
_LOG = logging.getLogger("flaxvision")


def save_model(model: Chain, path: str | Path, **notes: Any) -> Path:
    """Write a model's variables, layers, preprocessing and classes to one safetensors file, atomically.

    Args:
        model: The model.
        path: Where to write; an existing file is replaced.
        **notes: Anything else worth keeping, as JSON values; `load_model(...)` does not read it.

    Raises:
        UserError: If a layer is outside the vocabulary, or the path cannot be written.
    """
    return write_atomically(path, packed(model, notes))


def packed(model: Chain, notes: Mapping[str, Any]) -> bytes:
    """What `save_model` writes."""
    from safetensors.numpy import save

    # One entry, since safetensors orders several at random: equal models give equal bytes.
    about = {"model": describe_model(model), "notes": notes}
    return save(variables(model), metadata={FORMAT: json.dumps(about)})


def load_model(path: str | Path) -> Chain:
    """The model of a file that `save_model` wrote, or the winner of a run directory: layers, numbers, preprocessing.

    Variables keep the type that they have in the file; float64 ones become float32 where JAX has no 64-bit mode, and
    that is said.

    Args:
        path: The file, or the run directory.

    Raises:
        UserError: If the file is missing, is of another kind, or its tensors do not fit its layers.

    >>> import flaxvision as fv
    >>> path = fv.save_model(fv.models.create("linear", num_classes=3), "three.safetensors")
    >>> fv.load_model(path).output_shape
    (3,)
    """
    return load_noted(path, keep_types=True)[0]


def load_noted(path: str | Path, *, keep_types: bool = False) -> tuple[Chain, dict[str, Any]]:
    """The same, and what was noted with it; types are those of new variables unless they are to be kept."""
    tensors, about = read(path)
    model = build_model(about["model"], str(path), numbers_in(tensors))
    assign(model, tensors, str(path), keep_types=keep_types)
    return model, about["notes"]


def describe_model(model: Chain) -> dict[str, Any]:
    """All of a model but its numbers, as plain data.

    Raises:
        UserError: If a layer is outside the vocabulary.
    """
    return {
        "kind": model.kind,
        "input_shape": model.input_shape,
        "layers": [describe(name, layer) for name, layer in model.named_layers()],
        **({} if model.is_chain else {"nodes": [dataclasses.asdict(node) for node in model.nodes]}),
        "preprocess": {"scale": model.preprocess.scale, "offset": model.preprocess.offset},
        "classes": model.classes,
        **({} if model.torch is None else {"torch": dataclasses.asdict(model.torch)}),
    }


def numbers_in(tensors: Mapping[str, np.ndarray]) -> int:
    """How many numbers a file holds."""
    return sum(tensor.size for tensor in tensors.values())


def build_model(description: Any, source: str, numbers: int) -> Chain:
    """The model that `describe_model` described, with placeholder parameters.

    Whatever is read back comes through here: it is checked, and layers are not made of more numbers than `source`
    holds, but for a few million that a file need not hold.

    Raises:
        UserError: If that is not such a description, or one of a later version; `source` is named.
    """
    try:
        with at_most(numbers + SPARE):
            model = _built(description)
        for _ in model.walk():  # its layers fit each other
            pass
    except Exception as error:  # whatever the layers make of other settings
        reason = str(error) if isinstance(error, (UserError, ValueError, TypeError)) else _named(error)
        raise UserError(
            f"{source} describes a network that this version of flaxvision cannot build "
            f"({' '.join(reason.split())[:200]}): it is damaged, or a later version wrote it"
        ) from error
    return model


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _built(description: Any) -> Chain:
    layers, shape, kind, classes = (description[key] for key in ("layers", "input_shape", "kind", "classes"))
    if not isinstance(kind, str) or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("its kind and classes are no text")
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < LARGEST_SIDE for side in shape):
        raise TypeError(f"its input_shape is {shape}")
    model = Chain(
        [build(layer) for layer in layers],
        input_shape=tuple(shape),
        kind=visible(kind),
        nodes=[Node(node["name"], node["layer"], tuple(node["takes"])) for node in description["nodes"]]
        if "nodes" in description
        else None,
    )
    model.preprocess = Preprocess(**description["preprocess"])
    model.classes = tuple(map(visible, classes))
    model.torch = _torch_module(description["torch"]) if "torch" in description else None
    return model


def _torch_module(description: dict[str, Any]) -> TorchModule:
    tensors = (TorchTensor(**{**each, "shape": tuple(each["shape"])}) for each in description["tensors"])
    return TorchModule(tuple(tensors), description["ending"], tuple(description.get("frozen", ())))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a weights file or a run's winner, and its "model" (see `describe_model`) and "notes".

    Raises:
        UserError: If the file is missing, or `save_model` did not write it.
    """
    from safetensors import SafetensorError, safe_open

    path = weights_in(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as error:
        raise UserError(f"no weights file {path}: give a file that flaxvision.save_model wrote") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a weights file ({error}): give one that flaxvision.save_model wrote") from error
    known = next((name for name in (FORMAT, FIRST_FORMAT) if name in metadata), None)
    if known is None:
        raise UserError(f"{path} was not written by flaxvision.save_model: it has no {FORMAT} metadata")
    try:
        about = json.loads(metadata[known])
        if known == FIRST_FORMAT:
            model = build_model(about["model"], str(path), numbers_in(tensors))
            for layer in model.layers:
                if isinstance(layer, Flatten):
                    layer.channels_last = True
            tensors = flatten_as_pytorch(model, tensors)
            about["model"] = json.loads(json.dumps(describe_model(model)))
        return tensors, {"model": about["model"], "notes": about["notes"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: its {FORMAT} metadata cannot be read; save the model again") from error


def variables(model: Chain) -> dict[str, np.ndarray]:
    """Every variable of a model as numpy, by the name "layer.variable"."""
    return {name: np.asarray(variable[...]) for name, variable in _by_name(model).items()}


def _by_name(model: Chain) -> dict[str, nnx.Variable]:
    names = model.parameter_names()
    return {names[path]: variable for path, variable in nnx.to_flat_state(nnx.state(model))}


def assign(
    model: Chain, tensors: dict[str, np.ndarray], source: str, only: tuple[str, ...] = (), *, keep_types: bool = False
) -> None:
    """Set a model's variables from `tensors`, all of them or those under the name prefixes `only`.

    With `keep_types` a variable takes the type of its tensor, and it is said where JAX cannot hold that.

    Raises:
        UserError: If a variable is missing, has another shape, or (without `only`) a tensor is left over; all
            mismatches are named together and nothing is changed.
    """
    wanted = {name: value for name, value in _by_name(model).items() if not only or matches(name, only)}
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [
        f"{name} has shape {tensors[name].shape}, not {variable[...].shape}"
        for name, variable in wanted.items()
        if name in tensors and tensors[name].shape != variable[...].shape
    ]
    if not only:
        wrong += [f"{name} is not in the model" for name in tensors if name not in wanted]
    elif not wanted:
        wrong.append(f"no variable of {model.kind} lies under {', '.join(only)}")
    if wrong:
        raise UserError(f"{source} does not fit {model.kind}: {'; '.join(wrong)}")
    for name, variable in wanted.items():
        if not keep_types:
            variable[...] = jnp.asarray(tensors[name], variable[...].dtype)
        else:
            variable.set_value(from_numpy(tensors[name]))
    narrowed = keep_types and any(tensors[name].dtype == np.float64 for name in wanted)
    if narrowed and not jax.config.read("jax_enable_x64"):
        words = "%s holds float64 numbers, read as float32: set the environment variable JAX_ENABLE_X64=1 to keep them"
        _LOG.warning(words, source)
