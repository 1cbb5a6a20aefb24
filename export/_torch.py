"""Models to PyTorch and back: runnable modules, `state_dict` files, weights from elsewhere."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from export._layers import check_layers, places
from export._tensors import correspondence, final_order, state_dict
from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Chain
from flaxvision.layers.context import matches

# Turns a file with a pickled module, or with a state_dict beside other objects, into one with the state_dict alone.
CONVERT = (
    'python -c "import sys, torch; m = torch.load(sys.argv[1], weights_only=False); '
    "m = m.get('model', m) if isinstance(m, dict) else m; "
    "torch.save(getattr(m, 'state_dict', lambda: m)(), sys.argv[2])\""
)
COUNTER = "num_batches_tracked"  # BatchNorm's own count: written for PyTorch, ignored when read


def to_torch(model: Chain) -> Any:
    """A runnable `torch.nn.Module` with the model's weights, in evaluation mode; takes and gives NCHW.

    Its modules carry the chain's names, so that its `state_dict` is that of the hand-written reference.

    Raises:
        UserError: If PyTorch is missing, or a layer cannot be exported.
    """
    torch = _import_torch()
    from export._torch_layers import ChainModule

    check_layers(model)
    order = final_order(model)
    chain = ChainModule(
        [(place.name, row.torch(place)) for row, place in places(model, {})],
        None if order is None else [int(i) for i in np.argsort(order)],
    )
    tensors = {name: torch.tensor(value) for name, value in _torch_state(model).items()}
    chain.to(getattr(torch, str(model.dtype)))
    chain.load_state_dict(tensors, strict=True)
    return chain.eval()


def save_torch(model: Chain, path: str | Path) -> Path:
    """Write the model's PyTorch `state_dict` as a .safetensors file, atomically; PyTorch itself is not needed.

    Raises:
        UserError: If a layer cannot be exported, the path does not end in .safetensors, or it cannot be written.
    """
    from safetensors.numpy import save

    check_layers(model)
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path} does not end in .safetensors: give a path that does")
    return write_atomically(path, save(_torch_state(model), metadata={"format": "pt"}))


def from_torch(
    weights: str | Path | Mapping[str, Any],
    model: Chain,
    *,
    prefix: str = "",
    into: str = "",
    only: tuple[str, ...] | str = (),
) -> Chain:
    """A copy of `model` with the weights of a PyTorch network.

    Args:
        weights: A `state_dict` or `{"model": state_dict}`, or a file: `.safetensors`, or `.pt`/`.pth` that holds one
            of these (read with `weights_only=True`).
        model: The model to fill; it is not changed.
        prefix: What the tensors' names begin with beyond the model's own, such as "module."; tensors whose names
            begin otherwise are ignored.
        into: Put before every name, once the prefix is off: "encoder." for the `state_dict` of a bare encoder.
        only: Name prefixes of the layers to load, such as "encoder"; () loads everything, and then nothing may be
            left over on either side.

    Returns:
        The filled copy.

    Raises:
        UserError: For a file that is no such file, and for any mismatch: all of them are named together.
    """
    only = (only,) if isinstance(only, str) else tuple(only)
    source, read = _read(weights)
    given = {into + name.removeprefix(prefix): value for name, value in read.items() if name.startswith(prefix)}
    filled = nnx.clone(model)
    wanted = [tensor for tensor in correspondence(model) if not only or matches(tensor.name, only)]
    ours = state_dict(model)
    wrong = [words for t in wanted if (words := _mismatch(t.name, given.get(t.name), ours[t.name].shape))]
    if not only:
        known = {tensor.name for tensor in wanted}
        left = [name for name in given if name not in known and name.rpartition(".")[2] != COUNTER]
        wrong += [_mismatch(name, given[name], None) for name in left]
    if not wanted:
        wrong.append(f"no layer of {model.kind} lies under {', '.join(only)}")
    if wrong:
        raise UserError(f"{source} does not fit {model.kind}: {'; '.join(wrong)}")
    names = filled.parameter_names()
    found = {tensor.variable: tensor.from_torch(given[tensor.name]) for tensor in wanted}
    for path, variable in nnx.to_flat_state(nnx.state(filled)):
        if names[path] in found:
            variable[...] = jnp.asarray(found[names[path]], variable[...].dtype)
    return filled


def _mismatch(name: str, value: Any, shape: tuple[int, ...] | None) -> str:
    """What is wrong with a tensor that should have `shape` (None: not be there); "" for nothing."""
    if value is None and shape is not None:
        return f"{name} {shape} is missing"
    if not isinstance(value, np.ndarray):
        return f"{name!r}, a {type(value).__name__}, is no tensor: give a state_dict of tensors only"
    if shape is None:
        return f"{name} {value.shape} is not in the model"
    if not jnp.issubdtype(value.dtype, jnp.floating):  # which knows bfloat16, as numpy does not
        return f"{name} is {value.dtype} {value.shape}, not floating-point {shape}"
    return f"{name} is {value.shape}, not {shape}" if value.shape != shape else ""


def _torch_state(model: Chain) -> dict[str, np.ndarray]:
    tensors = state_dict(model)
    for name, layer in model.named_layers():
        if isinstance(layer, BatchNorm):
            tensors[f"{name}.{COUNTER}"] = np.zeros((), np.int64)
    return tensors


def _read(weights: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where the tensors are from, for errors, and the tensors as numpy; other objects as they are."""
    if isinstance(weights, Mapping):
        return "the state_dict", _numpy(weights)
    path = Path(weights)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"no weights file: {path} {what}; give a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return str(path), load_file(path)
        except (SafetensorError, OSError, AttributeError) as error:  # the last: a type that numpy lacks, such as float8
            raise UserError(f"{path} is no safetensors file ({error}): save the state_dict again") from error
    torch = _import_torch()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes mean to the unpickler
        with path.open("rb") as file:
            whole = file.read(1) in (b"P", b"\x80")  # how zip files and pickles begin
        if whole and isinstance(error, pickle.UnpicklingError):
            converted = path.with_name(f"{path.stem}.state_dict{path.suffix}")
            raise UserError(
                f"{path} holds a pickled module or other objects, which are not loaded because they can run code; "
                f"where you trust it, type: {CONVERT} {shlex.quote(str(path))} {shlex.quote(str(converted))}"
            ) from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is no PyTorch file ({reason}): save the state_dict again with torch.save") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}: save a state_dict with torch.save")
    return str(path), _numpy(content)


def _numpy(tensors: Mapping[str, Any]) -> dict[str, Any]:
    inner = tensors.get("model")
    found = {}
    for name, value in (inner if isinstance(inner, Mapping) else tensors).items():
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        found[str(name)] = value
    return found


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError("this needs PyTorch: pip install 'flaxvision[torch]'") from error
    return torch
