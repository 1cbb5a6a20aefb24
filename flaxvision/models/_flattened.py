"""Networks whose Flatten gives row, column, channel: those of Keras, and of files of format 1."""

from __future__ import annotations

import math

import numpy as np

from flaxvision.layers import Flatten, Linear, Network


def flatten_as_pytorch(model: Network, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a chain, by the names "layer.variable", for every Flatten in PyTorch's order.

    What follows a Flatten of channels last, up to the next linear layer, has its features reordered. Where none
    follows, the Flatten stays as it is, so that the outputs do.
    """
    steps = list(model.walk())
    for number, step in enumerate(steps):
        if not isinstance(step.layer, Flatten) or not step.layer.channels_last:
            continue
        (shape,) = step.inputs
        behind = steps[number + 1 :]
        linear = next((i for i, other in enumerate(behind) if isinstance(other.layer, Linear)), None)
        plain = len(shape) != 3 or min(math.prod(shape[:2]), shape[2]) == 1  # one order is the other
        if linear is None and not plain:
            continue
        step.layer.channels_last = False
        order = np.arange(math.prod(shape))
        order = order if plain else order.reshape(shape).transpose(2, 0, 1).ravel()
        for other in behind[: 0 if linear is None else linear + 1]:
            axes = 2 if isinstance(other.layer, Linear) else 1  # a kernel (in, out), or one number per feature
            own = {n: v for n, v in tensors.items() if n.rpartition(".")[0] == other.node.layer and v.ndim == axes}
            tensors = tensors | {name: value[order] for name, value in own.items()}
    return tensors
