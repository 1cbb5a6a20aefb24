"""Whether the network that was read gives the outputs of the model that it was read from, on random images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import Activation, Network, Preprocess

if TYPE_CHECKING:
    from flaxvision.models.reading.reader import Reader

EXAMPLES = 3
TOLERANCE = 1e-4  # of the largest number; float32 loses some 1e-6 in a deep network
HALVES = {"float16": 1e-2, "bfloat16": 5e-2}  # the same of a model that computes in it
PIXELS = 255  # the largest number of an image as it is stored


def examples(network: Network, count: int = EXAMPLES, *, whole: bool = False) -> np.ndarray:
    """Random examples (N, H, W, C) or (N, D): such as are stored, where the network scales them itself."""
    shape, random = (count, *network.input_shape), np.random.default_rng(0)
    if network.preprocess == Preprocess() and not whole:
        return random.standard_normal(shape).astype(np.float32)
    return random.integers(0, PIXELS + 1, shape).astype(np.float32)


def outputs(network: Network, inputs: np.ndarray, ending: str) -> np.ndarray:
    """What the network gives with its preprocessing and the activation that was left out, in float64."""
    graphdef, state = nnx.split(network)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), state)

        def run(state: nnx.State, x: jax.Array) -> jax.Array:
            scores = nnx.merge(graphdef, state, copy=True)(network.preprocess(x, jnp.dtype(jnp.float64)))
            return Activation(ending)(scores) if ending else scores

        return np.asarray(jax.jit(run)(wide, jnp.asarray(inputs, jnp.float64)))


def check_same(
    what: str,
    network: Network,
    reader: Reader,
    theirs: Callable[[np.ndarray], np.ndarray],
    inputs: np.ndarray,
) -> None:
    """Raise unless the network gives `theirs(inputs)`; say where those are probabilities that predict would not expect.

    Args:
        what: The model that it was read from, for messages.
        network: As read.
        reader: What was found: the activation that was left out at the end, and how far outputs may be apart.
        theirs: The outputs of that model in our order of axes.
        inputs: Examples as they are stored.

    Raises:
        UserError: If they differ, with the largest difference; or if there is nothing finite to compare.
    """
    given, wanted = outputs(network, inputs, reader.ending), np.asarray(theirs(inputs), np.float64)
    finite = np.isfinite(wanted)
    if not finite.any():
        raise UserError(f"{what} gives no finite number on random examples: give a model whose weights are finite")
    tolerance = reader.tolerance
    largest = max(float(np.abs(wanted[finite]).max()), 1e-6)
    same = given.shape == wanted.shape and np.allclose(given, wanted, rtol=0, atol=tolerance * largest, equal_nan=True)
    if not same:
        shapes = "" if given.shape == wanted.shape else f", of shape {given.shape} instead of {wanted.shape},"
        worst = np.abs(given - wanted)[finite].max() if not shapes else np.nan
        raise UserError(
            f"{what}: the network that was read differs from it on random examples{shapes} by {worst:.2g} "
            f"(of {largest:.2g}), so it is not used: grow it with fv.models.Build, and please report the model"
        )
    if wanted.ndim == 2 and not reader.ending:
        sums_to_one = wanted.shape[1] > 1 and wanted.min() >= 0 and np.allclose(wanted.sum(axis=1), 1, atol=tolerance)
        if sums_to_one or reader.last_activation() is not None:
            reader.say(
                "its outputs are probabilities, which predict and fit take for scores: leave out what makes them"
            )
