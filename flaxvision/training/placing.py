"""A data set on the devices that train on it: once for all runs at a time, without a copy where memory is shared."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Sequence
from typing import TypeVar, cast

import jax
import numpy as np

from flaxvision._memory import empty
from flaxvision.data import Dataset
from flaxvision.training.plan import AXIS

Examples = tuple[jax.Array, jax.Array]  # images, labels
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """A data set's examples on devices; there as long as a run holds it."""

    dataset: Dataset
    train: Examples
    held_out: Examples  # all that is evaluated, in one array, so that one program serves every split
    ranges: dict[str, range]  # where each split lies in it


_placed: weakref.WeakValueDictionary[tuple[int, tuple[jax.Device, ...]], Placed] = weakref.WeakValueDictionary()
_placing = threading.Lock()


def put(tree: Tree, devices: tuple[jax.Device, ...]) -> Tree:
    """Arrays on devices, a copy on each; committed, since jit compiles anew for uncommitted ones."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def place(dataset: Dataset, devices: tuple[jax.Device, ...]) -> Placed:
    """A data set's examples on devices; the same arrays for all who ask while one of them holds them.

    Trials in threads would each hold a copy otherwise.
    """
    key = id(dataset), devices
    with _placing:
        found = _placed.get(key)
        if found is None:
            others = [(name, split) for name, split in dataset.splits.items() if name != "train"]
            ends = np.cumsum([0, *(len(split) for _, split in others)]).tolist()
            ranges = {name: range(ends[i], ends[i + 1]) for i, (name, _) in enumerate(others)}
            images, labels = (_joined([getattr(s, name) for _, s in others]) for name in ("images", "labels"))
            host = (dataset.train.images, dataset.train.labels), (images, labels)
            train, held_out = cast(tuple[Examples, Examples], put(host, devices))
            found = _placed[key] = Placed(dataset, train, held_out, ranges)
    return found


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    whole = empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    return np.concatenate(parts, out=whole)
