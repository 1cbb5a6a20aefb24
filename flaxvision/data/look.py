"""What a data set looks like: counts, ranges and means, whatever else a person should know before training on it."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from flaxvision._text import data_name
from flaxvision.data.dataset import Dataset, Split

_CHUNK = 1_000  # examples turned into floats at a time
_SHOWN = 4  # numbers of a point that are written out


@dataclasses.dataclass(frozen=True, slots=True)
class SplitLook:
    """One split: how many examples of each class, and their values as text, one number per channel."""

    name: str
    examples: int
    counts: tuple[int, ...]
    range: str
    mean: str
    std: str


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """A data set as text and counts."""

    name: str
    facts: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    splits: tuple[SplitLook, ...]
    notes: tuple[str, ...]


def look(dataset: Dataset) -> Look:
    """Look at every example of a data set."""
    source = dataset.source
    official = {True: "the published files", False: "not the published files", None: ""}[source.official]
    facts = [
        ("examples", " + ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())),
        ("shape", shape_text(dataset)),
        ("classes", f"{dataset.num_classes:,}"),
        ("from", ", ".join(filter(None, (source.kind, official)))),
        ("checksum", source.checksum),
    ]
    notes = [*filter(None, (source.note,)), *source.notes, *_repeated(dataset)]
    splits = tuple(_look_at(name, split, dataset.num_classes) for name, split in dataset.splits.items())
    return Look(data_name(dataset.name), tuple(facts), dataset.classes, splits, tuple(notes))


def shape_text(dataset: Dataset) -> str:
    """The shape of one example in words."""
    if len(dataset.input_shape) == 1:
        return f"points of {dataset.input_shape[0]} numbers"
    height, width, channels = dataset.input_shape
    return f"{width} x {height} pixels, {channels} channel{'s' if channels > 1 else ''}"


def _look_at(name: str, split: Split, classes: int) -> SplitLook:
    axes = tuple(range(split.images.ndim - 1))
    total = np.zeros(split.images.shape[-1])
    squares = np.zeros_like(total)
    for start in range(0, len(split), _CHUNK):
        values = split.images[start : start + _CHUNK].astype(np.float64)
        total += values.sum(axes)
        squares += (values**2).sum(axes)
    count = split.images[..., 0].size
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    low, high = split.images.min(), split.images.max()
    counts = np.bincount(split.labels, minlength=classes)
    ends = f"{low} to {high}" if split.images.dtype == np.uint8 else f"{low:.4g} to {high:.4g}"
    return SplitLook(name, len(split), tuple(counts.tolist()), ends, _numbers(mean), _numbers(std))


def _numbers(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:_SHOWN])
    return shown if len(values) <= _SHOWN else f"{shown}, … ({len(values)} numbers)"


def _repeated(dataset: Dataset) -> list[str]:
    """A line for every split that holds examples of the training split: what they score was learnt by heart."""
    train = {_digest(image) for image in dataset.train.images}
    lines = []
    for name, split in dataset.splits.items():
        if name != "train":
            count = sum(_digest(image) in train for image in split.images)
            if count:
                lines.append(f"{count:,} of {len(split):,} {name} examples are training examples, byte for byte")
    return lines


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
