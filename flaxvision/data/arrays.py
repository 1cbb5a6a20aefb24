"""A `Dataset` of the caller's own arrays, checked; every generated or folder set passes through here too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flaxvision._memory import is_mapped
from flaxvision._text import some, visible
from flaxvision.data.balance import sorted_by_class
from flaxvision.data.dataset import SPLITS, Dataset, Source, Split
from flaxvision.data.examples import as_examples, as_labels, check_labels, numbered, read_as, spelt
from flaxvision.data.space import Space
from flaxvision.errors import UserError

_SEED = 0  # of the order of examples that came sorted


def from_arrays(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    classes: Sequence[object] | None = None,
    name: str = "arrays",
) -> Dataset:
    """A data set of arrays in memory.

    What can be read only one way is taken, and said in `source.notes`: labels (N, 1), one-hot labels, class names as
    labels, pixels in another number type. Examples that stand sorted by class are mixed by a fixed seed.

    Args:
      train_x: uint8 images (N, H, W) or (N, H, W, C) with values 0 to 255, or float points (N, D); lists and tensors
        are taken as arrays.
      train_y: labels (N,): whole numbers from 0 to the number of classes less one, or class names.
      test_x: the test examples, shaped like `train_x`.
      test_y: their labels.
      classes: the names of the classes in the order of their numbers; when left out, the labels that are there, which
        must be 0, 1, … without a gap where they are numbers.
      name: what tables and error messages call the set.

    Returns:
      The `Dataset`: images as uint8 (N, H, W, C), points as float32 (N, D), labels as int32 (N,).

    Raises:
      UserError: for values, shapes or labels that could be read in two ways or not at all; it says what to write.

    >>> from_arrays([[0.0, 1.0], [2.0, 3.0]], ["cat", "dog"], [[4.0, 5.0]], ["dog"]).classes
    ('cat', 'dog')
    """
    return build(name, {"train": (train_x, train_y), "test": (test_x, test_y)}, classes=classes)


def build(
    name: str,
    pairs: Mapping[str, tuple[Any, Any]],
    *,
    classes: Iterable[object] | None = None,
    kind: str = "arrays",
    checksum: str | None = None,
    note: str = "",
    notes: Iterable[str] = (),
    mixed: bool = False,
    owned: bool = False,
    space: Space | None = None,
    places: Mapping[str, str] | None = None,
    files: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """`from_arrays` of examples and labels by split, with what is known of the source.

    The checksum is that of the arrays as given, unless one is given; `mixed` says that a loader has mixed them,
    `owned` that nobody else holds the arrays, which may then be mixed in place, or in `space` where they are mapped,
    `places` what errors call each split, `files` the file of each of its examples.
    """
    name = visible(name)
    images, labels, columns, said = {}, {}, set(), list(notes)
    scaled: dict[str, bool] = {}  # whether its pixels came from 0 to 1
    places = {split: f"{name}: {split}" for split in pairs} | dict(places or {})
    for split, (x, y) in pairs.items():
        where = places[split]
        images[split], of_images = as_examples(where, x)
        labels[split], one_hot, of_labels = as_labels(where, y)
        columns |= {one_hot} if one_hot else set()
        of_shape = [] if mixed else read_as(images[split].shape)
        said += [f"{split}: {words}" for words in (*of_shape, *of_images, *of_labels)]
        scaled[split] = any("multiplied" in words for words in of_images)
        if len(images[split]) != len(labels[split]):
            raise UserError(
                f"{where}: {len(images[split])} examples but {len(labels[split])} labels: give one label per example"
            )
        if images[split].size == 0:
            raise UserError(f"{where}: there are no examples: their shape is {images[split].shape}")
        shape, first = images[split].shape[1:], images["train"]
        if shape != first.shape[1:] or images[split].dtype != first.dtype:
            raise UserError(f"{name}: train examples are {first.shape[1:]} but {split} examples {shape}")
    if len(set(scaled.values())) > 1:
        ranges = ", ".join(f"{split} 0 to {1 if unit else 255}" for split, unit in scaled.items())
        raise UserError(
            f"{name}: the pixels of the splits have different ranges, {ranges}: give all as uint8, 0 to 255"
        )
    if classes is None and columns:  # one-hot labels tell of classes without an example too
        if len(columns) > 1:
            raise UserError(
                f"{name}: one-hot labels have {' and '.join(map(str, sorted(columns)))} columns: give as many"
            )
        classes = range(columns.pop())
    names = None if classes is None else _names(name, classes)
    if names is not None and not mixed:  # a loader's own are what folders are called
        names = tuple(map(spelt, names))
    if names is not None and len(set(names)) < len(names):
        twice = next(label for label in names if names.count(label) > 1)
        raise UserError(f"{name}: two classes are called {twice!r}: give each a name of its own")
    numbers, names = numbered(name, list(labels.values()), names)
    names = tuple(map(visible, names))
    said += _nearly_alike(names)
    splits = {}
    for split, given in zip(pairs, numbers, strict=True):
        check_labels(places[split], given, len(names))
        images_of = np.ascontiguousarray(images[split])
        splits[split] = Split(images_of, given.astype(np.int32), files[split] if files else None)
    source = Source(
        kind=kind,
        checksum=checksum or array_checksum(array for x in splits.values() for array in (x.images, x.labels)),
        official=None,
        note=note,
        counts=tuple((split, len(splits[split])) for split in SPLITS if split in splits),
    )
    in_order = [split for split in pairs if not mixed and sorted_by_class(splits[split].labels)]
    orders = {split: np.random.default_rng(_SEED).permutation(len(splits[split])) for split in in_order}
    said += [f"{split}: examples sorted by class were mixed (seed {_SEED})" for split in orders]
    if space is not None and any(is_mapped(splits[split].images) for split in orders):
        splits = _mixed(splits, orders, space)
    else:
        for split, order in orders.items():
            (splits[split],) = splits[split].divide(order, in_place=owned)
    dataset = Dataset(name, splits["train"], splits["test"], names, source, splits.get("validation"))
    return dataset.noted(map(visible, said))


def _mixed(splits: Mapping[str, Split], orders: Mapping[str, np.ndarray], space: Space) -> dict[str, Split]:
    """Splits in other orders, some of them perhaps, as copies in a space: they may be more than the memory."""
    found: dict[str, Split] = {}
    others = [split for split in splits if split != "train"]
    for part, names in (("train", ["train"]), ("held_out", others)):
        if orders.keys().isdisjoint(names):
            found |= {split: splits[split] for split in names}
            continue
        copies = space.take(part, *((splits[split].images, orders.get(split)) for split in names))
        for split, images in zip(names, copies, strict=True):
            every = np.arange(len(splits[split]))
            found[split] = splits[split].relabelled(images, orders.get(split, every))
    return {split: found[split] for split in splits}


def _nearly_alike(names: Iterable[str]) -> list[str]:
    """A line for words among the class names that are one but for their case, and perhaps one class."""
    known: dict[str, str] = {}
    pairs = [(known[word], name) for name in names if known.setdefault(word := name.casefold(), name) != name]
    words = [f"{first!r} and {second!r}" for first, second in pairs if len(first) > 1]
    return [f"classes that differ by case only: {some(words)}"] if words else []


def _names(name: str, classes: Any) -> tuple[str, ...]:
    """Class names in the order of the labels' numbers."""
    if isinstance(classes, Mapping) and sorted(classes) == list(range(len(classes))):
        classes = [classes[number] for number in range(len(classes))]
    if (
        isinstance(classes, (Mapping, set, frozenset))
        or not isinstance(classes, Iterable)
        or not (names := tuple(map(str, classes)))
    ):
        raise UserError(
            f"{name}: classes is {classes!r}: give the names in the order of their numbers, such as ['a', 'b']"
        )
    return names


def array_checksum(arrays: Iterable[np.ndarray]) -> str:
    """sha256 over dtype, shape and bytes of each array in turn."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
