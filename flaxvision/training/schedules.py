"""How the learning rate goes on, as a factor of the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from flaxvision.training.recipe import Recipe


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
        "step": lambda: _in_steps(after, recipe.step_factor, recipe.step_epochs, steps_per_epoch),
        "one_cycle": lambda: _one_cycle(after),
    }[recipe.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), tail], [warmup]) if warmup else tail


def _in_steps(steps: int, factor: float, epochs: float | None, steps_per_epoch: int) -> optax.Schedule:
    """Down by a factor every so many epochs; or at half of the steps, and again at three quarters."""
    if epochs is not None:
        every = max(round(epochs * steps_per_epoch), 1)
        return lambda count: jnp.asarray(factor, jnp.float32) ** jnp.asarray(count // every, jnp.float32)
    return lambda count: jnp.where(count < steps // 2, 1.0, jnp.where(count < 3 * steps // 4, factor, factor**2))


def _one_cycle(steps: int) -> optax.Schedule:
    """Two half cosines, as in PyTorch; optax's turns a step later."""
    top = max(0.3 * steps - 1, 1e-6)

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.minimum(jnp.asarray(count, jnp.float32), max(steps - 1, 0))
        rise, fall = step / top, jnp.maximum(step - top, 0.0) / max(steps - 1 - top, 1e-6)
        low, done = jnp.where(step <= top, 1 / 25, 4e-6), jnp.where(step <= top, 1 - rise, fall)
        return low + (1 - low) * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return at
