"""A `Dataset` of the caller's own arrays, checked; every generated or folder set passes through here too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flaxvision.data.dataset import Dataset, Source, Split
from flaxvision.errors import UserError


def from_arrays(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    classes: Sequence[object] | None = None,
    name: str = "arrays",
) -> Dataset:
    """A data set of arrays in memory.

    Args:
      train_x: uint8 images (N, H, W) or (N, H, W, C) with values 0 to 255, or float points (N, D).
      train_y: whole-number labels (N,), from 0 to the number of classes less one.
      test_x: the test examples, shaped like `train_x`.
      test_y: their labels.
      classes: the names of the classes; "0", "1", … up to the largest label when left out.
      name: what tables and error messages call the set.

    Returns:
      The `Dataset`: images as uint8 (N, H, W, C), points as float32 (N, D), labels as int32 (N,).

    Raises:
      UserError: for another dtype or rank, counts that differ, or a label outside the classes.
    """
    return build(name, (train_x, train_y), (test_x, test_y), classes=classes)


def build(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    *,
    classes: Iterable[object] | None = None,
    kind: str = "arrays",
    checksum: str | None = None,
    note: str = "",
) -> Dataset:
    """`from_arrays`, with what is known of the source; the checksum is that of the arrays unless one is given."""
    splits = {"train": as_split(f"{name}: train", *train), "test": as_split(f"{name}: test", *test)}
    shapes = {split: x.images.shape[1:] for split, x in splits.items()}
    if shapes["train"] != shapes["test"] or splits["train"].images.dtype != splits["test"].images.dtype:
        raise UserError(f"{name}: train examples are {shapes['train']} but test examples {shapes['test']}")
    if classes is None:
        classes = range(1 + max(int(split.labels.max()) for split in splits.values()))
    names = tuple(str(label) for label in classes)
    for split, x in splits.items():
        check_labels(f"{name}: {split}", x.labels, len(names))
    source = Source(
        kind=kind,
        checksum=checksum or array_checksum(array for x in splits.values() for array in (x.images, x.labels)),
        official=None,
        note=note,
        counts=tuple((split, len(x)) for split, x in splits.items()),
    )
    return Dataset(name, splits["train"], splits["test"], names, source)


def as_split(where: str, x: Any, y: Any) -> Split:
    """A `Split` of one pair of arrays as `from_arrays` takes them; `where` begins an error."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        x = x[..., None] if x.ndim == 3 else x
    elif x.dtype in (np.float32, np.float64) and x.ndim == 2:
        with np.errstate(over="ignore"):  # an overflow becomes inf, which the next check reports
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise UserError(f"{where}: a point has a value that is not finite in float32")
    else:
        raise UserError(
            f"{where}: examples are {x.dtype} {x.shape}: allowed are uint8 images (N, H, W) or (N, H, W, C), "
            "and float32 or float64 points (N, D)"
        )
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise UserError(f"{where}: labels are {y.dtype} {y.shape}: allowed are whole numbers (N,)")
    if len(x) != len(y):
        raise UserError(f"{where}: {len(x)} examples but {len(y)} labels: give one label an example")
    if x.size == 0:
        raise UserError(f"{where}: there are no examples: their shape is {x.shape}")
    check_labels(where, y, np.iinfo(np.int32).max)  # before the cast, which would wrap
    return Split(np.ascontiguousarray(x), y.astype(np.int32))


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
    """Raise `UserError` for the first of `labels` (N,) that is not 0 to `num_classes` - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        first = int(wrong[0])
        raise UserError(
            f"{where}: label {int(labels[first])} at index {first} is outside the {num_classes} classes: "
            f"labels are 0 to {num_classes - 1}"
        )


def array_checksum(arrays: Iterable[np.ndarray]) -> str:
    """sha256 over dtype, shape and bytes of each array in turn."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
