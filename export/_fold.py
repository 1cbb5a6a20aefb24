"""Folds batch normalisation into the layer before it, as a chain of its own."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.layers import Activation, BatchNorm, Chain, Dropout
from flaxvision.layers.kinds import build, describe
from flaxvision.models.files import variables

FOLDS_INTO = (nnx.Conv, nnx.ConvTranspose, nnx.Linear)


def fold_batch_norms(model: Chain) -> Chain:
    """The chain without each BatchNorm that follows a convolution or linear layer; same evaluation-mode output.

    Dropout and identities may stand between them.
    w' = w * scale / sqrt(var + epsilon), b' = (b - mean) * scale / sqrt(var + epsilon) + bias, in float64.
    """
    layers: list[tuple[str, nnx.Module]] = []
    numbers: dict[str, np.ndarray] = {}
    ours = variables(model)
    target: int | None = None  # position of the layer into which a BatchNorm folds
    for name, layer in model.named_layers():
        if isinstance(layer, BatchNorm) and target is not None:
            into, base = layers[target]
            kernel, bias = (numbers.get(f"{into}.{part}") for part in ("kernel", "bias"))
            scale, shift, mean, var = (
                ours[f"{name}.{part}"].astype(np.float64) for part in ("scale", "bias", "mean", "var")
            )
            factor = scale / np.sqrt(var + layer.epsilon)
            old = 0.0 if bias is None else bias
            assert kernel is not None
            outputs_first = getattr(base, "transpose_kernel", False)  # kernel (H, W, out, in)
            numbers |= {
                f"{into}.kernel": kernel * (factor[:, None] if outputs_first else factor),
                f"{into}.bias": (old - mean) * factor + shift,
            }
            layers[target] = build({**describe(into, base), "use_bias": True})
            continue
        if isinstance(layer, FOLDS_INTO):
            target = len(layers)
        elif not (isinstance(layer, Dropout) or (isinstance(layer, Activation) and layer.function == "identity")):
            target = None
        layers.append(build(describe(name, layer)))
        numbers |= {n: v.astype(np.float64) for n, v in ours.items() if n.rpartition(".")[0] == name}
    folded = Chain(layers, input_shape=model.input_shape, kind=model.kind)
    folded.preprocess, folded.classes = model.preprocess, model.classes
    names = folded.parameter_names()
    for path, variable in nnx.to_flat_state(nnx.state(folded)):
        variable.set_value(jnp.asarray(numbers[names[path]], model.dtype))  # which may be float64
    return folded
