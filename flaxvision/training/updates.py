"""A recipe's optimizer and schedule as one optax transformation whose numbers are arrays in its state."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxvision._own_code import import_function
from flaxvision.errors import UserError
from flaxvision.training.effects import OF_OPTIMIZER
from flaxvision.training.optimizers import CYCLED, OPTIMIZERS, Optimizer, is_own
from flaxvision.training.recipe import VARYING, Recipe
from flaxvision.training.transforms import following

ALWAYS = ("learning_rate", "momentum", "weight_decay")  # in the state even where they are 0, as in all checkpoints


def build_optimizer(
    recipe: Recipe, total_steps: int, steps_per_epoch: int, dtype: jnp.dtype = jnp.float32
) -> optax.GradientTransformation:
    """The optimizer with the recipe's numbers injected into its state as arrays of `dtype`."""
    name, given, numbers = recipe.optimizer, recipe.given, numbers_of(recipe)
    if not isinstance(name, str):
        return name
    own = import_function("optimizer", name) if is_own(name) else None

    def factory(**numbers: jax.Array) -> optax.GradientTransformation:
        rate, values = numbers["learning_rate"], {key: numbers.get(key, value) for key, value in given.items()}
        if own is None:
            chosen, last = OPTIMIZERS[name], [optax.scale_by_learning_rate(rate)]
            settings = chosen.settings(values)
            low = numbers.get("base_momentum")
            parts = chosen.make(**settings) if low is None else [_cycling(chosen, settings, low, total_steps)]
            if "weight_decay" in values:
                decay = optax.add_decayed_weights(values["weight_decay"], None if recipe.decay_biases else _kernels)
                parts.insert(len(parts) if chosen.decoupled else 0, decay)
            if chosen.trusted:
                parts.append(optax.scale_by_trust_ratio())
        else:
            parts, last = [own(rate)], []
        if "clip_norm" in numbers:
            parts.insert(0, clip_by_norm(numbers["clip_norm"]))
        if recipe.schedule != "constant" or recipe.warmup_epochs:
            parts.append(optax.scale_by_schedule(shape(recipe, total_steps, steps_per_epoch)))
        return optax.chain(*parts, *last)

    keywords = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in numbers]
    factory.__dict__["__signature__"] = inspect.Signature(keywords)  # which optax goes by
    return optax.inject_hyperparams(factory, hyperparam_dtype=dtype)(**numbers)


def _cycling(
    chosen: Optimizer, settings: Mapping[str, Any], low: jax.Array, total_steps: int
) -> optax.GradientTransformation:
    """An optimizer whose momentum falls to `low` while the rate of one cycle rises, and rises again while it falls."""
    name = next(name for name in CYCLED if name in settings)
    high, cycle = settings[name], _half_cosines(total_steps)

    def momentum(step: jax.Array) -> jax.Array:
        return high + (low - high) * cycle(step)[0].astype(low.dtype)

    return following(momentum, lambda value: optax.chain(*chosen.make(**{**settings, name: value})))


def _kernels(params: optax.Params) -> optax.Params:
    """Which parameters have several axes: not biases, nor scales and shifts of norms."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def clip_by_norm(norm: jax.Array) -> optax.GradientTransformation:
    """Scale a gradient down to an L2 norm over all parameters, as `torch.nn.utils.clip_grad_norm_` does."""

    def clip(gradient: optax.Updates, params: optax.Params | None) -> optax.Updates:
        factor = jnp.minimum(1.0, norm / (optax.tree.norm(gradient) + 1e-6))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), gradient)

    return optax.stateless(clip)


def check_own(recipe: Recipe, params: optax.Params) -> None:
    """Raise `UserError` unless an optimizer of one's own can update `params`, which may be abstract."""
    name = recipe.optimizer
    if not isinstance(name, str) or not is_own(name):
        return
    own = import_function("optimizer", name)
    if not callable(own):
        raise UserError(f"optimizer {name!r} is {own!r}: give a function of the learning rate")
    try:
        made = own(jnp.asarray(0.1, jnp.float32))
        if not all(callable(getattr(made, method, None)) for method in ("init", "update")):
            raise UserError(
                f"optimizer {name!r} gives a {type(made).__name__}: return an optax transformation, such as "
                "optax.adam(learning_rate)"
            )
        tx = build_optimizer(dataclasses.replace(recipe, learning_rate=0.1), 1, 1)
        before = jax.eval_shape(lambda params: (params, tx.init(params)), params)
        after = jax.eval_shape(lambda params, state: update(tx, params, params, state), *before)
    except UserError:
        raise
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise UserError(
            f"optimizer {name!r} needs its learning rate as a number, but it is an array that varies within a program: "
            "compute with jax.numpy, without float() and if"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"optimizer {name!r} cannot be used ({type(error).__name__}: {reason}): give a function of the learning "
            "rate that returns an optax transformation"
        ) from error
    was, becomes = (
        (jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)])
        for tree in (before, after)
    )
    if was != becomes:
        raise UserError(f"optimizer {name!r} changes the shape or type of its state or of what it updates: keep them")


def update(
    tx: optax.GradientTransformation, gradient: optax.Updates, params: optax.Params, state: optax.OptState
) -> tuple[optax.Params, optax.OptState]:
    """Parameters and the optimizer's state after an update by a gradient."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes integers and floats
        updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def init_many(
    recipes: Sequence[Recipe],
    total_steps: int,
    steps_per_epoch: int,
    params: optax.Params,
    dtype: jnp.dtype = jnp.float32,
) -> optax.OptState:
    """The states of several recipes' optimizers, alike but for their numbers; every array has an axis of members."""
    if is_own(recipes[0].optimizer):  # whose state may depend on the learning rate
        inits = [build_optimizer(recipe, total_steps, steps_per_epoch, dtype).init for recipe in recipes]
        states = [init(jax.tree.map(lambda x, k=k: x[k], params)) for k, init in enumerate(inits)]
        return jax.tree.map(lambda *x: jnp.stack(x), *states)
    tx = build_optimizer(recipes[0], total_steps, steps_per_epoch, dtype)
    state = jax.jit(jax.vmap(tx.init))(params)
    if not isinstance(recipes[0].optimizer, str):
        return state
    numbers = [numbers_of(recipe) for recipe in recipes]
    given = {k: jnp.asarray([n[k] for n in numbers], dtype) for k, v in numbers[0].items() if not callable(v)}
    return state._replace(hyperparams={**state.hyperparams, **given})


def numbers_of(recipe: Recipe) -> dict[str, float | optax.Schedule]:
    """What the optimizer of a recipe is a function of."""
    given = [name for name in OF_OPTIMIZER if name in VARYING and name in recipe.given]
    return {name: getattr(recipe, name) for name in dict.fromkeys([*ALWAYS, *given])}


def shape(recipe: Recipe, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The schedule as a factor on the learning rate: a linear rise, then what `SCHEDULES` says.

    "one_cycle" is PyTorch's `OneCycleLR` with its defaults: from 1/25 to 1 in 0.3 of the steps, then to 4e-6.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    after = max(total_steps - warmup, 1)
    tail = {
        "constant": lambda: optax.constant_schedule(1.0),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, after, recipe.end_factor),
        "linear": lambda: optax.linear_schedule(1.0, recipe.end_factor, after),
        "step": lambda: _in_steps(after, recipe, steps_per_epoch, warmup),
        "one_cycle": lambda: _one_cycle(after),
    }[recipe.schedule]()
    rise = optax.linear_schedule(recipe.start_factor, 1.0, warmup)
    return optax.join_schedules([rise, tail], [warmup]) if warmup else tail


def _in_steps(steps: int, recipe: Recipe, steps_per_epoch: int, warmup: int) -> optax.Schedule:
    """Down by a factor at milestones, every so many epochs, or at half of the steps and again at three quarters."""
    factor = recipe.step_factor
    if recipe.milestones:
        at = [round(epochs * steps_per_epoch) - warmup for epochs in recipe.milestones]
        return lambda count: jnp.asarray(factor, jnp.float32) ** sum(jnp.asarray(count >= n, jnp.float32) for n in at)
    if recipe.step_epochs is not None:
        every = max(round(recipe.step_epochs * steps_per_epoch), 1)
        return lambda count: jnp.asarray(factor, jnp.float32) ** jnp.asarray(count // every, jnp.float32)
    return lambda count: jnp.where(count < steps // 2, 1.0, jnp.where(count < 3 * steps // 4, factor, factor**2))


def _half_cosines(steps: int) -> Callable[[jax.typing.ArrayLike], tuple[jax.Array, jax.Array]]:
    """The share of the way to the top, and whether the top is still to come; as in PyTorch, optax's turns later."""
    top = max(0.3 * steps - 1, 1e-6)

    def at(count: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
        step = jnp.minimum(jnp.asarray(count, jnp.float32), max(steps - 1, 0))
        rise, fall = step / top, jnp.maximum(step - top, 0.0) / max(steps - 1 - top, 1e-6)
        rises = step <= top
        return 0.5 * (1 + jnp.cos(jnp.pi * jnp.where(rises, 1 - rise, fall))), rises

    return at


def _one_cycle(steps: int) -> optax.Schedule:
    cycle = _half_cosines(steps)

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        share, rises = cycle(count)
        low = jnp.where(rises, 1 / 25, 4e-6)
        return low + (1 - low) * share

    return at
