"""The order in which examples that are more than the memory are seen, so that they are read once an epoch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Self

from flaxvision._limits import memory
from flaxvision.errors import UserError

if TYPE_CHECKING:
    from flaxvision.data.dataset import Dataset

SHARE = 0.75  # of the memory that examples may take before they are streamed
BLOCK = 2**20  # bytes that are read together,
BLOCKS = 128  # and how many of them are mixed at a time: the same everywhere, so that numbers are


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """Blocks of neighbours come in a new order each epoch, and so do the examples of some blocks at a time.

    An order of all examples would read a page of the disk for each one of them.
    """

    block: int  # examples that are read together
    blocks: int = BLOCKS  # a window: so many are in memory, and mixed, at a time

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """That of a data set, by the bytes of an example."""
        return cls(max(1, BLOCK // dataset.train.images[0].nbytes))

    def blocks_of(self, examples: int) -> int:
        """How many blocks so many examples are."""
        return -(-examples // self.block)

    @property
    def note(self) -> str:
        """What a reader of a table must know."""
        return (
            f"streamed: an epoch that is shuffled takes blocks of {self.block:,} neighbouring examples in a new order, "
            f"and mixes those of {self.blocks:,} blocks at a time"
        )


def streamed(dataset: Dataset, stream: bool | None = None) -> Dataset:
    """A data set with the order in which it is seen: streamed, or (False) all examples in a new order each epoch.

    One that is streamed already stays as it is, unless that is not wanted.

    Args:
        dataset: The data set.
        stream: Whether it is streamed; None: if its examples are more than the memory, or what a control group leaves
            of it, has room for.

    Raises:
        UserError: If the choice is no bool.
    """
    if stream not in (None, True, False):
        raise UserError(f"stream is {stream!r}: give true or false, or leave it out")
    if dataset.stream is not None:
        return dataset if stream in (None, True) else _with(dataset, None)
    if stream is None:
        stream = sum(split.images.nbytes for split in dataset.splits.values()) > SHARE * memory()
    return _with(dataset, Stream.of(dataset)) if stream else dataset


def _with(dataset: Dataset, stream: Stream | None) -> Dataset:
    """The same in another order, which its notes tell."""
    before = dataset.stream
    notes = tuple(note for note in dataset.source.notes if before is None or note != before.note)
    source = dataclasses.replace(dataset.source, notes=(*notes, stream.note) if stream else notes)
    return dataclasses.replace(dataset, source=source, stream=stream)
