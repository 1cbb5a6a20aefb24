"""Random crops and flips of training images, drawn for each example by its own key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

CROP_PADDING = 4  # pixels on each side, as in He et al. (CVPR 2016) for CIFAR-10


def augment_images(kinds: tuple[str, ...], images: jax.Array, keys: jax.Array) -> jax.Array:
    """Augment uint8 or float images (B, H, W, C) with one key an example, shape (B,).

    "crop" pads by 4 pixels of zeros and cuts a random window of the old size; "flip" mirrors left to right with
    probability one half.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if "crop" in kinds:
            pad = CROP_PADDING
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            row, column = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1, jnp.int32)
            image = lax.dynamic_slice(padded, (row, column, jnp.zeros((), row.dtype)), image.shape)
        if "flip" in kinds:
            image = jnp.where(jax.random.bernoulli(flip_key, jnp.float32(0.5)), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images, keys) if kinds else images
