"""What a training run carries from step to step, as arrays only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flaxvision.layers import Chain
from flaxvision.layers.context import matches


class TrainState(NamedTuple):
    """One run between two steps; every number that may differ between trials is an array in here."""

    params: nnx.State  # what learns
    stats: nnx.State  # running BatchNorm statistics
    fixed: nnx.State  # frozen parameters and layer hyperparameters such as dropout rates
    opt: optax.OptState
    step: jax.Array  # int32 (): updates done
    seed: jax.Array  # uint32 (): of order, dropout and augmentation
    smoothing: jax.Array | None = None  # (): of labels; None: none


def split_model(model: Chain, frozen: tuple[str, ...]) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
    """The model as its static definition, the parameters that learn, the running statistics, and the rest."""

    def learns(path: tuple, variable: Any) -> bool:
        return isinstance(variable, nnx.Param) and not matches(model.names[path[1]], frozen)

    graphdef, params, *others = nnx.split(model, learns, nnx.BatchStat, ...)
    stats, fixed = others
    return graphdef, params, stats, fixed


def init_state(
    model: Chain, frozen: tuple[str, ...], tx: optax.GradientTransformation, seed: int, smoothing: float = 0.0
) -> TrainState:
    """The state before the first step; it shares no buffer with the model, so that it may be donated."""
    _, *parts = split_model(model, frozen)
    params, stats, fixed = jax.tree.map(lambda x: jnp.array(np.asarray(x)), parts)  # `jnp.copy` compiles every shape
    step, smooth = jnp.zeros((), jnp.int32), jnp.asarray(np.asarray(smoothing)) if smoothing else None
    return TrainState(params, stats, fixed, tx.init(params), step, jnp.asarray(seed, jnp.uint32), smooth)


def init_states(
    models: Sequence[Chain],
    frozen: tuple[str, ...],
    init: Callable[[nnx.State], optax.OptState],
    seeds: Sequence[int],
    smoothings: Sequence[float],
) -> TrainState:
    """The states of several members as one, every array with an axis of members; `init` makes the optimizers'."""
    parts = zip(*(split_model(model, frozen)[1:] for model in models), strict=True)
    params, stats, fixed = (jax.tree.map(lambda *x: np.stack(x), *part) for part in parts)
    step, seed = jnp.zeros(len(models), jnp.int32), jnp.asarray(seeds, jnp.uint32)
    smoothing = jnp.asarray(np.asarray(smoothings)) if any(smoothings) else None
    return TrainState(params, stats, fixed, init(params), step, seed, smoothing)


def merge_model(graphdef: nnx.GraphDef, state: TrainState) -> Chain:
    """A new model with the state's variables."""
    return nnx.merge(graphdef, state.params, state.stats, state.fixed, copy=True)
