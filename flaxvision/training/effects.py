"""Settings of a recipe that another one, or its duration, leaves without effect: each is an error, never ignored."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

from flaxvision.errors import UserError
from flaxvision.training.optimizers import CYCLED, OPTIMIZERS, is_own, optimizers_with, settings_of_optimizers

if TYPE_CHECKING:
    from flaxvision.training.recipe import Recipe

OF_DECAY = ("weight_decay", "decay_biases")
OF_OPTIMIZER = (
    *("learning_rate", *OF_DECAY, "clip_norm", "schedule", "warmup_epochs", "base_momentum"),
    *settings_of_optimizers(),
)
MIXES = ("mixup", "cutmix")
DURATIONS = ("epochs", "steps", "examples")


def check_effects(recipe: Recipe) -> None:
    """Raise `UserError` for a setting that another one leaves without effect: it would seem to make no difference."""
    _check_optimizer(recipe)
    _check_others(recipe)


def _check_optimizer(recipe: Recipe) -> None:
    """Raise for a setting that the optimizer does not have."""
    name, given, theirs = recipe.optimizer, recipe.given, settings_of_optimizers()
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}
    if isinstance(name, str) and not is_own(name):
        for key in theirs:
            if key in given and key not in OPTIMIZERS[name].defaults:
                off = "leave it out" if defaults[key] is None else f"give {key}={str(defaults[key]).lower()}"
                others = " or ".join(map(repr, optimizers_with(key)))
                raise _no_effect(recipe, key, f"with optimizer {name!r}: {off}, or optimizer {others}")
        return
    if isinstance(name, str):
        without: tuple[str, ...] = *OF_DECAY, *theirs, "base_momentum"
        why = f"with optimizer {name!r}, a function of the learning rate: write it there"
    else:
        without = OF_OPTIMIZER
        why = "beside an optax optimizer of your own, which is used as it is: give it to that one"
    for key in without:
        if key in given:
            raise UserError(f"{key} has no effect {why}, or name an optimizer: {', '.join(OPTIMIZERS)}")


def _check_others(recipe: Recipe) -> None:
    """Raise for a setting that another one leaves without effect."""
    durations = [f"{name}={getattr(recipe, name)}" for name in DURATIONS if getattr(recipe, name) is not None]
    if len(durations) > 1:
        raise UserError(f"the duration is given {len(durations)} times ({', '.join(durations)}): give one of them")
    if recipe.nesterov and not recipe.momentum:
        raise UserError("nesterov needs momentum: give a momentum above 0, such as 0.9")
    for name in ("label_smoothing", "class_weights", *MIXES, "test_time_flip"):
        if name in recipe.given and recipe.loss == "squared_error":
            raise _no_effect(recipe, name, f"with loss {recipe.loss!r}, which reads no labels: leave it out")
    for name in ("step_epochs", "step_factor", "milestones"):
        if name in recipe.given and recipe.schedule != "step":
            raise _no_effect(recipe, name, f"with schedule {recipe.schedule!r}: give schedule 'step', or leave it out")
    if recipe.milestones and recipe.step_epochs is not None:
        raise UserError("both milestones and step_epochs say when the rate steps down: give one of them")
    if recipe.end_factor and recipe.schedule not in ("cosine", "linear"):
        raise _no_effect(recipe, "end_factor", f"with schedule {recipe.schedule!r}: give 'cosine' or 'linear'")
    if recipe.base_momentum is not None:
        if recipe.schedule != "one_cycle":
            why = f"with schedule {recipe.schedule!r}: give schedule 'one_cycle', or leave it out"
            raise _no_effect(recipe, "base_momentum", why)
        settings = OPTIMIZERS[str(recipe.optimizer)].settings(recipe.given)
        if not any(settings.get(name) for name in CYCLED):
            raise UserError(
                "base_momentum needs a momentum to fall from: give momentum, such as 0.95, or an optimizer "
                "that has beta1"
            )
    if recipe.start_factor and not recipe.warmup_epochs:
        raise _no_effect(recipe, "start_factor", "without a warm-up: give warmup_epochs, or leave it out")
    for name in ("lookahead_rate", "lookahead_growth"):
        if name in recipe.given and not recipe.lookahead:
            raise _no_effect(recipe, name, "without lookahead: give a number of updates, such as lookahead=5")
    if recipe.lookahead and recipe.ema is not None:
        raise UserError("both ema and lookahead say which mean of the weights is evaluated: give one of them")
    if {"flip", "alternating_flip"} <= set(recipe.augment):
        raise UserError("augment has both 'flip' and 'alternating_flip': give one of them")
    if not recipe.decay_biases and not recipe.weight_decay:
        raise _no_effect(recipe, "decay_biases", "without weight decay: give a weight_decay above 0, or leave it out")
    for name in MIXES:
        if name in recipe.given and recipe.batch_size == 1:
            raise _no_effect(recipe, name, "in batches of one example, which has no partner: give a larger batch_size")
    for name in ("crop_padding", "crop_padding_mode"):
        if name in recipe.given and "crop" not in recipe.augment:
            raise _no_effect(recipe, name, "without random crops: give augment=['crop'], or leave it out")
    if recipe.schedule == "one_cycle" and recipe.warmup_epochs:
        raise UserError("schedule 'one_cycle' has a rise of its own: give warmup_epochs=0, or another schedule")
    if recipe.warm_start_only and recipe.warm_start is None:
        why = "without a warm_start: give the weights file as warm_start, or leave it out"
        raise _no_effect(recipe, "warm_start_only", why)
    if recipe.select_on is not None and recipe.select == "last" and not recipe.early_stopping:
        why = "with select 'last': give select 'best' or early_stopping, or leave it out"
        raise _no_effect(recipe, "select_on", why)
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.metadata["rule"].once and len(set(value)) < len(value):
            raise UserError(f"{field.name} is {list(value)}: give each name once")


def _no_effect(recipe: Recipe, name: str, why: str) -> UserError:
    """The error for a setting without effect: beside another row of a table it would seem to make no difference."""
    value = getattr(recipe, name)
    return UserError(f"{name} is {list(value) if isinstance(value, tuple) else value!r} but has no effect {why}")


def check_duration(recipe: Recipe, steps: int, per_epoch: int) -> None:
    """Raise for a setting that has no effect in so many updates."""
    epochs = -(-steps // per_epoch)
    if recipe.early_stopping >= max(epochs, 1):
        why = "give fewer epochs of patience (0: none), or train for longer"
        raise _no_effect(recipe, "early_stopping", f"in {epochs} epoch{'s' * (epochs != 1)}: {why}")
    warmup = round(recipe.warmup_epochs * per_epoch)
    if recipe.warmup_epochs and not warmup:
        raise UserError(f"warmup_epochs is {recipe.warmup_epochs}, less than one update: give 0, or more")
    at = [warmup, *(round(milestone * per_epoch) for milestone in recipe.milestones), steps]
    if recipe.milestones and not all(a < b for a, b in itertools.pairwise(at)):
        raise UserError(
            f"milestones is {list(recipe.milestones)} but steps down from {warmup / per_epoch:g} to "
            f"{steps / per_epoch:g} epochs, of {per_epoch} updates, are possible: give epochs between these"
        )
    if recipe.step_epochs is not None and not 1 <= round(recipe.step_epochs * per_epoch) < steps - warmup:
        raise UserError(
            f"step_epochs is {recipe.step_epochs} but there are {(steps - warmup) / per_epoch:g} epochs of "
            f"{per_epoch} updates to step down in: give an update or more, and less than all of them"
        )
    if recipe.schedule != "constant" and warmup >= steps:
        raise UserError(
            f"schedule {recipe.schedule!r} has no effect: the training is over when its warmup_epochs, "
            f"{recipe.warmup_epochs}, are; give fewer, or train for longer"
        )
