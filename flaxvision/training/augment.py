"""Augmentation of training images within the compiled step; every draw belongs to seed, step and place in the batch.

In this order: a random crop and a flip; rotation and translation; brightness; contrast; the alternating flip (all on
pixels as stored); cutout (of the network's input, where it sets zeros). Numbers are arrays, by which the trials of a
program may differ. Draws are of float32, and what is computed of them is of the numbers' type, float64 with
`precision="float64"`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from flaxvision.training.recipe import Recipe

Numbers = Mapping[str, jax.Array]  # those of a recipe that the step reads, () each
WHITE = 255.0
GRAY = 0.299, 0.587, 0.114  # shares of red, green and blue (ITU-R BT.601), as PIL and torchvision have it
# What each draw's key is made with: far from 0 and 1, which are the crop's and the flip's.
DRAWS = {"rotation": 16, "translation": 17, "brightness": 18, "contrast": 19, "cutout": 20}
FIRST_FLIP = 3  # what the run's key is made with: 1 and 2 are those of orders and steps
ON_PIXELS = ("rotation", "translation", "brightness", "contrast")


def is_drawn(recipe: Recipe) -> bool:
    """Whether a recipe changes single images at random."""
    return bool(recipe.augment) or any(name in recipe.given for name in DRAWS)


def augment_pixels(recipe: Recipe, numbers: Numbers, images: jax.Array, keys: jax.Array) -> jax.Array:
    """What a recipe does to images as stored, (B, H, W, C), with one key an example, shape (B,)."""
    if recipe.augment:
        images = augment_images(recipe.augment, images, keys, recipe.crop_padding, recipe.crop_padding_mode)
    if not numbers.keys() & ON_PIXELS:
        return images

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        if "rotation" in numbers or "translation" in numbers:
            turn = _drawn(numbers, "rotation", key)
            share = _drawn(numbers, "translation", key, 2)
            shift = None if share is None else jnp.round(share * jnp.asarray(image.shape[:2], share.dtype))
            image = moved(image, None if turn is None else jnp.deg2rad(turn), shift)
        for name, change in (("brightness", brightened), ("contrast", contrasted)):
            if (factor := _drawn(numbers, name, key)) is not None:
                image = change(image, 1 + factor)
        return image

    return jax.vmap(one)(images, keys)


def augment_inputs(numbers: Numbers, inputs: jax.Array, keys: jax.Array) -> jax.Array:
    """What a recipe does to the network's input, (B, H, W, C), with one key an example, shape (B,)."""
    if "cutout" not in numbers:
        return inputs
    height, width = inputs.shape[1:3]

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        key = jax.random.fold_in(key, DRAWS["cutout"])
        at = jax.random.randint(key, (2,), 0, jnp.asarray((height, width), jnp.int32), jnp.int32)
        half = half_sides(numbers["cutout"], height, width)
        return jnp.where(inside(at - half, at + half, height, width), jnp.zeros((), image.dtype), image)

    return jax.vmap(one)(inputs, keys)


def augment_images(
    kinds: tuple[str, ...], images: jax.Array, keys: jax.Array, padding: int = 4, mode: str = "zeros"
) -> jax.Array:
    """Augment uint8 or float images (B, H, W, C) with one key an example, shape (B,).

    "crop" pads (4 pixels of zeros are He et al.'s, CVPR 2016) and cuts a random window of the old size; "flip" mirrors
    left to right with probability one half; "alternating_flip" is `alternately`'s.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if "crop" in kinds:
            around = ((padding, padding), (padding, padding), (0, 0))
            padded = jnp.pad(image, around, mode="reflect") if mode == "reflect" else jnp.pad(image, around)
            row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1, jnp.int32)
            image = lax.dynamic_slice(padded, (row, column, jnp.zeros((), row.dtype)), image.shape)
        if "flip" in kinds:
            image = jnp.where(jax.random.bernoulli(flip_key, jnp.float32(0.5)), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images, keys) if kinds else images


def alternately(seed: jax.Array, rows: jax.Array, epoch: jax.Array) -> jax.Array:
    """Which examples of a data set are mirrored in an epoch (from 0), bool (B,): in each one what they were not before.

    Drawn for the first epoch with probability one half, by seed and `rows`, int32 (B,), where the examples lie.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(jax.random.key(seed), FIRST_FLIP), rows)
    first = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(0.5)))(keys)
    return first ^ (epoch % 2 == 1)


def flip(images: jax.Array, which: jax.Array) -> jax.Array:
    """Images (B, H, W, C), those of `which`, bool (B,), mirrored left to right."""
    return jnp.where(which[:, None, None, None], images[:, :, ::-1], images)


def moved(image: jax.Array, angle: jax.Array | None, shift: jax.Array | None) -> jax.Array:
    """An image (H, W, C) turned counterclockwise about its centre, then moved by whole pixels down and right.

    What comes from outside is 0. Turned values are bilinear, of the angle's type; a move alone keeps type and values.
    """
    height, width, _ = image.shape
    dtype = jnp.float32 if angle is None else angle.dtype
    y, x = jnp.arange(height, dtype=dtype)[:, None], jnp.arange(width, dtype=dtype)[None, :]
    if shift is not None:
        y, x = (each - by.astype(dtype) for each, by in ((y, shift[0]), (x, shift[1])))  # whole numbers
    if angle is None:
        return _at(image, *(each.astype(jnp.int32) for each in jnp.broadcast_arrays(y, x)))
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    y, x = y * cosine + x * sine + (height - 1) / 2, x * cosine - y * sine + (width - 1) / 2
    top, left = jnp.floor(y), jnp.floor(x)
    found = jnp.zeros(image.shape, dtype)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - jnp.abs(y - top - down)) * (1 - jnp.abs(x - left - right))
            value = _at(image, top.astype(jnp.int32) + down, left.astype(jnp.int32) + right)
            found = found + weight[..., None] * value.astype(dtype)
    return found


def _at(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The pixels (H, W, C) at rows and columns (H, W); 0 where there is none."""
    height, width, _ = image.shape
    there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = image[jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
    return jnp.where(there[..., None], found, jnp.zeros((), image.dtype))


def brightened(image: jax.Array, factor: jax.Array) -> jax.Array:
    """An image (H, W, C) of pixels 0 to 255 times a factor, clipped, of the factor's type."""
    return jnp.clip(image.astype(factor.dtype) * factor, 0, WHITE)


def contrasted(image: jax.Array, factor: jax.Array) -> jax.Array:
    """An image (H, W, C) of pixels 0 to 255 with its difference from its mean gray times a factor, clipped."""
    pixels = image.astype(factor.dtype)
    gray = pixels @ jnp.asarray(GRAY, factor.dtype) if image.shape[-1] == len(GRAY) else pixels
    mean = gray.mean()
    return jnp.clip(mean + factor * (pixels - mean), 0, WHITE)


def half_sides(share: jax.Array, height: int, width: int) -> jax.Array:
    """Half of a box's sides, int32 (2,): rounded down, as in the code of Cutout and CutMix."""
    return jnp.floor(share.astype(jnp.float32) / 2 * jnp.asarray((height, width), jnp.float32)).astype(jnp.int32)


def inside(first: jax.Array, end: jax.Array, height: int, width: int) -> jax.Array:
    """Whether each pixel lies in the box from `first` up to but without `end` (row and column), bool (H, W, 1)."""
    rows = jnp.arange(height, dtype=jnp.int32)[:, None, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None, :, None]
    return (rows >= first[0]) & (rows < end[0]) & (columns >= first[1]) & (columns < end[1])


def _drawn(numbers: Numbers, name: str, key: jax.Array, count: int | None = None) -> jax.Array | None:
    """Uniform between minus and plus a number; None where it is not given."""
    if name not in numbers:
        return None
    most, shape = numbers[name], () if count is None else (count,)
    drawn = jax.random.uniform(jax.random.fold_in(key, DRAWS[name]), shape, jnp.float32, -1.0, 1.0)
    return most * drawn.astype(most.dtype)
