"""A recipe's optimizer as one optax transformation whose numbers are arrays in its state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxvision.training.optimizers import NUMBERS, OPTIMIZERS
from flaxvision.training.recipe import Recipe
from flaxvision.training.schedules import shape

ALWAYS = ("momentum", "weight_decay")  # in the state even where they are 0, as in all checkpoints so far


def make_optimizer(
    recipe: Recipe, total_steps: int, steps_per_epoch: int
) -> Callable[..., optax.GradientTransformation]:
    """The optimizer as a function of its numbers: of `numbers_of`, by keyword."""
    assert isinstance(recipe.optimizer, str)
    chosen, given = OPTIMIZERS[recipe.optimizer], recipe.given

    def optimizer(**numbers: Any) -> optax.GradientTransformation:
        parts = chosen.make(**chosen.settings({name: numbers.get(name, value) for name, value in given.items()}))
        if "weight_decay" in given:
            parts.insert(len(parts) if chosen.decoupled else 0, optax.add_decayed_weights(numbers["weight_decay"]))
        if "clip_norm" in given:
            parts.insert(0, clip_by_norm(numbers["clip_norm"]))
        if recipe.schedule != "constant" or recipe.warmup_epochs:
            parts.append(optax.scale_by_schedule(shape(recipe, total_steps, steps_per_epoch)))
        return optax.chain(*parts, optax.scale_by_learning_rate(numbers["learning_rate"]))

    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in numbers_of(recipe)]
    optimizer.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]  # which optax goes by
    return optimizer


def clip_by_norm(norm: jax.Array) -> optax.GradientTransformation:
    """Scale a gradient down to an L2 norm over all parameters, as `torch.nn.utils.clip_grad_norm_` does."""

    def clip(gradient: Any, params: Any) -> Any:
        factor = jnp.minimum(1.0, norm / (optax.tree.norm(gradient) + 1e-6))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), gradient)

    return optax.stateless(clip)


def build_optimizer(
    recipe: Recipe, total_steps: int, steps_per_epoch: int, dtype: jnp.dtype = jnp.float32
) -> optax.GradientTransformation:
    """The optimizer with the recipe's numbers injected into its state as arrays of `dtype`."""
    if not isinstance(recipe.optimizer, str):
        return recipe.optimizer
    factory = make_optimizer(recipe, total_steps, steps_per_epoch)
    return optax.inject_hyperparams(factory, hyperparam_dtype=dtype)(**numbers_of(recipe))


def init_many(
    recipes: Sequence[Recipe], total_steps: int, steps_per_epoch: int, params: Any, dtype: jnp.dtype = jnp.float32
) -> optax.OptState:
    """The states of several recipes' optimizers, alike but for their numbers; every array has an axis of members."""
    tx = build_optimizer(recipes[0], total_steps, steps_per_epoch, dtype)
    state = jax.jit(jax.vmap(tx.init))(params)
    if not isinstance(recipes[0].optimizer, str):
        return state
    numbers = [numbers_of(recipe) for recipe in recipes]
    given = {k: jnp.asarray([n[k] for n in numbers], dtype) for k, v in numbers[0].items() if not callable(v)}
    return state._replace(hyperparams={**state.hyperparams, **given})


def numbers_of(recipe: Recipe) -> dict[str, float | Callable]:
    """What the optimizer of a recipe is a function of."""
    names = [name for name in ("clip_norm", *NUMBERS) if name in recipe.given]
    return {name: getattr(recipe, name) for name in dict.fromkeys(["learning_rate", *ALWAYS, *names])}
