"""`images:FOLDER`: a data set of the image files in a folder of one's own, whatever their sizes and modes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from flaxvision._memory import empty
from flaxvision._text import some
from flaxvision.data import arrays
from flaxvision.data.dataset import Dataset
from flaxvision.data.listing import Files, count, list_images, shown
from flaxvision.data.pixels import CHANNELS, FITS, Header, Pixels, Unreadable, Wanted, pillow, read_header, read_pixels
from flaxvision.errors import UserError, check_choice

_SEED = 0  # of the order of the images, and of the test split where the folder has none
_TEST_SHARE = 0.2
_THREADS = min(8, os.cpu_count() or 1)
_CHUNK = 32  # files that a thread reads at a time
_DIM = 2**13  # where no 16-bit value reaches this, a viewer shows images that are nearly black

_R = TypeVar("_R")
_Labelled = list[tuple[str, int]]  # files with the number of their class


@dataclasses.dataclass(frozen=True, slots=True)
class Conversion:
    """How images are made alike, see `flaxvision.data.load`; None leaves it to what the folder holds."""

    size: tuple[int, int] | None = None  # width and height
    channels: int | None = None
    fit: str | None = None
    skip_damaged: bool = False


def conversion(size: tuple[int, int] | None, channels: int | None, fit: str | None, skip_damaged: bool) -> Conversion:
    """A `Conversion` of options as `load` takes them, checked."""
    if channels is not None and (isinstance(channels, bool) or channels not in CHANNELS.values()):
        raise UserError(f"channels is {channels}: give 1 (grey), 3 (colour) or 4 (with alpha)")
    if fit is not None:
        check_choice("fit", fit, FITS)
        if size is None:
            raise UserError(f"fit={fit} has no effect without size: give size too, such as size=32")
    if not isinstance(skip_damaged, bool):
        raise UserError(f"skip_damaged is {skip_damaged!r}: give true or false")
    return Conversion(size, channels, fit, skip_damaged)


def read_images(name: str, folder: Path, options: Conversion) -> Dataset:
    """A set of the images in `folder`, in a seeded random order, so that the first few are of all classes.

    Where no folder is a test split, a fifth of the training images of each class becomes one.
    """
    name = shown(name)
    listing = list_images(folder)
    splits, note = dict(listing.splits), ""
    if "test" not in splits:
        splits["train"], splits["test"] = _divide(folder, splits["train"])
        of = " of train" if "validation" in splits else ""
        note = f"test split: a random {_TEST_SHARE:.0%} of each class{of} (seed {_SEED})"
    files = {split: _shuffled(listing.classes, found) for split, found in splits.items()}
    reader = _Reader(name, folder, options, files)
    classes = [shown(label) for label in listing.classes]
    labels = reader.splits["train"][1]
    for number, label in enumerate(classes):
        if number not in labels:
            raise UserError(f"{name}: every image of the class {label} in train is damaged: mend or remove it")
    return arrays.build(
        name,
        reader.splits,
        classes=classes,
        kind="folder",
        checksum=reader.checksum(classes),
        note=note,
        notes=(*listing.notes, *reader.notes()),
        mixed=True,
    )


def _divide(folder: Path, found: Files) -> tuple[Files, Files]:
    """Training and test images of each class; one at least for the test where there are two."""
    rng = np.random.default_rng(_SEED)
    train: Files = {}
    test: Files = {}
    for label, paths in sorted(found.items()):
        number = max(round(_TEST_SHARE * len(paths)), int(len(paths) > 1))
        held = set(rng.permutation(len(paths))[:number].tolist())
        train[label] = [path for index, path in enumerate(paths) if index not in held]
        test[label] = [path for index, path in enumerate(paths) if index in held]
    if not any(test.values()):
        raise UserError(f"{shown(folder)} has 1 image a class and no folder test: give more images, or a folder test")
    return train, test


def _shuffled(classes: Sequence[str], found: Files) -> _Labelled:
    files = [(path, number) for number, label in enumerate(classes) for path in found.get(label, ())]
    return [files[index] for index in np.random.default_rng(_SEED).permutation(len(files))]


class _Reader:
    """Reads files in two passes: their headers, which tell what to make of all of them, and their pixels."""

    def __init__(self, name: str, folder: Path, conversion: Conversion, files: Mapping[str, _Labelled]):
        self.name, self.folder, self.conversion = name, folder, conversion
        self.damaged: dict[str, str] = {}
        self.pixels: dict[str, Pixels] = {}
        self.splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        with pillow(), ThreadPoolExecutor(_THREADS) as self.pool:
            self.headers: dict[str, Header] = {}
            self._each(read_header, [path for labelled in files.values() for path, _ in labelled], self.headers)
            self.wanted = self._wanted()
            for split, labelled in files.items():
                self.splits[split] = self._load([(path, label) for path, label in labelled if path in self.headers])
        self._check_damaged()
        self.kept = {split: [path for path, _ in x if path in self.pixels] for split, x in files.items()}

    def checksum(self, classes: Sequence[str]) -> str:
        """sha256 over all that decides what the examples are, in their order."""
        digest = hashlib.sha256(repr((self.wanted, classes)).encode())
        for (split, (_, labels)), paths in zip(self.splits.items(), self.kept.values(), strict=True):
            digest.update(split.encode() + labels.tobytes())
            for path in paths:
                digest.update(self.headers[path].digest)
        return digest.hexdigest()

    def _each(self, function: Callable[[str], _R], paths: Sequence[str], results: dict[str, _R]) -> None:
        """Enter each file's result in `results`, several files at once, or the reason for none in `damaged`."""

        def attempt(part: Sequence[str]) -> None:
            for path in part:
                try:
                    results[path] = function(path)
                except Unreadable as error:
                    self.damaged[path] = str(error)

        list(self.pool.map(attempt, (paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK))))

    def _wanted(self) -> Wanted:
        """What to make of every image; `UserError` where that is doubtful."""
        sizes = Counter(header.size for header in self.headers.values())
        modes = {header.shown for header in self.headers.values()}
        mode = modes.pop() if len(modes) == 1 else "RGB"  # grey among colour is colour
        if self.conversion.channels is not None:
            mode = next(mode for mode, channels in CHANNELS.items() if channels == self.conversion.channels)
        size = self.conversion.size
        if size is None and len(sizes) > 1:
            raise UserError(f"{self.name}: {self._differing(sizes)}{self._and_damaged()}")
        if not sizes:
            raise UserError(f"{self.name}: no file can be read as an image, such as {self._reasons(3)}")
        width, height = size or next(iter(sizes))
        needed, memory = len(self.headers) * width * height * CHANNELS[mode], _memory()
        if needed > memory:
            raise UserError(
                f"{self.name}: {count(len(self.headers), 'image')} of {width} x {height} {mode} take "
                f"{needed / 2**30:,.0f} GB of the {memory / 2**30:,.0f} that there are: give a smaller size, such as "
                "--set size=224 (in Python size=224)"
            )
        return Wanted(mode, (width, height), self.conversion.fit or FITS[0])

    def _differing(self, sizes: Counter[tuple[int, int]]) -> str:
        """What sizes and modes there are, and how to make them one."""
        modes = Counter(header.mode for header in self.headers.values())
        (width, height), _ = sizes.most_common(1)[0]
        size = width if width == height else f"{width}x{height}"
        return (
            f"{count(len(self.headers), 'image')} of {len(sizes):,} sizes, {_sizes(sizes)}, and of "
            f"{count(len(modes), 'mode')}, {_numbers(modes)}: --set size={size} (in Python size={size!r}) makes "
            "all of the commonest size; add fit=crop, pad or stretch, and channels=1, 3 or 4"
        )

    def _load(self, labelled: _Labelled) -> tuple[np.ndarray, np.ndarray]:
        """The images of a split, each written to its place as it is read, and their labels."""
        width, height = self.wanted.size
        images = empty((len(labelled), height, width, CHANNELS[self.wanted.mode]))
        place = {path: index for index, (path, _) in enumerate(labelled)}

        def store(path: str) -> Pixels:
            return read_pixels(path, self.wanted, images[place[path]])

        self._each(store, list(place), self.pixels)
        kept = [index for index, (path, _) in enumerate(labelled) if path in self.pixels]
        if len(kept) < len(labelled):
            for index, old in enumerate(kept):  # in place, since a copy would double the memory
                images[index] = images[old]
        return images[: len(kept)], np.array([labelled[index][1] for index in kept], np.int32)

    def _check_damaged(self) -> None:
        if self.damaged and not self.conversion.skip_damaged:
            raise UserError(
                f"{self.name}: {self._unreadable()}: mend or remove them, "
                "or leave them out with --set skip_damaged=true (in Python skip_damaged=True)"
            )

    def _and_damaged(self) -> str:
        if not self.damaged or self.conversion.skip_damaged:
            return ""
        return f"; and {self._unreadable()}: mend or remove them, or add skip_damaged=true"

    def _unreadable(self) -> str:
        total = len({*self.damaged, *self.headers})
        return f"{len(self.damaged):,} of {count(total, 'file')} cannot be read as images, {self._reasons(8)}"

    def _reasons(self, most: int) -> str:
        named = sorted(self.damaged.items())
        return some([f"{shown(os.path.relpath(path, self.folder))} ({reason})" for path, reason in named], most)

    def notes(self) -> list[str]:
        """What was left out and what was converted, a line each."""
        kept = [path for paths in self.kept.values() for path in paths]
        headers = [self.headers[path] for path in kept]
        pixels = [self.pixels[path] for path in kept]
        wanted = self.wanted
        size = f"{wanted.size[0]} x {wanted.size[1]}"
        sizes = Counter(header.size for header in headers if header.size != wanted.size)
        modes = Counter(header.mode for header in headers if header.mode != wanted.mode)
        clear = sum(header.transparent for header in headers) if wanted.mode != "RGBA" else 0
        deep = sum(header.deep for header in headers)
        peak = max((found.peak for found in pixels), default=0)
        frames = [path for path in kept if self.headers[path].frames]
        turned = sum(found.turned for found in pixels)
        lines = {
            f"left out: {count(len(self.damaged), 'damaged image')}, {self._reasons(3)}": len(self.damaged),
            f"resized to {size} (fit = {wanted.fit}): {count(sum(sizes.values()), 'image')} of {_sizes(sizes)}": len(
                sizes
            ),
            f"converted to {wanted.mode}: {_numbers(modes)}": len(modes),
            f"laid on white where transparent: {count(clear, 'image')}": clear,
            f"reduced to 8 bits a value: {count(deep, 'image')}": deep,
            f"nearly black: no value of 16 bits is above {peak:,} of 65,535; store the full range": 0 < peak < _DIM,
            f"turned as their EXIF orientation says: {count(turned, 'image')}": turned,
            f"first of several frames: {count(len(frames), 'image')}"
            + (f", such as {shown(os.path.relpath(frames[0], self.folder))}" if frames else ""): len(frames),
        }
        return [line for line, number in lines.items() if number] + self._twins()

    def _twins(self) -> list[str]:
        """A line for each split that holds files of the training split once more, which spoils what it measures."""
        train = {self.headers[path].digest for path in self.kept["train"]}
        lines = []
        for split, paths in self.kept.items():
            twins = [path for path in paths if self.headers[path].digest in train] if split != "train" else []
            if twins:
                example = shown(os.path.relpath(twins[0], self.folder))
                lines.append(f"also in train: {count(len(twins), 'image')} of the {split} split, such as {example}")
        return lines


def _numbers(counter: Counter[str]) -> str:
    return some([f"{name} ({number:,})" for name, number in counter.most_common()], 8)


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    return some([f"{width} x {height} ({number:,})" for (width, height), number in sizes.most_common()], 5)


def _memory() -> float:
    """Bytes of memory of this machine; without end where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no Unix
        return float("inf")
