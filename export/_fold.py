"""Folds batch normalisation into the layer before it, as a chain of its own."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.layers import BatchNorm, Chain
from flaxvision.layers.kinds import build, describe
from flaxvision.models.files import variables

FOLDS_INTO = (nnx.Conv, nnx.Linear)


def fold_batch_norms(model: Chain) -> Chain:
    """The chain without each BatchNorm that follows a convolution or linear layer; same evaluation-mode output.

    w' = w * scale / sqrt(var + epsilon), b' = (b - mean) * scale / sqrt(var + epsilon) + bias, in float64.
    """
    layers: list[tuple[str, nnx.Module]] = []
    numbers: dict[str, np.ndarray] = {}
    ours = variables(model)
    for name, layer in model.named_layers():
        before = layers[-1] if layers else ("", None)
        if isinstance(layer, BatchNorm) and isinstance(before[1], FOLDS_INTO):
            kernel, bias = (numbers.get(f"{before[0]}.{part}") for part in ("kernel", "bias"))
            scale, shift, mean, var = (
                ours[f"{name}.{part}"].astype(np.float64) for part in ("scale", "bias", "mean", "var")
            )
            factor = scale / np.sqrt(var + layer.epsilon)
            old = 0.0 if bias is None else bias
            assert kernel is not None
            numbers |= {f"{before[0]}.kernel": kernel * factor, f"{before[0]}.bias": (old - mean) * factor + shift}
            layers[-1] = build({**describe(*before), "use_bias": True})
            continue
        layers.append(build(describe(name, layer)))
        numbers |= {n: v.astype(np.float64) for n, v in ours.items() if n.rpartition(".")[0] == name}
    folded = Chain(layers, input_shape=model.input_shape, kind=model.kind)
    folded.preprocess, folded.classes = model.preprocess, model.classes
    names = folded.parameter_names()
    for path, variable in nnx.to_flat_state(nnx.state(folded)):
        variable[...] = jnp.asarray(numbers[names[path]], model.dtype)
    return folded
