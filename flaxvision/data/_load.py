"""`load`: from a data set's name to a `Dataset`."""

from __future__ import annotations

import os
from pathlib import Path

from flaxvision._files import cache_folder
from flaxvision.data.dataset import Dataset
from flaxvision.data.published import BALANCED, DIGITS, PUBLISHED
from flaxvision.errors import UserError, unknown

_GLYPHS = {"glyphs": (DIGITS, 10_000), "glyphs47": (BALANCED, 23_500)}  # characters, default training examples
_FOLDERS = ("npz", "images")
_TEST_SHARE = 5  # a generated set has one test example for so many training examples


def list_datasets() -> tuple[str, ...]:
    """The names that `load` knows; FOLDER stands for a path."""
    return (*_GLYPHS, *PUBLISHED, "two_clusters", *(f"{kind}:FOLDER" for kind in _FOLDERS))


def load(
    name: str,
    *,
    raw_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    validation: float | None = None,
    validation_seed: int = 0,
    size: int | None = None,
    channels: int | None = None,
    examples: int | None = None,
) -> Dataset:
    """A data set by name, in memory.

    Published sets are read from `raw_dir`/NAME where that folder exists and downloaded otherwise; either way they
    are prepared once in `data_dir`. `glyphs`, `glyphs47` and `two_clusters` are generated and need neither.

    Args:
      name: one of `list_datasets()`; `npz:FOLDER` and `images:FOLDER` name a folder of one's own.
      raw_dir: folder with the original files, a sub-folder a set; `FLAXVISION_RAW_DIR` when left out.
      data_dir: folder for prepared sets; `FLAXVISION_DATA_DIR`, else the user's cache folder, when left out.
      limit: keep the first examples of every split, so many of each.
      validation: fraction of the training examples, after `limit`, to hold out as the validation split.
      validation_seed: seed of the draw of those.
      size: height and width in pixels: any for `glyphs` and `glyphs47` (28 when left out), elsewhere a check.
      channels: 1 (grey) or 3 (coloured) for `glyphs` and `glyphs47` (1 when left out), elsewhere a check.
      examples: training examples to draw for `glyphs` and `glyphs47`, with a fifth as many for testing.

    Returns:
      The `Dataset`; its `source` says whether the files are the official ones.

    Raises:
      UserError: for an unknown name, files that are missing or damaged, a failed download, or sizes that do not fit.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: give 1 or more examples")
    kind, colon, folder = name.partition(":")
    if examples is not None and name not in _GLYPHS:
        raise UserError(f"examples is for {' and '.join(_GLYPHS)} only: use limit for {name}")
    if name in _GLYPHS:
        dataset = _glyphs(name, limit, examples, size, channels)
    elif name in PUBLISHED:
        from flaxvision.data.prepared import load_published  # tensorflow-datasets: only when it is needed

        dataset = load_published(PUBLISHED[name], _raw_folder(name, raw_dir), _data_dir(data_dir), limit)
    elif name == "two_clusters":
        from flaxvision.data.clusters import two_clusters

        dataset = two_clusters()
    elif kind in _FOLDERS and colon:
        from flaxvision.data import folders, npz

        if not folder or not Path(folder).expanduser().is_dir():
            raise UserError(f"{name}: there is no folder {folder!r}: type {kind}:FOLDER with the path of one")
        read = npz.read_npz if kind == "npz" else folders.read_images
        dataset = read(name, Path(folder).expanduser())
    else:
        raise unknown("data set", name, list_datasets())
    _check_shape(dataset, size, channels)
    return dataset.limit(limit).hold_out(validation, validation_seed)


def _glyphs(name: str, limit: int | None, examples: int | None, size: int | None, channels: int | None) -> Dataset:
    from flaxvision.data import arrays, glyphs

    characters, default = _GLYPHS[name]
    train = default if examples is None else examples
    test = max(1, train // _TEST_SHARE) if train > 0 else train
    if limit is not None:  # a shorter draw is the beginning of a longer one, so draw no more than is kept
        train, test = min(train, limit), min(test, limit)
    splits = [
        glyphs.draw_glyphs(
            characters, count, 28 if size is None else size, 1 if channels is None else channels, stream=stream
        )
        for stream, count in enumerate((train, test))
    ]
    pairs = [(split.images, split.labels) for split in splits]
    return arrays.build(name, *pairs, classes=characters, kind="generated")


def _check_shape(dataset: Dataset, size: int | None, channels: int | None) -> None:
    has = dataset.input_shape
    height, width, depth = has if len(has) == 3 else (0, 0, 0)
    if size not in (None, height) or size not in (None, width) or channels not in (None, depth):
        raise UserError(
            f"{dataset.name} has examples of shape {has}: size={size}, channels={channels} do not fit. "
            f"Leave them out, or use {' or '.join(_GLYPHS)}, which are drawn as asked for"
        )


def _raw_folder(name: str, raw_dir: str | os.PathLike[str] | None) -> Path | None:
    """RAW_DIR/NAME where it exists; None where the set must be downloaded."""
    given = raw_dir or os.environ.get("FLAXVISION_RAW_DIR")
    if not given:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        raise UserError(f"the raw folder {root} does not exist: set FLAXVISION_RAW_DIR or --raw-dir to one that does")
    return root / name if (root / name).is_dir() else None


def _data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    given = data_dir or os.environ.get("FLAXVISION_DATA_DIR")
    return Path(given).expanduser() if given else cache_folder()
