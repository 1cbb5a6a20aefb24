"""How many examples of each class: shares that keep the proportions, an order that mixes classes, and what to watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flaxvision._text import some

IMBALANCE = 5  # times the smallest class that the largest may have without a note
_FEW_CHANGES = 0.1  # of the changes of label that a random order has: below it examples are sorted


def sorted_by_class(labels: np.ndarray) -> bool:
    """Whether the examples of a class stand together, so that the first ones are not like all.

    >>> sorted_by_class(np.array([0, 0, 0, 1, 1, 1])), sorted_by_class(np.array([0, 1, 1, 0, 0, 1]))
    (True, False)
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if len(counts) < 2 or len(labels) <= len(counts):
        return False
    changes = np.count_nonzero(np.diff(labels))
    random = len(labels) * (1 - np.sum((counts / len(labels)) ** 2))
    return bool(changes == len(counts) - 1 or changes < _FEW_CHANGES * random)


def shares(counts: np.ndarray, total: int) -> np.ndarray:
    """How many of each class to take for `total` examples in the same proportions, one at least where that goes.

    >>> shares(np.array([90, 9, 1]), 10).tolist()
    [8, 1, 1]
    """
    ideal = counts * (total / max(counts.sum(), 1))
    least = np.minimum(counts, 1) if total >= np.count_nonzero(counts) else np.zeros_like(counts)
    taken = np.maximum(np.floor(ideal).astype(int), least)
    while taken.sum() != total:
        if taken.sum() < total:  # to the class that is furthest below its share, and has more
            taken[np.argmax(np.where(taken < counts, ideal - taken, -np.inf))] += 1
        else:
            taken[np.argmax(np.where(taken > least, taken - ideal, -np.inf))] -= 1
    return taken


def first_of_each(labels: np.ndarray, order: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Sorted indices of the first `taken[k]` examples of each class k in `order`."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=len(taken)))
    starts = np.concatenate([[0], ends[:-1]])
    chosen = [by_class[start : start + count] for start, count in zip(starts, taken, strict=True)]
    return np.sort(np.concatenate(chosen)) if chosen else order[:0]


def first_few(labels: np.ndarray, examples: int) -> np.ndarray:
    """Sorted indices of the first so many examples, with the classes in the proportions of all.

    >>> first_few(np.array([0, 0, 0, 0, 1, 1]), 3).tolist()
    [0, 1, 4]
    """
    counts = np.bincount(labels)
    return first_of_each(labels, np.arange(len(labels)), shares(counts, min(examples, len(labels))))


def notes(labels: Mapping[str, np.ndarray], classes: Sequence[str]) -> tuple[str, ...]:
    """What a reader must know of the classes of each split: those that it lacks, and imbalance."""
    found = []
    for split, numbers in labels.items():
        counts = np.bincount(numbers, minlength=len(classes))[: len(classes)]
        absent = [name for name, count in zip(classes, counts, strict=True) if not count]
        if absent:
            found.append(f"the {split} split has no examples of {some(absent, 9)}")
        present = np.where(counts > 0, counts, np.iinfo(counts.dtype).max)
        large, small = int(counts.argmax()), int(present.argmin())
        if counts[large] > IMBALANCE * counts[small] > 0:
            found.append(
                f"the {split} split is imbalanced: {counts[large]:,} examples of {classes[large]}, {counts[small]:,} "
                f"of {classes[small]}; top1 can hide the small classes, balanced is the mean accuracy over classes"
            )
    return tuple(found)
