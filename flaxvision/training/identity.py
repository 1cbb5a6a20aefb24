"""What a run is, by content: what a checkpoint compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from flax import nnx

from flaxvision._describe import Indescribable, Plain, describe, digest
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.identity import AROUND, Identity, checksum_of, circumstances, switches
from flaxvision.layers import Chain
from flaxvision.layers.kinds import KINDS
from flaxvision.layers.kinds import describe as describe_layer
from flaxvision.models.files import variables
from flaxvision.training.effects import DURATIONS
from flaxvision.training.optimizers import code_of_optimizer
from flaxvision.training.recipe import Recipe, field_names


def cohort_identity(models: Sequence[Chain], dataset: Dataset, recipes: Sequence[Recipe], total_steps: int) -> Identity:
    """`identity_of` for the members of a cohort, by number; of a single one it is its own."""
    data = checksum_of(dataset)
    each = [identity_of(m, dataset, r, total_steps, data) for m, r in zip(models, recipes, strict=True)]
    if len(each) == 1:
        return each[0]
    return {"members": len(each), **{f"member {k}": one for k, one in enumerate(each)}, AROUND: circumstances()}


def identity_of(
    model: Chain, dataset: Dataset, recipe: Recipe, total_steps: int, data: Identity | None = None
) -> Identity:
    """What a run is: the network and the numbers that it starts from, the examples, the recipe, JAX's switches.

    The duration may change, as long as no learning rate depends on it. The model has its warm start taken; `data` is
    the checksum of the examples, where it is known.

    Raises:
        UserError: If the recipe or a layer holds something that another process could not compare.
    """
    without = (*DURATIONS, "warm_start", "warm_start_only")  # the numbers that it starts from tell
    settings = [name for name in field_names() if name not in without]
    described: Identity = {name: _described(name, getattr(recipe, name)) for name in settings}
    code = code_of_optimizer(recipe.optimizer)
    if code is not None:
        described["code of the optimizer"] = code
    if recipe.schedule != "constant" and recipe.step_epochs is None and not recipe.milestones:
        described[f"updates (of which schedule {recipe.schedule!r} depends)"] = total_steps
    if "lookahead_growth" in recipe.given:
        described["updates (with which lookahead_growth counts)"] = total_steps
    tensors = variables(model)
    layers = {name: _layer(name, layer) for name, layer in model.named_layers()}
    nodes = {} if model.is_chain else {"nodes": [dataclasses.asdict(node) for node in model.nodes]}
    return {
        "network": {"input_shape": list(model.input_shape), "layers": list(layers), **nodes, **layers},
        **described,
        "numbers of layers": {name: value.item() for name, value in tensors.items() if value.ndim == 0},
        "data": data or checksum_of(dataset),
        "initial weights": digest([[name, _described(name, value)] for name, value in sorted(tensors.items())]),
        **switches(),
        AROUND: circumstances(),
    }


def with_defaults(identity: Identity) -> Identity:
    """An identity with the fields of a recipe that are newer than it."""
    if "network" in identity:
        return {**{field.name: field.default for field in dataclasses.fields(Recipe)}, **identity}
    return {key: with_defaults(value) if isinstance(value, dict) else value for key, value in identity.items()}


def _layer(name: str, layer: nnx.Module) -> Plain:
    if type(layer) in KINDS:
        return {key: value for key, value in describe_layer(name, layer).items() if key != "name"}
    graphdef, _ = nnx.split(layer)
    return {"kind": type(layer).__name__, "code": _described(f"layer {name!r}", type(layer)), "holds": str(graphdef)}


def _described(name: str, value: object) -> Plain:
    try:
        return describe(value)
    except Indescribable as error:
        raise UserError(
            f"{name} holds {error}, which another process could not compare, so that the run could never be continued: "
            "make it of optax's functions and plain numbers, or leave checkpoint out"
        ) from error
