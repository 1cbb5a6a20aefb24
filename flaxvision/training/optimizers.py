"""A recipe's optimiser as one optax transformation whose numbers are arrays in its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxvision.training.recipe import Recipe


def make_optimizer(
    recipe: Recipe, total_steps: int, steps_per_epoch: int
) -> Callable[..., optax.GradientTransformation]:
    """The optimiser as a function of its numbers.

    Same numbers, same updates as `torch.optim`: momentum `b = m b + g`, weight decay added to the gradient for SGD
    and Adam and decoupled for AdamW, epsilon outside the square root. (Paszke et al., torch.optim; Loshchilov and
    Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.)
    """

    def optimizer(
        learning_rate: jax.Array | float = 1.0,
        momentum: jax.Array | float = 0.0,
        weight_decay: jax.Array | float = 0.0,
    ) -> optax.GradientTransformation:
        parts: list[optax.GradientTransformation] = []
        if recipe.weight_decay and recipe.optimizer != "adamw":
            parts.append(optax.add_decayed_weights(weight_decay))
        if recipe.optimizer != "sgd":
            parts.append(optax.scale_by_adam())
        elif recipe.momentum:
            parts.append(optax.trace(decay=momentum, nesterov=recipe.nesterov))
        if recipe.weight_decay and recipe.optimizer == "adamw":
            parts.append(optax.add_decayed_weights(weight_decay))
        if recipe.schedule != "constant" or recipe.warmup_epochs:
            parts.append(optax.scale_by_schedule(shape(recipe, total_steps, steps_per_epoch)))
        return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))

    return optimizer


def shape(recipe: Recipe, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The schedule as a factor on the learning rate: a linear rise from 0, then what `SCHEDULES` says.

    "one_cycle" is PyTorch's `OneCycleLR` with its defaults: from 1/25 to 1 in 0.3 of the steps, then to 4e-6.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    after = max(total_steps - warmup, 1)
    tail = {
        "constant": lambda: optax.constant_schedule(1.0),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, after),
        "linear": lambda: optax.linear_schedule(1.0, 0.0, after),
        "step": lambda: _in_steps(after),
        "one_cycle": lambda: _one_cycle(after),
    }[recipe.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), tail], [warmup]) if warmup else tail


def _in_steps(steps: int) -> optax.Schedule:
    """A tenth from half of the steps on, a hundredth from three quarters on."""
    return lambda count: jnp.where(count < steps // 2, 1.0, jnp.where(count < 3 * steps // 4, 0.1, 0.01))


def _one_cycle(steps: int) -> optax.Schedule:
    """Two half cosines, as in PyTorch; optax's turns a step later."""
    top = max(0.3 * steps - 1, 1e-6)

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.minimum(jnp.asarray(count, jnp.float32), max(steps - 1, 0))
        rise, fall = step / top, jnp.maximum(step - top, 0.0) / max(steps - 1 - top, 1e-6)
        low, done = jnp.where(step <= top, 1 / 25, 4e-6), jnp.where(step <= top, 1 - rise, fall)
        return low + (1 - low) * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return at


def build_optimizer(
    recipe: Recipe, total_steps: int, steps_per_epoch: int, dtype: jnp.dtype = jnp.float32
) -> optax.GradientTransformation:
    """The optimiser with the recipe's numbers injected into its state as arrays of `dtype`."""
    if not isinstance(recipe.optimizer, str):
        return recipe.optimizer
    factory = make_optimizer(recipe, total_steps, steps_per_epoch)
    return optax.inject_hyperparams(factory, hyperparam_dtype=dtype)(**_numbers(recipe))


def init_many(
    recipes: Sequence[Recipe], total_steps: int, steps_per_epoch: int, params: Any, dtype: jnp.dtype = jnp.float32
) -> optax.OptState:
    """The states of several recipes' optimisers, alike but for their numbers; every array has an axis of members."""
    tx = build_optimizer(recipes[0], total_steps, steps_per_epoch, dtype)
    state = jax.jit(jax.vmap(tx.init))(params)
    if not isinstance(recipes[0].optimizer, str):
        return state
    numbers = [_numbers(recipe) for recipe in recipes]
    given = {k: jnp.asarray([n[k] for n in numbers], dtype) for k, v in numbers[0].items() if not callable(v)}
    return state._replace(hyperparams={**state.hyperparams, **given})


def _numbers(recipe: Recipe) -> dict[str, float | Callable]:
    """What the optimiser of a recipe is a function of."""
    numbers: dict[str, float | Callable] = {"learning_rate": recipe.learning_rate}
    return numbers | {name: getattr(recipe, name) for name in ("momentum", "weight_decay") if getattr(recipe, name)}
