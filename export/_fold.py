"""Folds batch normalization into the layer before it, as a network of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.layers import Activation, BatchNorm, Conv, ConvTranspose, Dropout, Linear, Network, Node
from flaxvision.layers.kinds import build, describe
from flaxvision.models.files import variables

FOLDS_INTO = (Conv, ConvTranspose, Linear)


def fold_batch_norms(model: Network) -> Network:
    """The network without each BatchNorm that alone takes a convolution's or linear layer's value; same outputs.

    Dropout and identities may stand between them.
    w' = w * scale / sqrt(var + epsilon), b' = (b - mean) * scale / sqrt(var + epsilon) + bias, in float64.
    """
    layers = dict(model.named_layers())
    ours = variables(model)
    numbers = {name: value.astype(np.float64) for name, value in ours.items()}
    made = {name: build(describe(name, layer))[1] for name, layer in layers.items()}
    renamed: dict[str | None, str | None] = {}  # what is taken in place of a node that is gone
    nodes: list[Node] = []
    for node in model.nodes:
        node = dataclasses.replace(node, takes=tuple(renamed.get(name, name) for name in node.takes))
        layer = layers[node.layer]
        into = _target(nodes, node, model.nodes, layers)
        if into is None or not isinstance(layer, BatchNorm):
            nodes.append(node)
            continue
        mean, var = (numbers[f"{node.layer}.{part}"] for part in ("mean", "var"))
        scale, shift = (numbers.get(f"{node.layer}.{part}", plain) for part, plain in (("scale", 1.0), ("bias", 0.0)))
        factor = scale / np.sqrt(var + layer.epsilon)
        outputs_first = getattr(layers[into], "transpose_kernel", False)  # kernel (H, W, out, in)
        numbers[f"{into}.kernel"] = numbers[f"{into}.kernel"] * (factor[:, None] if outputs_first else factor)
        numbers[f"{into}.bias"] = (numbers.get(f"{into}.bias", 0.0) - mean) * factor + shift
        made[into] = build({**describe(into, made[into]), "use_bias": True})[1]
        renamed[node.name] = node.takes[0]
    used = {node.layer for node in nodes}
    kept = [(name, made[name]) for name in model.names if name in used]
    folded = Network(kept, input_shape=model.input_shape, kind=model.kind, nodes=nodes)
    folded.preprocess, folded.classes = model.preprocess, model.classes
    if model.torch is not None:
        folded.torch = dataclasses.replace(model.torch, tensors=())  # of the module's own there are fewer now
    names = folded.parameter_names()
    for path, variable in nnx.to_flat_state(nnx.state(folded)):
        variable.set_value(jnp.asarray(numbers[names[path]], model.dtype))  # which may be float64
    return folded


def _target(nodes: list[Node], norm: Node, every: Iterable[Node], layers: dict[str, nnx.Module]) -> str | None:
    """The layer into which a BatchNorm folds, if there is one."""
    uses = [node.layer for node in every]
    by_name = {node.name: node for node in nodes}
    taken = norm.takes[0]
    while taken is not None and sum(taken in node.takes for node in (*nodes, norm)) == 1 and _alone(taken, every):
        node = by_name[taken]
        layer = layers[node.layer]
        if isinstance(layer, FOLDS_INTO):
            return node.layer if uses.count(node.layer) == uses.count(norm.layer) == 1 else None
        if not (isinstance(layer, Dropout) or (isinstance(layer, Activation) and layer.function == "identity")):
            return None
        taken = node.takes[0]
    return None


def _alone(value: str, every: Iterable[Node]) -> bool:
    """Whether one node at most takes a value."""
    return sum(node.takes.count(value) for node in every) <= 1
