"""What a run starts from: a model with its preprocessing and warm start, and the devices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.layers import Chain, Preprocess
from flaxvision.models.files import assign, read
from flaxvision.training.recipe import Recipe
from flaxvision.training.state import cast

PREPROCESS = {"unit": Preprocess(1 / 255), "signed": Preprocess(1 / 127.5, -1.0), "raw": Preprocess()}


def prepare(model: Chain, dataset: Dataset, recipe: Recipe) -> Chain:
    """A copy of `model` with its preprocessing, classes and warm start."""
    model = nnx.clone(model)
    model.classes = dataset.classes
    model.preprocess = PREPROCESS[recipe.pixels] if dataset.train.images.dtype == np.uint8 else Preprocess()
    if recipe.precision == "float64":
        nnx.update(model, cast(nnx.state(model), jnp.dtype("float64")))
    if recipe.warm_start is not None:
        tensors, _ = read(recipe.warm_start)
        assign(model, tensors, recipe.warm_start, recipe.warm_start_only)
    return model


def chosen_devices(devices: str | int | Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    """The devices that `fit` is told to use: "auto", a count or themselves."""
    local = jax.local_devices()
    if devices == "auto":
        return tuple(local)
    if isinstance(devices, int):
        if not 1 <= devices <= len(local):
            raise UserError(f"devices is {devices}: give a number from 1 to {len(local)}, or 'auto'")
        return tuple(local[:devices])
    if isinstance(devices, str):
        raise UserError(f"devices is {devices!r}: give 'auto', a number from 1 to {len(local)}, or devices")
    return tuple(devices)
