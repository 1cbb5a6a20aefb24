"""Reading ahead of training: the blocks of a streamed data set that come next."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence

import numpy as np

from flaxvision._memory import map_of
from flaxvision.data import Dataset
from flaxvision.data.stream import Stream
from flaxvision.training.batches import block_order
from flaxvision.training.callbacks import Callback, Progress
from flaxvision.training.recipe import Recipe

AHEAD = 1  # windows that are read before they are needed


def read_ahead(dataset: Dataset, recipes: Sequence[Recipe]) -> list[Callback]:
    """What has the blocks of a streamed data set read while its members train; nothing for others."""
    file = map_of(dataset.train.images)
    wanted = dataset.stream is not None and recipes[0].shuffle and hasattr(os, "posix_fadvise")
    if not wanted or dataset.stream is None or file is None:
        return []
    # Else each page that is not there yet is read with its neighbours, on some machines 8 MB of them, which push out
    # what is needed next.
    assert isinstance(file.base, mmap.mmap)
    file.base.madvise(mmap.MADV_RANDOM)
    return [_ReadAhead(dataset.train.images, file, dataset.stream, recipes)]


class _ReadAhead:
    """A callback that asks the kernel for the blocks of this window and the next."""

    def __init__(self, images: np.ndarray, file: np.memmap, stream: Stream, recipes: Sequence[Recipe]):
        assert file.filename is not None
        self.path, self.first = os.fspath(file.filename), file.offset + images.ctypes.data - file.ctypes.data
        self.examples, self.bytes, self.stream = len(images), stream.block * images[0].nbytes, stream
        self.batch_size, self.steps = recipes[0].batch_size, recipes[0].steps_per_epoch(len(images))
        self.seeds = dict.fromkeys(recipe.seed for recipe in recipes)
        self.epoch, self.asked, self.orders = -1, 0, list[list[int]]()

    def __call__(self, progress: Progress) -> None:
        """Have read what comes after the updates that are done."""
        epoch, done = divmod(progress.step, self.steps)
        if epoch != self.epoch:
            number = self.stream.blocks_of(self.examples)
            orders = [block_order(np.uint32(seed), np.uint32(epoch), number) for seed in self.seeds]
            self.epoch, self.asked, self.orders = epoch, 0, [np.asarray(order).tolist() for order in orders]
        window = done * self.batch_size // (self.stream.block * self.stream.blocks)
        end = (window + 1 + AHEAD) * self.stream.blocks
        blocks = [block for order in self.orders for block in order[self.asked : end]]
        if blocks and progress.step < progress.steps:
            self.asked = end
            threading.Thread(target=self._read, args=[blocks], daemon=True).start()  # it may wait for the disk

    def _read(self, blocks: Sequence[int]) -> None:
        with open(self.path, "rb") as file:
            for block in blocks:
                os.posix_fadvise(file.fileno(), self.first + block * self.bytes, self.bytes, os.POSIX_FADV_WILLNEED)
