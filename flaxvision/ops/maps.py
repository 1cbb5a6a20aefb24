"""A batch of maps with its layout: the batch first, or last where channels are few.

Where channels are few the batch is the better axis to vectorize over. Layers hand such maps on with the batch last, and
the next ones take them so, as long as they can: between two transpositions XLA computes in either order, and stores
both. In mnist_net at batch 1024 those copies took 270 of 390 us an example. Maps of many channels that come batch last
stay so: a network of one convolution from 16 to 64 channels, BatchNorm, ReLU, dropout, max-pool and a linear layer took
200 us an example for 300 at batch 32, and was not slower at 8.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import lax


class Maps(NamedTuple):
    """A batch of maps, (N, H, W, C) with the batch first or (C, H, W, N) with it last; of vectors, (N, D) or (D, N)."""

    array: jax.Array
    batch_is_last: bool = False

    def first(self) -> jax.Array:
        """The array with the batch first."""
        return swap_ends(self.array) if self.batch_is_last else self.array

    def last(self) -> jax.Array:
        """The array with the batch last."""
        return self.array if self.batch_is_last else swap_ends(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C) or (N, D), wherever the batch lies."""
        shape = self.array.shape
        return (shape[-1], *shape[1:-1], shape[0]) if self.batch_is_last else shape

    @property
    def features(self) -> int:
        """The axis of the channels."""
        return 0 if self.batch_is_last else self.array.ndim - 1

    @property
    def examples(self) -> int:
        """The axis of the batch."""
        return self.array.ndim - 1 if self.batch_is_last else 0

    def few_last(self, below: int) -> Maps:
        """The same maps, with the batch last where there are fewer channels than `below`."""
        few = self.array.ndim == 4 and self.shape[3] < below
        return Maps(self.last(), True) if few else self

    def along_features(self, vector: jax.Array) -> jax.Array:
        """One value per channel, shape (C,), as it is broadcast over the array."""
        shape = [1] * self.array.ndim
        shape[self.features] = -1
        return vector.reshape(shape)


def swap_ends(x: jax.Array) -> jax.Array:
    """(N, H, W, C) to (C, H, W, N), or (N, D) to (D, N), and back."""
    return x.swapaxes(0, -1)


def alike(*several: Maps) -> list[Maps]:
    """Maps in one layout: that of the largest, and of several such the batch first."""
    last = max(several, key=lambda maps: (maps.array.size, not maps.batch_is_last)).batch_is_last
    return [Maps(maps.last(), True) if last else Maps(maps.first()) for maps in several]


def flattened(maps: Maps) -> Maps:
    """Maps as vectors of C * H * W values in PyTorch's order: channel, row, column.

    With the batch last they are so already. Else the barriers keep XLA from fusing the transposition with what comes
    before and after: it would compute that anew, value by value, along strides (5 % of a step of wide_cnn).
    """
    examples, height, width, channels = maps.shape
    if maps.batch_is_last:
        return Maps(maps.array.reshape(-1, examples), True)
    if min(height * width, channels) == 1:  # one order is the other
        return Maps(maps.array.reshape(examples, -1))
    turned = lax.optimization_barrier(lax.optimization_barrier(maps.array).transpose(0, 3, 1, 2))
    return Maps(turned.reshape(examples, -1))
