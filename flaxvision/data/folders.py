"""The user's own images: `images:FOLDER` with a sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flaxvision.data import arrays, raw
from flaxvision.data.dataset import Dataset
from flaxvision.errors import UserError

_MODES = ("L", "RGB", "RGBA")  # Pillow's names for 1, 3 and 4 channels of a byte
_SEED = 0  # of the order of the images, and of the split where the folder has none
_TEST_SHARE = 0.2


def read_images(name: str, folder: Path) -> Dataset:
    """A set from FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, or from FOLDER/CLASS/*, of which it tests on a fifth.

    Every file that Pillow can open counts; all must have one size and one mode (L, RGB or RGBA). Classes are in
    alphabetical order; images in a seeded random order, so that the first few are of all classes.
    """
    note = ""
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        splits = {split: _list_images(folder / split) for split in ("train", "test")}
        classes = sorted(splits["train"])
        for extra in sorted(set(splits["test"]) - set(classes)):
            raise UserError(f"{folder / 'test' / extra} is a class that {folder / 'train'} does not have")
    else:
        found = _list_images(folder)
        classes = sorted(found)
        splits = _divide(found)
        note = f"test split: a random {_TEST_SHARE:.0%} of each class (seed {_SEED})"
    files = {
        split: [(path, classes.index(label)) for label in sorted(found) for path in found[label]]
        for split, found in splits.items()
    }
    paths = [path for split in files.values() for path, _ in split]
    checksum = raw.fingerprint(paths)
    pixels = _read_pixels(paths)
    pairs = []
    for split, listed in files.items():
        if not listed:
            raise UserError(f"{name}: no images for the {split} split: give every class at least 3")
        images = np.stack([next(pixels) for _ in listed])
        order = np.random.default_rng(_SEED).permutation(len(listed))
        pairs.append((images[order], np.array([label for _, label in listed])[order]))
    return arrays.build(name, *pairs, classes=classes, kind="folder", checksum=checksum, note=note)


def _list_images(folder: Path) -> dict[str, list[Path]]:
    """The image files of each sub-folder, sorted by name; `UserError` where there are none."""
    from PIL import Image

    known = Image.registered_extensions()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give both {folder.parent}/train and {folder.parent}/test")
    found = {
        sub.name: sorted(path for path in sub.iterdir() if path.suffix.lower() in known and path.is_file())
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and not sub.name.startswith(".")
    }
    found = {label: paths for label, paths in found.items() if paths}
    if not found:
        raise UserError(f"{folder} has no images in sub-folders: put those of a class into a folder of its name")
    return found


def _divide(found: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]]:
    rng = np.random.default_rng(_SEED)
    splits: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for label, paths in sorted(found.items()):
        held = set(rng.permutation(len(paths))[: round(_TEST_SHARE * len(paths))].tolist())
        splits["train"][label] = [path for index, path in enumerate(paths) if index not in held]
        splits["test"][label] = [path for index, path in enumerate(paths) if index in held]
    return splits


def _read_pixels(paths: list[Path]) -> Iterator[np.ndarray]:
    """Each file's pixels, uint8 (H, W, C); `UserError` names the first file that is damaged or differs."""
    from PIL import Image

    first = None
    for path in paths:
        try:
            with Image.open(path) as image:
                kind = (image.mode, *image.size)
                pixels = np.array(image)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise UserError(f"{path} cannot be read as an image ({error})") from error
        if kind[0] not in _MODES:
            raise UserError(f"{path} has the mode {kind[0]}: convert it to one of {', '.join(_MODES)}")
        first = first or kind
        if kind != first:
            mode, width, height = kind
            raise UserError(
                f"{path} is {width} x {height} {mode} but {paths[0]} is {first[1]} x {first[2]} {first[0]}: "
                "all images must have one size and mode"
            )
        yield pixels.reshape(*pixels.shape[:2], -1)
