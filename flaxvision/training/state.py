"""What a training run carries from step to step, as arrays only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import ArrayLike

from flaxvision.layers import Chain
from flaxvision.layers.context import matches
from flaxvision.ops.arrays import from_numpy
from flaxvision.training.averaging import first_average
from flaxvision.training.members import Members, Separate, Stacked
from flaxvision.training.recipe import OF_STEP, Recipe
from flaxvision.training.updates import build_optimizer, init_many

if TYPE_CHECKING:
    from flaxvision.training.plan import Plan


class TrainState(NamedTuple):
    """One run between two steps; every number that may differ between trials is an array in here."""

    params: nnx.State  # what learns
    stats: nnx.State  # running BatchNorm statistics
    non_trainable: nnx.State  # frozen parameters and layer hyperparameters such as dropout rates
    opt: optax.OptState
    step: jax.Array  # int32 (): updates done
    seed: jax.Array  # uint32 (): of order, dropout and augmentation
    numbers: dict[str, jax.Array]  # (): those given of the recipe's `OF_STEP`, float32 or, by its precision, float64
    average: tuple[nnx.State, nnx.State] | None  # of `params` and `stats`, see `averaging`; None: there is none

    @property
    def variables(self) -> nnx.State:
        """Those of the model: what evaluation reads."""
        params, stats = (self.params, self.stats) if self.average is None else self.average
        return nnx.merge_state(params, stats, self.non_trainable)

    @property
    def selected(self) -> TrainState:
        """What is kept of the selected epoch: what evaluation reads, without the optimizer's state."""
        params, stats = (self.params, self.stats) if self.average is None else self.average
        return self._replace(params=params, stats=stats, opt=(), average=None)


def split_model(model: Chain, frozen: tuple[str, ...]) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
    """The model as its static definition, the parameters that learn, the running statistics, and the rest."""
    names = model.parameter_names()

    def learns(path: tuple, variable: object) -> bool:
        return isinstance(variable, nnx.Param) and not matches(names[path], frozen)

    graphdef, params, *others = nnx.split(model, learns, nnx.BatchStat, ...)
    stats, non_trainable = others
    return graphdef, params, stats, non_trainable


def init_members(models: Sequence[Chain], recipes: Sequence[Recipe], plan: Plan) -> Members[TrainState]:
    """The states before the first step, a model and a recipe each.

    They share no buffer with the models, so that they may be donated.
    """
    dtype = jnp.dtype("float64" if recipes[0].precision == "float64" else "float32")
    duration = plan.total_steps, plan.steps_per_epoch

    def init(models: Sequence[Chain], recipes: Sequence[Recipe]) -> TrainState:
        def joined(*x: ArrayLike) -> jax.Array:
            return from_numpy(np.stack(x) if plan.stacked else np.asarray(x[0]))

        parts = zip(*(split_model(model, recipes[0].frozen)[1:] for model in models), strict=True)
        params, stats, non_trainable = (jax.tree.map(joined, *part) for part in parts)
        step, seed = joined(*[np.int32(0)] * len(recipes)), joined(*(np.uint32(recipe.seed) for recipe in recipes))
        given = [name for name in OF_STEP if name in recipes[0].given]
        numbers = {name: joined(*(np.asarray(getattr(recipe, name), dtype) for recipe in recipes)) for name in given}
        one = build_optimizer(recipes[0], *duration, dtype)
        opt = init_many(recipes, *duration, params, dtype) if plan.stacked else one.init(params)
        average = first_average(recipes[0], (params, stats))
        return TrainState(params, stats, non_trainable, opt, step, seed, numbers, average)

    if plan.stacked:
        return Stacked(init(models, recipes))
    return Separate(tuple(init([model], [recipe]) for model, recipe in zip(models, recipes, strict=True)))


def merge_model(graphdef: nnx.GraphDef, state: TrainState) -> Chain:
    """A new model with the state's variables."""
    return nnx.merge(graphdef, state.params, state.stats, state.non_trainable, copy=True)


def on_its_own(state: TrainState) -> TrainState:
    """A copy on the host: a view would keep all members' arrays, and the next step takes those on a device."""
    return jax.tree.map(np.array, jax.device_get(state))


def with_numbers(state: TrainState, numbers: Mapping[str, float]) -> TrainState:
    """A member's state with other numbers of its recipe, which it has; an optimizer given as an object holds none."""

    def changed(held: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: jnp.asarray(numbers[name], x.dtype) if name in numbers else x for name, x in held.items()}

    opt = state.opt
    if hasattr(opt, "hyperparams"):
        opt = opt._replace(hyperparams=changed(opt.hyperparams))
    return state._replace(opt=opt, numbers=changed(state.numbers))


def cast(state: nnx.State, dtype: jnp.dtype) -> nnx.State:
    """Floating-point arrays as `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)


def layer_of(path: tuple) -> int:
    """The position among the model's layers of the one that a leaf of `params` belongs to."""
    return int(path[1].key)
