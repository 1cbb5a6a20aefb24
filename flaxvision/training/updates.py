"""A recipe's optimizer as one optax transformation whose numbers are arrays in its state."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxvision._own_code import import_function
from flaxvision.errors import UserError
from flaxvision.training.optimizers import NUMBERS, OPTIMIZERS, Optimizer, is_own
from flaxvision.training.recipe import Recipe
from flaxvision.training.schedules import shape

ALWAYS = ("momentum", "weight_decay")  # in the state even where they are 0, as in all checkpoints so far


def make_optimizer(
    recipe: Recipe, total_steps: int, steps_per_epoch: int
) -> Callable[..., optax.GradientTransformation]:
    """The optimizer as a function of its numbers: of `numbers_of`, by keyword."""
    name, given = str(recipe.optimizer), recipe.given
    own = import_function("optimizer", name) if is_own(name) else None

    def optimizer(**numbers: Any) -> optax.GradientTransformation:
        rate, values = numbers["learning_rate"], {key: numbers.get(key, value) for key, value in given.items()}
        if own is None:
            parts, last = _scaled(OPTIMIZERS[name], values), [optax.scale_by_learning_rate(rate)]
        else:
            parts, last = [own(rate)], []
        if "clip_norm" in values:
            parts.insert(0, clip_by_norm(values["clip_norm"]))
        if recipe.schedule != "constant" or recipe.warmup_epochs:
            parts.append(optax.scale_by_schedule(shape(recipe, total_steps, steps_per_epoch)))
        return optax.chain(*parts, *last)

    keywords = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in numbers_of(recipe)]
    optimizer.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]  # which optax goes by
    return optimizer


def _scaled(chosen: Optimizer, values: dict[str, Any]) -> list[optax.GradientTransformation]:
    """From gradients to updates that only lack the learning rate."""
    parts = chosen.make(**chosen.settings(values))
    if "weight_decay" in values:
        parts.insert(len(parts) if chosen.decoupled else 0, optax.add_decayed_weights(values["weight_decay"]))
    return parts


def clip_by_norm(norm: jax.Array) -> optax.GradientTransformation:
    """Scale a gradient down to an L2 norm over all parameters, as `torch.nn.utils.clip_grad_norm_` does."""

    def clip(gradient: Any, params: Any) -> Any:
        factor = jnp.minimum(1.0, norm / (optax.tree.norm(gradient) + 1e-6))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), gradient)

    return optax.stateless(clip)


def check_own(recipe: Recipe, params: Any) -> None:
    """Raise `UserError` unless an optimizer of one's own can update `params`, which may be abstract."""
    name = recipe.optimizer
    if not isinstance(name, str) or not is_own(name):
        return
    own = import_function("optimizer", name)
    if not callable(own):
        raise UserError(f"optimizer {name!r} is {own!r}: give a function of the learning rate")
    try:
        made = own(jnp.asarray(0.1, jnp.float32))
        if not callable(getattr(made, "init", None)) or not callable(getattr(made, "update", None)):
            raise UserError(
                f"optimizer {name!r} gives a {type(made).__name__}: return an optax transformation, such as "
                "optax.adam(learning_rate)"
            )
        tx = build_optimizer(dataclasses.replace(recipe, learning_rate=0.1), 1, 1)
        before, after = jax.eval_shape(lambda params: _updated_once(tx, params), params)
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
    if _shapes(before) != _shapes(after):
        raise UserError(f"optimizer {name!r} changes the shape or type of its state or of what it updates: keep them")


def _updated_once(tx: optax.GradientTransformation, params: Any) -> Any:
    """Parameters and the optimizer's state before and after an update."""
    before = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):
        updates, after = tx.update(params, before, params)
    return (params, before), (optax.apply_updates(params, updates), after)


def _shapes(tree: Any) -> tuple[Any, list[Any]]:
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


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
    if is_own(recipes[0].optimizer):  # whose state may depend on the learning rate
        members = [jax.tree.map(lambda x, k=k: x[k], params) for k in range(len(recipes))]
        inits = [build_optimizer(recipe, total_steps, steps_per_epoch, dtype).init for recipe in recipes]
        states = [init(member) for init, member in zip(inits, members, strict=True)]
        return jax.tree.map(lambda *x: jnp.stack(x), *states)
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
