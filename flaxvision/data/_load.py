"""`load`: from a data set's name to a `Dataset`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxvision._files import cache_folder, expanded
from flaxvision._memory import is_mapped
from flaxvision._text import visible
from flaxvision.data.dataset import Dataset
from flaxvision.data.files import state_of
from flaxvision.data.locate import Located, locate
from flaxvision.data.mapped import held_out, mapped
from flaxvision.data.published import BALANCED, DIGITS, PUBLISHED, Published
from flaxvision.data.space import Place
from flaxvision.data.stream import streamed
from flaxvision.errors import UserError, check_whole, unknown

_GLYPHS = {"glyphs": (DIGITS, 10_000), "glyphs47": (BALANCED, 23_500)}  # characters, default training examples
_FOLDERS = ("npz:FOLDER", "images:FOLDER", "tfds:NAME")
_SIZE = re.compile(r"\d{1,5}x\d{1,5}", re.ASCII)  # width x height
LARGE = 2**28  # bytes of training examples whose hold-out is a mapped copy of its own
_TEST_SHARE = 5  # a generated set has one test example per this many training examples
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


def list_datasets() -> tuple[str, ...]:
    """The names that `load` knows; FOLDER stands for a path, NAME for a set's name in tensorflow-datasets."""
    return (*_GLYPHS, *PUBLISHED, "two_clusters", *_FOLDERS)


def load(
    name: str,
    *,
    raw_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    validation: float | None = None,
    validation_seed: int = 0,
    size: int | str | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str | None = None,
    skip_damaged: bool = False,
    examples: int | None = None,
    stream: bool | None = None,
) -> Dataset:
    """A data set by name, in memory or mapped into it from a copy on disk.

    `images:FOLDER` reads FOLDER/SPLIT/CLASS/… or FOLDER/CLASS/…, its images at any depth: SPLIT is train, validation
    or test, or another usual name for one (training, val, valid, dev, …) in any case; without a test split, a fifth
    of the training images of each class becomes one. Images are what a viewer shows: turned as their EXIF orientation
    says, transparent parts on white, the first of several frames. Grey among colour becomes colour; RGBA stays only
    where all images are. What is left out or converted is told in `source.notes`.

    `tfds:NAME` reads an image classification set that tensorflow-datasets has prepared in `data_dir`, else in
    `TFDS_DATA_DIR` or ~/tensorflow_datasets: NAME, NAME/CONFIG or NAME/CONFIG:1.0.0, without TensorFlow. Without a test
    split its validation split becomes one, or a fifth of its training examples.

    Published sets are read from `raw_dir` where it is given, and downloaded otherwise, never both: a set that is not
    in it is an error. Their files may have the names and places that people have them under: NAME/, loose, as
    torchvision (MNIST/raw) or Keras keep them (mnist.npz), packed in the published archives, CIFAR-10 in its binary
    or its Python version. Either way they are prepared once in `data_dir`. `glyphs`, `glyphs47` and `two_clusters` are
    generated and need neither.

    Args:
      name: one of `list_datasets()`; `npz:FOLDER` and `images:FOLDER` name a folder of one's own, `tfds:NAME` a set.
      raw_dir: folder with the original files, best with one sub-folder per set; when left out,
        `FLAXVISION_RAW_DIR`, for which the same holds.
      data_dir: folder of prepared sets and of what is mapped; `FLAXVISION_DATA_DIR`, else the user's cache folder, when
        left out.
      limit: examples of every split to keep, see `Dataset.limit`; of an image folder no others are read.
      validation: fraction of the training examples, after `limit`, to hold out, see `Dataset.hold_out`.
      validation_seed: seed of the draw of those.
      size: what images are converted to with `images:FOLDER`: pixels a side, or width and height, "64x48" or (64, 48).
        Pixels a side of `glyphs` and `glyphs47` (28 when left out). Elsewhere a check.
      channels: what images are converted to with `images:FOLDER`: 1 (grey), 3 (colour) or 4 (with alpha). 1 or 3 of
        `glyphs` and `glyphs47` (1 when left out). Elsewhere a check.
      fit: how `images:FOLDER` brings an image to `size`: "crop" its middle (when left out), "pad" it with black, or
        "stretch" it.
      skip_damaged: leave out images of `images:FOLDER` that cannot be read, and say so, in place of an error.
      stream: whether training goes through the examples block by block, so that each is read once an epoch, see
        `Stream`; when left out, if they are more than the memory has room for.
      examples: training examples to draw for `glyphs` and `glyphs47`, with a fifth as many for testing.

    Returns:
      The `Dataset`; its `source` says whether the files are the official ones.

    Raises:
      UserError: for an unknown name, files that are missing or damaged, a failed download, or sizes that do not fit.

    >>> load("glyphs", examples=100, size=20).input_shape
    (20, 20, 1)
    """
    if not isinstance(name, str):
        raise UserError(f"the data set is {name!r}: give its name as text, such as 'mnist' or 'images:FOLDER'")
    for what, number in (("limit", limit), ("examples", examples)):
        if number is not None:
            check_whole(what, number, 1)
    kind, colon, _ = name.partition(":")
    width_height = _parse_size(size)
    for key, value in (("fit", fit), ("skip_damaged", skip_damaged or None)):
        if value is not None and kind != "images":
            raise UserError(f"{key} is for images:FOLDER only: leave it out for {name}")
    if examples is not None and name not in _GLYPHS:
        raise UserError(f"a number of examples to draw is for {' and '.join(_GLYPHS)} only: use limit for {name}")
    if validation is None and validation_seed != 0:
        raise UserError(f"validation_seed is {validation_seed!r} but has no effect without validation: leave it out")
    place: Place | None = None
    if name in _GLYPHS:
        dataset = _glyphs(name, limit, examples, width_height, channels)
    elif name in PUBLISHED:
        from flaxvision.data.prepared import load_published  # tensorflow-datasets: only when it is needed

        dataset = load_published(PUBLISHED[name], located(PUBLISHED[name], raw_dir), _data_dir(data_dir), limit)
    elif name == "two_clusters":
        from flaxvision.data.clusters import two_clusters

        dataset = two_clusters()
    elif kind in ("npz", "tfds", "images") and colon:
        conversion = (width_height, channels, fit, skip_damaged) if kind == "images" else ()
        place, dataset = _own(name, data_dir, limit, *conversion)
    else:
        raise unknown("data set", name, list_datasets())
    if kind != "images":
        _check_shape(dataset, width_height, channels)
    if validation is not None and dataset.validation is not None:
        raise UserError(f"validation is {validation}: leave it out, {name} has a validation split of its own")
    dataset = dataset.limit(limit, in_place=True)
    large = is_mapped(dataset.train.images) and dataset.train.images.nbytes >= LARGE
    if validation is not None and place is not None and large:
        place = place.of_part("limit", limit)  # which the place of an archive's copy, of all examples, does not tell
        return streamed(held_out(dataset, place, validation, validation_seed), stream)
    return streamed(dataset.hold_out(validation, validation_seed, in_place=True), stream)


def _own(
    name: str, data_dir: str | os.PathLike[str] | None, limit: int | None, *conversion: Any
) -> tuple[Place, Dataset]:
    """A set of the user's own files, mapped from its copy, and where that lies."""
    from flaxvision.data.listing import shown

    kind = name.partition(":")[0]
    if kind == "npz":
        from flaxvision.data.npz import read_npz

        source = _folder(name, file=True)
        place = _place(kind, data_dir, source)
        with readable(source):
            dataset = mapped(place, lambda space: read_npz(name, source, space))
    elif kind == "tfds":
        from flaxvision.data.tfds_sets import folder_of, read_tfds

        root = Path(data_dir) if data_dir else None
        with readable(Path(name)):
            home = folder_of(name, root)
        place = _place(kind, data_dir, home)
        dataset = mapped(place, lambda space: read_tfds(name, root))
    else:
        from flaxvision.data.image_folder import conversion as checked
        from flaxvision.data.image_folder import read_images, readers

        options, source = checked(*conversion), _folder(name)
        place = _place(kind, data_dir, source, options, limit, readers())
        dataset = mapped(place, lambda space: read_images(name, source, options, limit, space), least=0)
    return place, dataclasses.replace(dataset, name=visible(shown(name)))


def _place(kind: str, data_dir: str | os.PathLike[str] | None, source: Path, *options: object) -> Place:
    with readable(source):
        state = state_of([source])
    return Place.of(_data_dir(data_dir) / "mapped" / kind, source, state, *options)


def _folder(name: str, *, file: bool = False) -> Path:
    kind, _, folder = name.partition(":")
    path = expanded(folder)
    with readable(path):
        is_file, is_folder = path.is_file(), path.is_dir()
    if is_file and file:
        return path
    if is_file:
        if path.suffix.lower() in PICTURES:
            raise UserError(f"{name}: {folder} is one picture: type {kind}:FOLDER with the folder of the class folders")
        raise UserError(f"{name}: {folder} is a file: unpack it, and type {kind}:FOLDER with the path of its folder")
    if not folder or not is_folder:
        raise UserError(f"{name}: there is no folder {folder!r}: type {kind}:FOLDER with the path of one")
    return path


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one line that a folder, or one around it, may not be looked into."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or path}: {error.strerror}; give yourself the right to, or another folder"
        ) from error


def _parse_size(size: Any) -> tuple[int, int] | None:
    """Width and height of `size` as `load` takes it."""
    if size is None:
        return None
    given = [int(side) for side in size.split("x")] if isinstance(size, str) and _SIZE.fullmatch(size) else size
    sides = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(sides) != 2 or not all(type(side) is int and 0 < side < 2**15 for side in sides):
        raise UserError(f"size is {size}: give pixels a side, such as 32, or width and height, such as 64x48")
    return sides


def _glyphs(
    name: str, limit: int | None, examples: int | None, size: tuple[int, int] | None, channels: int | None
) -> Dataset:
    from flaxvision.data import arrays, glyphs

    width, height = size or (28, 28)
    if width != height:
        raise UserError(f"size is {width}x{height}: {name} is drawn in squares, so give one number, such as {height}")
    characters, default = _GLYPHS[name]
    train = default if examples is None else examples
    test = max(1, train // _TEST_SHARE) if train > 0 else train
    if limit is not None:  # a shorter draw is the beginning of a longer one, so draw no more than is kept
        train, test = min(train, limit), min(test, limit)
    splits = [
        glyphs.draw_glyphs(characters, count, height, 1 if channels is None else channels, stream=stream)
        for stream, count in enumerate((train, test))
    ]
    pairs = {name: (split.images, split.labels) for name, split in zip(("train", "test"), splits, strict=True)}
    return arrays.build(name, pairs, classes=characters, kind="generated", mixed=True)


def _check_shape(dataset: Dataset, size: tuple[int, int] | None, channels: int | None) -> None:
    has = dataset.input_shape
    height, width, depth = has if len(has) == 3 else (0, 0, 0)
    if size not in (None, (width, height)) or channels not in (None, depth):
        asked = [f"size={size[0]}x{size[1]}"] if size else []
        asked += [f"channels={channels}"] if channels is not None else []
        raise UserError(
            f"{dataset.name} has examples of shape {has}, which {' and '.join(asked)} do not fit: "
            f"leave that out, or use {', '.join(_GLYPHS)} or images:FOLDER, which are made as asked for"
        )


def located(published: Published, raw_dir: str | os.PathLike[str] | None) -> Located | None:
    """The set's files in the raw folder; None where none was given, and the set must be downloaded."""
    given = raw_dir or os.environ.get("FLAXVISION_RAW_DIR")
    if not given:
        return None
    root = expanded(given)
    without = "leave raw_dir (--raw-dir) out" if raw_dir else "unset FLAXVISION_RAW_DIR"
    with readable(root):
        if not root.exists():
            raise UserError(
                f"the raw folder {root} does not exist: set FLAXVISION_RAW_DIR or --raw-dir to one that does"
            )
        return locate(published, root, f"{without} to download it")


def _data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    given = data_dir or os.environ.get("FLAXVISION_DATA_DIR")
    return expanded(given) if given else cache_folder()
