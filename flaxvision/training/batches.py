"""Which examples a step sees: an epoch's order, and one device's share of a batch, padded and masked."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxvision.data.stream import Stream

Examples = tuple[jax.Array, jax.Array]  # images as stored, labels


class Partners(NamedTuple):
    """With which example of the whole batch each one is mixed: the one before it, and the last one with the first."""

    images: jax.Array  # as in `Batch`
    labels: jax.Array
    indices: jax.Array
    rows: jax.Array | None = None


class Batch(NamedTuple):
    """Examples of one step, or one device's share of them."""

    images: jax.Array  # (B, *input_shape) as stored
    labels: jax.Array  # int32 (B,)
    indices: jax.Array  # int32 (B,): of each example in the whole batch
    mask: jax.Array | None  # bool (B,): False is padding; None when there is none
    partners: Partners | None = None  # None where the recipe does not mix examples
    rows: jax.Array | None = None  # int32 (B,): where in the training split each example lies; None in evaluation


class Shard(NamedTuple):
    """One device of several that share each batch."""

    rank: jax.Array | int  # which device, from 0
    devices: int  # how many share a batch


WHOLE = Shard(0, 1)


def epoch_order(
    seed: jax.Array | np.uint32, epoch: jax.Array | np.uint32, examples: int, stream: Stream | None = None
) -> jax.Array:
    """The order, int32 (examples,), in which epoch `epoch` (from 0) of a run with `seed` sees its examples."""
    key = _key_of_epoch(seed, epoch)
    if stream is None:
        return jax.random.permutation(key, jnp.arange(examples, dtype=jnp.int32))
    mixed = jax.random.permutation(jax.random.fold_in(key, 1), jnp.arange(examples, dtype=jnp.int32))
    turns = jnp.argsort(block_order(seed, epoch, stream.blocks_of(examples)))  # of each block
    window = turns[mixed // stream.block] // stream.blocks
    return mixed[jnp.argsort(window, stable=True)]


def block_order(seed: jax.Array | np.uint32, epoch: jax.Array | np.uint32, blocks: int) -> jax.Array:
    """The order, int32 (blocks,), in which an epoch of a streamed data set reads its blocks."""
    return jax.random.permutation(_key_of_epoch(seed, epoch), jnp.arange(blocks, dtype=jnp.int32))


def _key_of_epoch(seed: jax.Array | np.uint32, epoch: jax.Array | np.uint32) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)


def take_batch(
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array | None,
    start: jax.Array,
    size: int,
    shard: Shard = WHOLE,
    *,
    padded: bool = False,
    mixed: bool = False,
) -> Batch:
    """The examples from `start` on, `size` of them, in `order` (None: as stored); a device takes its share.

    Shares are equal, the last ones padded: 5 examples on 8 devices give 5 devices one each and 3 devices none. With
    `padded` there may be fewer than `size` examples left, and padding fills the batch. With `mixed` each has a partner.
    """
    share = -(-size // shard.devices)
    indices = jnp.asarray(shard.rank, jnp.int32) * share + jnp.arange(share, dtype=jnp.int32)
    if order is None and shard.devices == 1 and not (padded or mixed):
        images, labels = (lax.dynamic_slice_in_dim(array, start, size) for array in (images, labels))
        return Batch(images, labels, indices, None, rows=start + indices)
    last = jnp.minimum(size, len(labels) - start) - 1 if padded else size - 1

    def at(indices: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        chosen = start + indices if order is None else order[start + indices]
        return images[chosen], labels[chosen], chosen

    real = jnp.minimum(indices, last)
    before = jnp.where(real == 0, last, real - 1)
    mask = indices <= last if padded or size % shard.devices else None
    images_of_batch, labels_of_batch, rows = at(real)
    partners = None
    if mixed:
        others, their_labels, their_rows = at(before)
        partners = Partners(others, their_labels, before, their_rows)
    return Batch(images_of_batch, labels_of_batch, indices, mask, partners, rows)


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
