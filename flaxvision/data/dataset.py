"""What every loader gives and every trainer takes: splits of examples with labels, and where they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from flaxvision._memory import reorder, taken
from flaxvision.data import balance
from flaxvision.data.balance import first_few, first_of_each, shares
from flaxvision.data.stream import Stream
from flaxvision.errors import UserError, check_whole

SPLITS = ("train", "validation", "test")
_FEW = 0.25  # of the examples of a split: so many are copied rather than kept with the memory of all


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Examples in a fixed order, with their labels."""

    images: np.ndarray  # uint8 (N, H, W, C), or float32 points (N, D)
    labels: np.ndarray  # int32 (N,), from 0 to the number of classes less one
    files: np.ndarray | None = None  # str (N,): the file of each example, below its folder; None where it has none

    def __post_init__(self) -> None:
        x, y = self.images, self.labels
        if not ((x.dtype == np.uint8 and x.ndim == 4) or (x.dtype == np.float32 and x.ndim == 2)):
            raise UserError(f"images are {x.dtype} {x.shape}: allowed are uint8 (N, H, W, C) and float32 (N, D)")
        if y.dtype != np.int32 or y.ndim != 1:
            raise UserError(f"labels are {y.dtype} {y.shape}: allowed is int32 (N,)")
        if len(x) != len(y):
            raise UserError(f"{len(x)} images but {len(y)} labels: give one label per image")
        if self.files is not None and len(self.files) != len(x):
            raise UserError(f"{len(x)} images but {len(self.files)} files: give one per image, or none")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} examples of {_shape(self.images)})"

    def __getitem__(self, index: Any) -> Split:
        """The examples that a slice, a boolean mask or an index array picks, in its order."""
        return Split(self.images[index], self.labels[index], None if self.files is None else self.files[index])

    def relabelled(self, images: np.ndarray, index: np.ndarray) -> Split:
        """The examples that an index array picks, whose images are at hand."""
        return Split(images, self.labels[index], None if self.files is None else self.files[index])

    def name(self, number: int) -> str:
        """What an example is called: its file, or its number, from 0."""
        return f"#{number}" if self.files is None else str(self.files[number])

    def divide(self, *parts: np.ndarray, in_place: bool = False) -> list[Split]:
        """The examples of each of several disjoint index arrays, in its order.

        Args:
            parts: What each split is to have.
            in_place: Whether they take the memory of this split, which is of no use then, unless they are few of it.
        """
        own = in_place and self.images.flags.c_contiguous and self.images.flags.writeable
        if not own or sum(map(len, parts)) <= _FEW * len(self):
            return [self.relabelled(taken(self.images, part), part) for part in parts]
        images = reorder(self.images, np.concatenate(parts))
        ends = np.cumsum([len(part) for part in parts])
        return [self.relabelled(own, part) for own, part in zip(np.split(images, ends)[:-1], parts, strict=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where a data set came from: enough to tell whether two numbers were measured on the same examples."""

    kind: str  # "raw folder", "download", "generated", "arrays" or "folder"
    checksum: str  # sha256 over the examples' raw files, or over the arrays where there are none
    official: bool | None  # whether every file is the published one; None where nothing was published
    note: str = ""  # what a reader of a table must know about these examples
    counts: tuple[tuple[str, int], ...] = ()  # (split name, examples) as loaded, after limit and hold-out
    notes: tuple[str, ...] = ()  # a line each: what was left out, converted or looks doubtful in these examples


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A named data set in memory; `validation` is None unless one was asked for."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    source: Source
    validation: Split | None = None
    stream: Stream | None = None  # in which order training takes examples that are more than the memory
    loading_notes: tuple[str, ...] = ()  # what loading it met with this time, for who loads it: no page has it

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        return f"Dataset({self.name!r}: {self.num_classes} classes, {splits} of {_shape(self.train.images)})"

    def _repr_html_(self) -> str:
        from flaxvision.report.notebook import dataset_html

        return dataset_html(self)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: (H, W, C) or (D,)."""
        return tuple(self.train.images.shape[1:])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name, in the order train, validation, test."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def published(self) -> bool:
        """Whether it is a published set, whose examples keep their order and whose draws those of its reports."""
        return self.source.kind in ("raw folder", "download")

    def limit(self, examples: int | None, *, in_place: bool = False) -> Dataset:
        """So many examples of every split, in their order (all of them for None).

        Of one's own data they have the classes in the proportions of the split, one of each at least where that goes;
        of published and generated sets, which are mixed, they are the first. With `in_place` they take the memory of
        this data set, which is of no use then.
        """
        if examples is None:
            return self
        check_whole("limit", examples, 1)
        if self.published or self.source.kind == "generated":
            return self.with_splits(**{name: split[:examples] for name, split in self.splits.items()})
        longer = {name: split for name, split in self.splits.items() if len(split) > examples}
        chosen = {
            name: split.divide(first_few(split.labels, examples), in_place=in_place) for name, split in longer.items()
        }
        return self.with_splits(**{name: split for name, (split,) in chosen.items()})

    def hold_out(self, fraction: float | None, seed: int = 0, *, in_place: bool = False) -> Dataset:
        """Move a random `fraction` of the training examples, drawn by `seed`, to a validation split.

        It has the classes in the proportions of the training split, one of each at least where that goes; a class of
        one example stays in training. Of a published set it is drawn from all examples alike, as its reports drew it.
        With `in_place` the splits take the memory of this data set, which is of no use then.

        >>> import flaxvision as fv
        >>> dataset = fv.data.load("glyphs", examples=100).hold_out(0.2)
        >>> len(dataset.train), len(dataset.validation), len(dataset.test)
        (80, 20, 20)
        """
        if fraction is None:
            return self
        train, validation = self.train.divide(*self.draw(fraction, seed), in_place=in_place)
        return self.with_splits(train=train, validation=validation)

    def draw(self, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Which training examples `hold_out` keeps, and which it moves."""
        check_whole("validation_seed", seed)
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise UserError(f"validation is {fraction!r}: give a fraction of the training examples between 0 and 1")
        order = np.random.default_rng(seed).permutation(len(self.train))
        number = round(fraction * len(order))
        if not 0 < number < len(order):
            raise UserError(
                f"validation={fraction} of {len(order)} training examples leaves a split empty: give a fraction "
                f"from {1 / len(order):.2g} to {1 - 1 / len(order):.2g}"
            )
        if self.published:
            held = np.sort(order[:number])
        else:
            counts = np.bincount(self.train.labels, minlength=self.num_classes)
            spare = np.maximum(counts - 1, 0)
            held = first_of_each(self.train.labels, order, shares(spare, min(number, int(spare.sum()))))
            if not len(held):
                raise UserError(f"validation={fraction}: every class has one training example, none can be held out")
        kept = np.ones(len(order), bool)
        kept[held] = False
        return np.flatnonzero(kept), held

    def noted(self, notes: Iterable[str] = ()) -> Dataset:
        """The same with more `source.notes`: the given ones, and what its classes' numbers of examples ask for."""
        own = balance.notes({name: split.labels for name, split in self.splits.items()}, self.classes)
        together = tuple(dict.fromkeys((*self.source.notes, *notes, *own)))
        return dataclasses.replace(self, source=dataclasses.replace(self.source, notes=together))

    def with_splits(self, **splits: Split) -> Dataset:
        """The same with other examples, whose numbers and classes `source` then tells."""
        own = balance.notes({name: split.labels for name, split in self.splits.items()}, self.classes)
        all_now = {**self.splits, **splits}
        train, validation, test = all_now["train"], all_now.get("validation"), all_now["test"]
        changed = dataclasses.replace(self, train=train, validation=validation, test=test)
        counts = tuple((name, len(split)) for name, split in changed.splits.items())
        notes = tuple(note for note in self.source.notes if note not in own)
        source = dataclasses.replace(changed.source, counts=counts, notes=notes)
        return dataclasses.replace(changed, source=source).noted()


def _shape(images: np.ndarray) -> str:
    return " × ".join(map(str, images.shape[1:]))
