"""Models to PyTorch and back: runnable modules, `state_dict` files, weights from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from export._checkpoints import import_torch
from export._find import COUNTER, Wanted, find
from export._layers import check_layers, places
from export._tensors import correspondence, state_dict
from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Chain
from flaxvision.layers.context import matches


def to_torch(model: Chain) -> Any:
    """A runnable `torch.nn.Module` with the model's weights, in evaluation mode; takes and gives NCHW.

    Its modules carry the chain's names, so that its `state_dict` is that of the hand-written reference.

    Raises:
        UserError: If PyTorch is missing, or a layer cannot be exported.

    >>> import export, flaxvision as fv
    >>> module = export.to_torch(fv.models.create("linear", input_shape=(2,), num_classes=1))
    >>> sorted(module.state_dict())
    ['layers.0.bias', 'layers.0.weight']
    """
    torch = import_torch()
    from export._torch_layers import ChainModule

    check_layers(model)
    layers: dict[str, Any] = {}
    for step, row, place in places(model, {}):
        if step.node.layer not in layers:
            layers[step.node.layer] = row.torch(place)
    chain = ChainModule([(name, layers[name]) for name in model.names], model.nodes)
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
    only = (only,) if isinstance(only, str) else tuple(only)
    filled = nnx.clone(model)
    wanted = [pair for pair in correspondence(model) if not only or matches(pair.name, only)]
    if only and not wanted:
        raise UserError(f"no layer of {model.kind} lies under {', '.join(only)}: it has {', '.join(model.names)}")
    ours = state_dict(model)
    shapes = {pair.name: ours[pair.name].shape for pair in wanted}
    given = find(weights, Wanted(shapes, model.kind, key, prefix, into, whole=not only))
    names = filled.parameter_names()
    found = {pair.variable: pair.tensor.from_torch(given[pair.name]) for pair in wanted}
    for path, variable in nnx.to_flat_state(nnx.state(filled)):
        if names[path] in found:
            variable[...] = jnp.asarray(found[names[path]], variable[...].dtype)
    return filled


def _torch_state(model: Chain) -> dict[str, np.ndarray]:
    tensors = state_dict(model)
    for name, layer in model.named_layers():
        if isinstance(layer, BatchNorm):
            tensors[f"{name}.{COUNTER}"] = np.zeros((), np.int64)
    return tensors
