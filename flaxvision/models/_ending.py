"""The activation that a PyTorch module ends in, and that its network here, which trains on scores, does not have."""

from __future__ import annotations

import dataclasses

from flaxvision.layers import Activation, Network, Node


def ending_of(model: Network) -> str:
    """That activation, or "" for none."""
    return "" if model.torch is None else model.torch.ending


def with_ending(model: Network) -> Network:
    """The network with the activation at its end; it shares its layers with `model`."""
    ending = ending_of(model)
    if not ending:
        return model
    name = ending
    while name in (*model.names, *(node.name for node in model.nodes)):
        name += "_"
    last = model.nodes[-1].name
    whole = Network(
        [*model.named_layers(), (name, Activation(ending))],
        input_shape=model.input_shape,
        kind=model.kind,
        nodes=[*model.nodes, Node(name, name, (last,))],
    )
    whole.classes, whole.preprocess = model.classes, model.preprocess
    assert model.torch is not None
    whole.torch = dataclasses.replace(model.torch, ending="")
    return whole
