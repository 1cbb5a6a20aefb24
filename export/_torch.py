"""Models to PyTorch and back: runnable modules, `state_dict` files, weights from elsewhere."""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from export._checkpoints import import_torch
from export._find import Wanted, find
from export._layers import check_layers, check_pixels, places
from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.layers import Carried, Chain, Scale
from flaxvision.layers.context import matches
from flaxvision.models._ending import with_ending
from flaxvision.models._state_dict import correspondence, state_dict, whole_state_dict
from flaxvision.models.files import variables

_LOG = logging.getLogger("flaxvision")


def to_torch(model: Chain, *, normalize: bool = False) -> Any:
    """A runnable `torch.nn.Module` with the model's weights, in evaluation mode; takes and gives NCHW.

    Its modules carry the chain's names, so that its `state_dict` is that of the hand-written reference.

    Args:
        model: The model.
        normalize: Take pixels as they are stored, 0 to 255, and scale them by `model.preprocess`: a module
            "preprocess" before the network, which is the module "network" then. Not for points.

    Raises:
        UserError: If PyTorch is missing, or a layer cannot be exported; for `normalize` on a model of points.

    >>> import export, flaxvision as fv
    >>> module = export.to_torch(fv.models.create("linear", input_shape=(2,), num_classes=1))
    >>> sorted(module.state_dict())
    ['layers.0.bias', 'layers.0.weight']
    """
    torch = import_torch()
    from export._torch_layers import ChainModule, Pixels

    check_layers(model)
    tensors = {name: torch.tensor(value) for name, value in whole_state_dict(model).items()}
    model = with_ending(model)
    layers: dict[str, Any] = {}
    for step, row, place in places(model, {}):
        if step.node.layer not in layers:
            layers[step.node.layer] = row.torch(place)
    named = [(name, layers[name]) for name in model.names if name in layers]
    if model.torch is None and not any(isinstance(layer, (Carried, Scale)) for layer in model.layers):
        chain = ChainModule(named, model.nodes)
    else:
        theirs = model.torch.tensors if model.torch is not None else ()
        second = {each.name: each.source for each in theirs if each.source != each.name}
        chain = ChainModule(named, model.nodes, tensors, second)
    chain.to(getattr(torch, str(model.dtype)))
    chain.load_state_dict(tensors, strict=True)
    if normalize:
        check_pixels(model)
        parts = {"preprocess": Pixels(model.preprocess, chain), "network": chain}
        return torch.nn.Sequential(collections.OrderedDict(parts)).eval()
    return chain.eval()


def save_torch(model: Chain, path: str | Path) -> Path:
    """Write the model's PyTorch `state_dict` as a .safetensors file, atomically; PyTorch itself is not needed.

    The file's metadata say how pixels become the network's input ("preprocess").

    Raises:
        UserError: If a layer cannot be exported, the path does not end in .safetensors, or it cannot be written.
    """
    from safetensors.numpy import save

    check_layers(model)
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path} does not end in .safetensors: give a path that does")
    metadata = {"format": "pt", "preprocess": model.preprocess.formula}
    return write_atomically(path, _with_ordered_metadata(save(whole_state_dict(model), metadata=metadata)))


def _with_ordered_metadata(file: bytes) -> bytes:
    """A .safetensors file with its metadata sorted by key: the library writes them in an order of chance."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def from_torch(
    weights: str | Path | Mapping[str, Any] | Any,
    model: Chain,
    *,
    key: str = "",
    prefix: str = "",
    into: str = "",
    only: tuple[str, ...] | str = (),
) -> Chain:
    """A copy of `model` with the weights of a PyTorch network.

    Where a checkpoint keeps its weights ("state_dict", "model_state_dict", "net", …), what all their names begin with
    ("module.", "model.") and the names of wrappers within ("_orig_mod") are found by the model's own names, and said on
    standard error. Where several sets fit, it takes the first that is not a running average; `key` takes another.
    Of a network that was read from a module, what it only carries along, buffers and unused layers, stays as it is.

    Args:
        weights: A `state_dict`, a module, a checkpoint that holds one of these at any level, or a file: `.safetensors`,
            what `torch.save` wrote (read with `weights_only=True`), or the index of a set of shards
            (`model.safetensors.index.json`).
        model: The model to fill; it is not changed.
        key: Where in the checkpoint the weights lie, such as "ema" or "state.net"; "" finds them.
        prefix: What the tensors' names begin with beyond the model's own, such as "backbone."; tensors whose names
            begin otherwise are ignored. "" finds one that all names share.
        into: Put before every name, once the prefix is off: "encoder." for the `state_dict` of a bare encoder.
        only: Name prefixes of the layers to load, such as "encoder"; () loads everything, and then nothing may be
            left over on either side.

    Returns:
        The filled copy.

    Raises:
        UserError: For a file of another kind, and for any mismatch: how many there are, the first of them, and
            what to do.

    >>> import export, flaxvision as fv
    >>> model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    >>> path = export.save_torch(model, "line.safetensors")
    >>> export.from_torch(path, model).output_shape
    (1,)
    """
    if not isinstance(model, Chain):
        swapped = "; they are the other way round" if isinstance(weights, Chain) else ""
        raise UserError(
            f"from_torch got a {type(model).__name__} for the model{swapped}: give from_torch(weights, model), "
            "weights of PyTorch and a model of fv.models.create or fv.load_model"
        )
    carried = {name: layer for name, layer in model.named_layers() if isinstance(layer, Carried)}
    ignored = {each.name for each in model.torch.tensors if each.source != each.name} if model.torch else set()
    ignored |= {name for name, layer in carried.items() if layer.dtype != "float32"}
    only = (only,) if isinstance(only, str) else tuple(only)
    filled = nnx.clone(model)
    pairs = [pair for pair in correspondence(model) if pair.name not in ignored]
    wanted = [pair for pair in pairs if not only or matches(pair.name, only)]
    if only and not wanted:
        raise UserError(f"no layer of {model.kind} lies under {', '.join(only)}: it has {', '.join(model.names)}")
    ours = state_dict(model)
    shapes = {pair.name: ours[pair.name].shape for pair in wanted}
    given = find(weights, Wanted(shapes, model.kind, key, prefix, into, whole=not only, ignored=frozenset(ignored)))
    others = [name for name in given if name in carried and not np.array_equal(given[name], ours[name])]
    if others:
        _LOG.warning("%s keeps %s as it was read: constants and unused layers", model.kind, ", ".join(others))
    names = filled.parameter_names()
    shaped = {name: value.shape for name, value in variables(model).items()}
    found = {
        pair.variable: pair.from_torch(given[pair.name], shaped[pair.variable])
        for pair in wanted
        if pair.name not in carried
    }
    for path, variable in nnx.to_flat_state(nnx.state(filled)):
        if names[path] in found:
            variable[...] = jnp.asarray(found[names[path]], variable[...].dtype)
    return filled
