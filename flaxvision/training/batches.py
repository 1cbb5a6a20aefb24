"""Which examples a step sees: an epoch's order, one device's share of a batch, padded and masked, and augmentation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CROP_PADDING = 4  # pixels on each side, as in He et al. (CVPR 2016) for CIFAR-10
Examples = tuple[jax.Array, jax.Array]  # images as stored, labels


class Batch(NamedTuple):
    """Examples of one step, or one device's share of them."""

    images: jax.Array  # (B, *input_shape) as stored
    labels: jax.Array  # int32 (B,)
    indices: jax.Array  # int32 (B,): of each example in the whole batch
    mask: jax.Array | None  # bool (B,): False is padding; None when there is none


class Shard(NamedTuple):
    """One device of several that share each batch."""

    rank: jax.Array | int  # which device, from 0
    devices: int  # how many share a batch


WHOLE = Shard(0, 1)


def epoch_order(seed: jax.Array | np.uint32, epoch: jax.Array, examples: int) -> jax.Array:
    """The order, int32 (examples,), in which epoch `epoch` (from 0) of a run with `seed` sees its examples."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    return jax.random.permutation(key, jnp.arange(examples, dtype=jnp.int32))


def take_batch(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array | None,
    start: jax.Array,
    size: int,
    shard: Shard = WHOLE,
    *,
    padded: bool = False,
) -> Batch:
    """The examples from `start` on, `size` of them, in `order` (None: as stored); a device takes its share.

    Shares are equal, the last ones padded: 5 examples on 8 devices give 5 devices one each and 3 devices none. With
    `padded` there may be fewer than `size` examples left, and padding fills the batch.
    """
    share = -(-size // shard.devices)
    indices = jnp.asarray(shard.rank, jnp.int32) * share + jnp.arange(share, dtype=jnp.int32)
    if order is None and shard.devices == 1 and not padded:
        images, labels = (lax.dynamic_slice_in_dim(array, start, size) for array in (images, labels))
        return Batch(images, labels, indices, None)
    last = jnp.minimum(size, len(labels) - start) - 1 if padded else size - 1
    chosen = start + jnp.minimum(indices, last)
    if order is not None:
        chosen = order[chosen]
    mask = indices <= last if padded or size % shard.devices else None
    return Batch(images[chosen], labels[chosen], indices, mask)


def split_batch(batch: Batch, most: int) -> Batch:
    """A batch in equal parts of at most `most` examples, on a new leading axis; the last one may be padded."""
    examples = len(batch.labels)
    parts = -(-examples // most)
    size = -(-examples // parts)
    if parts * size != examples:
        number = jnp.arange(parts * size, dtype=jnp.int32)
        real = number < examples
        batch = jax.tree.map(lambda x: x[jnp.minimum(number, examples - 1)], batch)
        batch = batch._replace(mask=real if batch.mask is None else batch.mask & real)
    return jax.tree.map(lambda x: x.reshape(parts, size, *x.shape[1:]), batch)


def take_range(
    images: jax.Array, labels: jax.Array, start: jax.Array, stop: jax.Array, size: int, shard: Shard = WHOLE
) -> Batch:
    """The examples from `start` on, `size` of them but none from `stop` on, as stored; a device takes its share.

    What does not count is masked, so that one compiled program serves ranges of any length.
    """
    share = -(-size // shard.devices)
    indices = jnp.asarray(shard.rank, jnp.int32) * share + jnp.arange(share, dtype=jnp.int32)
    begin = jnp.minimum(start, len(labels) - size)  # not past the end: the last batch begins earlier
    chosen = begin + indices
    mask = (indices < size) & (chosen >= start) & (chosen < stop)
    if shard.devices == 1:
        images, labels = (lax.dynamic_slice_in_dim(array, begin, size) for array in (images, labels))
    else:
        images, labels = (array[begin + jnp.minimum(indices, size - 1)] for array in (images, labels))
    return Batch(images, labels, indices, mask)


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
