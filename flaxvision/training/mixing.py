"""Mixup and CutMix: how much of each image of a batch, and of its label, is its partner's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvision.training.augment import half_sides, inside
from flaxvision.training.batches import Partners

DRAW = 2**32 - 1  # what the key is made with: no place of a layer or of an example


class Mix(NamedTuple):
    """What one batch is mixed by, and with which examples."""

    share: jax.Array  # () of the numbers' type: of each example's own label
    own: jax.Array  # () or (1, H, W, 1) likewise: of its own value at each pixel
    partners: Partners

    def of_inputs(self, inputs: jax.Array, partners: jax.Array) -> jax.Array:
        """Inputs (B, ...) mixed with those of their partners."""
        own = self.own.astype(inputs.dtype)
        return own * inputs + (1 - own) * partners

    def of_labels(self, function: Callable[[jax.Array], jax.Array], labels: jax.Array) -> jax.Array:
        """A function (B,) of labels that is linear in them, such as a loss, of the mixed ones."""
        own = function(labels)
        share = self.share.astype(own.dtype)
        return share * own + (1 - share) * function(self.partners.labels)

    def commoner(self, labels: jax.Array) -> jax.Array:
        """The labels that have the larger share, by which predictions count as right."""
        return jnp.where(self.share >= 0.5, labels, self.partners.labels)


def draw_mix(numbers: Mapping[str, jax.Array], key: jax.Array, partners: Partners, shape: tuple[int, ...]) -> Mix:
    """The mix of a batch of examples of `shape`, by the alphas "mixup" and "cutmix", one or both, of `numbers`.

    The share is Beta(alpha, alpha). CutMix puts a box of the partner's pixels, whose area is the rest, at a uniform
    place; what lies outside the image is lost, and the share is what remains. With both, a coin decides.
    """
    coin, *keys = jax.random.split(jax.random.fold_in(key, np.uint32(DRAW)), 4)

    def drawn(name: str, key: jax.Array) -> jax.Array:
        alpha = numbers[name]
        return jax.random.beta(key, alpha, alpha, dtype=alpha.dtype)

    if "cutmix" not in numbers:
        share = drawn("mixup", keys[0])
        return Mix(share, share, partners)
    height, width = shape[:2]
    half = half_sides(jnp.sqrt(1 - drawn("cutmix", keys[1])), height, width)
    at = jax.random.randint(keys[2], (2,), 0, jnp.asarray((height, width), jnp.int32), jnp.int32)
    own = 1 - inside(at - half, at + half, height, width)[None].astype(numbers["cutmix"].dtype)
    share = own.mean()  # of zeros and ones, so that every order of summation gives it
    if "mixup" in numbers:
        other, heads = drawn("mixup", keys[0]), jax.random.bernoulli(coin, jnp.float32(0.5))
        share, own = (jnp.where(heads, other, each) for each in (share, own))
    return Mix(share, own, partners)
