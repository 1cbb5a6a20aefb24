"""A data set on the devices that train on it: once for all runs at a time, without a copy where memory is shared."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from flaxvision._memory import empty
from flaxvision.data import Dataset

Examples = tuple[jax.Array, jax.Array]  # images, labels


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """A data set's examples on devices; there as long as a run holds it."""

    dataset: Dataset
    train: Examples
    held_out: Examples  # all that is evaluated, in one array, so that one program serves every split
    ranges: dict[str, range]  # where each split lies in it


_placed: weakref.WeakValueDictionary[tuple[int, tuple[jax.Device, ...]], Placed] = weakref.WeakValueDictionary()
_placing = threading.Lock()


def place(dataset: Dataset, devices: tuple[jax.Device, ...], put: Callable[[Any], Any]) -> Placed:
    """A data set's examples where `put` puts them; the same arrays for all who ask while one of them holds them.

    Trials in threads would each hold a copy otherwise.
    """
    key = id(dataset), devices
    with _placing:
        found = _placed.get(key)
        if found is None:
            held_out = [(name, split) for name, split in dataset.splits.items() if name != "train"]
            ends = np.cumsum([0, *(len(split) for _, split in held_out)]).tolist()
            ranges = {name: range(ends[i], ends[i + 1]) for i, (name, _) in enumerate(held_out)}
            images, labels = (_joined([getattr(s, name) for _, s in held_out]) for name in ("images", "labels"))
            train = put((dataset.train.images, dataset.train.labels))
            found = _placed[key] = Placed(dataset, train, put((images, labels)), ranges)
    return found


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    whole = empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    return np.concatenate(parts, out=whole)
