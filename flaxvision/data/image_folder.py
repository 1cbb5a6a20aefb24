"""`images:FOLDER`: a data set of the image files in a folder of one's own, whatever their sizes and modes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flaxvision._memory import empty, reorder
from flaxvision._text import some
from flaxvision.data import arrays
from flaxvision.data.dataset import SPLITS, Dataset
from flaxvision.data.listing import Listing, count, list_images, shown
from flaxvision.data.pixels import CHANNELS, FITS, Header, Pixels, Unreadable, Wanted, pillow, read_header, read_pixels
from flaxvision.errors import UserError, check_choice

_SEED = 0  # of the order of the images, and of the test split where the folder has none
_TEST_SHARE = 0.2
_THREADS = min(8, os.cpu_count() or 1)
_TURNS = 64  # in which a thread reads its share of the files
_DIM = 2**13  # where no 16-bit value reaches this, a viewer shows images that are nearly black

_Known = TypeVar("_Known")
_Key = TypeVar("_Key")


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
    reader = _Reader(name, folder, options, listing)
    note = ""
    if "test" not in listing.splits:
        of = " of train" if "validation" in listing.splits else ""
        note = f"test split: a random {_TEST_SHARE:.0%} of each class{of} (seed {_SEED})"
    classes = [shown(label) for label in listing.classes]
    return arrays.build(
        name,
        reader.splits,
        classes=classes,
        kind="folder",
        checksum=reader.checksum(classes),
        note=note,
        notes=(*listing.notes, *reader.notes()),
        mixed=True,
        files=reader.files(),
    )


class _Reader:
    """Reads files in two passes: their headers, which tell what to make of all of them, and their pixels.

    Files go by number, and what is known of each is shared or stands in an array: small images are many.
    """

    def __init__(self, name: str, folder: Path, conversion: Conversion, listing: Listing):
        self.name, self.folder, self.conversion, self.classes = name, str(folder), conversion, listing.classes
        self.paths: list[str] = []  # split by split, class by class
        labels: list[np.ndarray] = []
        ranges: dict[str, range] = {}
        for split, files in listing.splits.items():
            start = len(self.paths)
            for label, class_name in enumerate(listing.classes):
                paths = files.get(class_name, ())
                self.paths += paths
                labels.append(np.full(len(paths), label, np.int32))
            ranges[split] = range(start, len(self.paths))
        self.labels = np.concatenate(labels)
        self.digests = np.zeros((len(self.paths), hashlib.sha256().digest_size), np.uint8)
        self.headers: list[Header | None] = [None] * len(self.paths)
        self.pixels: list[Pixels | None] = [None] * len(self.paths)
        self.damaged: dict[int, str] = {}
        self.splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.kept: dict[str, np.ndarray] = {}  # of each split, the files of its examples
        self.shared: dict[Any, Any] = {}

        def read(number: int) -> None:
            header, digest = read_header(self._path(number))
            self.headers[number] = self.shared.setdefault(header, header)
            self.digests[number] = np.frombuffer(digest, np.uint8)

        with pillow(), ThreadPoolExecutor(_THREADS) as self.pool:
            self._each(read, range(len(self.paths)))
            self.wanted = self._wanted()
            images = {split: self._load(numbers) for split, numbers in ranges.items()}
        self._check_damaged()
        sound = np.fromiter((pixels is not None for pixels in self.pixels), bool, len(self.pixels))
        found = {
            split: numbers.start + np.flatnonzero(sound[numbers.start : numbers.stop])
            for split, numbers in ranges.items()
        }
        self._check_classes(found["train"])
        for split, numbers in found.items():
            parts = {split: numbers} if split != "train" or "test" in found else self._divide(numbers)
            self._arrange(images[split], ranges[split].start, parts)
        self.kept = {split: self.kept[split] for split in SPLITS if split in self.kept}

    def files(self) -> dict[str, np.ndarray]:
        """The path of each example below the folder, by split."""
        shown_paths = np.array(list(map(shown, self.paths)), object)
        return {split: shown_paths[numbers] for split, numbers in self.kept.items()}

    def checksum(self, classes: Sequence[str]) -> str:
        """sha256 over all that decides what the examples are, in their order."""
        digest = hashlib.sha256(repr((self.wanted, classes)).encode())
        for split, numbers in self.kept.items():
            digest.update(split.encode() + self.labels[numbers].tobytes())
            digest.update(self.digests[numbers])
        return digest.hexdigest()

    def _path(self, number: int) -> str:
        return os.path.join(self.folder, self.paths[number])

    def _each(self, function: Callable[[int], None], numbers: range) -> None:
        """Call a function for each file, several at once; where there is no image, enter the reason in `damaged`."""

        def attempt(part: range) -> None:
            for number in part:
                try:
                    function(number)
                except Unreadable as error:
                    self.damaged[number] = str(error)

        size = len(numbers) // (_THREADS * _TURNS) + 1
        for _ in self.pool.map(attempt, (numbers[i : i + size] for i in range(0, len(numbers), size))):
            pass

    def _wanted(self) -> Wanted:
        """What to make of every image; `UserError` where that is doubtful."""
        headers = [header for header in self.headers if header]
        sizes = Counter(header.size for header in headers)
        modes = {header.shown for header in headers}
        mode = modes.pop() if len(modes) == 1 else "RGB"  # grey among colour is colour
        if self.conversion.channels is not None:
            mode = next(mode for mode, channels in CHANNELS.items() if channels == self.conversion.channels)
        size = self.conversion.size
        if size is None and len(sizes) > 1:
            self._decode_all()  # so that one message tells of all that is wrong
            raise UserError(f"{self.name}: {self._differing(sizes)}{self._and_damaged()}")
        if not sizes:
            raise UserError(f"{self.name}: no file can be read as an image, such as {self._reasons(3)}")
        width, height = size or next(iter(sizes))
        needed, memory = len(headers) * width * height * CHANNELS[mode], _memory()
        if needed > memory:
            raise UserError(
                f"{self.name}: {count(len(headers), 'image')} of {width} x {height} {mode} take "
                f"{needed / 2**30:,.0f} GB of the {memory / 2**30:,.0f} that there are: give a smaller size, such as "
                f"--set size=224 (in Python size=224){self._and_damaged()}"
            )
        return Wanted(mode, (width, height), self.conversion.fit or FITS[0])

    def _decode_all(self) -> None:
        """Find the damage behind headers."""

        def decode(number: int) -> None:
            if self.headers[number]:
                read_pixels(self._path(number), Wanted("L", (1, 1), "stretch"), np.empty((1, 1, 1), np.uint8))

        self._each(decode, range(len(self.paths)))

    def _differing(self, sizes: Counter[tuple[int, int]]) -> str:
        """What sizes and modes there are, and how to make them one."""
        modes = Counter(header.mode for header in self.headers if header)
        (width, height), _ = sizes.most_common(1)[0]
        size = width if width == height else f"{width}x{height}"
        return (
            f"{count(sizes.total(), 'image')} of {len(sizes):,} sizes, {_sizes(sizes)}, and of "
            f"{count(len(modes), 'mode')}, {_numbers(modes)}: --set size={size} (in Python size={size!r}) makes "
            "all of the commonest size; add fit=crop, pad or stretch, and channels=1, 3 or 4"
        )

    def _load(self, numbers: range) -> np.ndarray:
        """The images of files, each written to its place as it is read; the place of a damaged one is void."""
        width, height = self.wanted.size
        images = empty((len(numbers), height, width, CHANNELS[self.wanted.mode]))

        def store(number: int) -> None:
            if self.headers[number] is None:
                return
            pixels = read_pixels(self._path(number), self.wanted, images[number - numbers[0]])
            self.pixels[number] = self.shared.setdefault(pixels, pixels)

        self._each(store, numbers)
        return images

    def _divide(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Training and test images of each class; one at least for the test where there are two."""
        rng = np.random.default_rng(_SEED)
        ends = np.cumsum(np.bincount(self.labels[numbers], minlength=len(self.classes)))
        held = np.zeros(len(numbers), bool)
        for label in sorted(range(len(self.classes)), key=self.classes.__getitem__):
            start = ends[label - 1] if label else 0
            drawn = rng.permutation(ends[label] - start)
            held[start + drawn[: max(round(_TEST_SHARE * len(drawn)), int(len(drawn) > 1))]] = True
        if not held.any():
            raise UserError(
                f"{shown(self.folder)} has 1 image a class and no folder test: give more images, or a folder test"
            )
        return {"train": numbers[~held], "test": numbers[held]}

    def _arrange(self, images: np.ndarray, start: int, parts: Mapping[str, np.ndarray]) -> None:
        """Enter splits of images that lie in the order of their numbers from `start` on, each in a random order."""
        mixed = {split: part[np.random.default_rng(_SEED).permutation(len(part))] for split, part in parts.items()}
        images = reorder(images, np.concatenate(list(mixed.values())) - start)
        for split, numbers in mixed.items():
            self.kept[split] = numbers
            self.splits[split] = images[: len(numbers)], self.labels[numbers]
            images = images[len(numbers) :]

    def _check_classes(self, numbers: np.ndarray) -> None:
        gone = [label for number, label in enumerate(self.classes) if number not in self.labels[numbers]]
        if gone:
            which = f"the class {shown(gone[0])}" if len(gone) == 1 else f"the classes {some(map(shown, gone), 9)}"
            raise UserError(f"{self.name}: every image of {which} in train is damaged: mend or remove it")

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
        total = count(len(self.paths), "file")
        return f"{len(self.damaged):,} of {total} cannot be read as images, {self._reasons(8)}"

    def _reasons(self, most: int) -> str:
        named = sorted((self._shown(number), reason) for number, reason in self.damaged.items())
        return some([f"{path} ({reason})" for path, reason in named], most)

    def _shown(self, number: int) -> str:
        return shown(self.paths[number])

    def notes(self) -> list[str]:
        """What was left out and what was converted, a line each."""
        wanted = self.wanted
        headers = Counter(header for number in self._all_kept() if (header := self.headers[number]))
        pixels = Counter(found for number in self._all_kept() if (found := self.pixels[number]))
        size = f"{wanted.size[0]} x {wanted.size[1]}"
        sizes = _by(headers, lambda header: header.size if header.size != wanted.size else None)
        modes = _by(headers, lambda header: header.mode if header.mode != wanted.mode else None)
        clear = _by(headers, lambda header: header.transparent and wanted.mode != "RGBA").total()
        deep = _by(headers, lambda header: header.deep).total()
        frames = _by(headers, lambda header: header.frames).total()
        turned = _by(pixels, lambda found: found.turned).total()
        peak = max((found.peak for found in pixels), default=0)
        resized = count(sizes.total(), "image")
        lines = {
            f"left out: {count(len(self.damaged), 'damaged image')}, {self._reasons(3)}": len(self.damaged),
            f"resized to {size} (fit = {wanted.fit}): {resized} of {_sizes(sizes)}": len(sizes),
            f"converted to {wanted.mode}: {_numbers(modes)}": len(modes),
            f"laid on white where transparent: {count(clear, 'image')}": clear,
            f"reduced to 8 bits a value: {count(deep, 'image')}": deep,
            f"nearly black: no value of 16 bits is above {peak:,} of 65,535; store the full range": 0 < peak < _DIM,
            f"turned as their EXIF orientation says: {count(turned, 'image')}": turned,
            f"first of several frames: {count(frames, 'image')}{self._animated()}": frames,
        }
        return [line for line, number in lines.items() if number] + self._twins()

    def _all_kept(self) -> Iterator[int]:
        return (number for numbers in self.kept.values() for number in numbers)

    def _animated(self) -> str:
        found = (number for number in self._all_kept() if (header := self.headers[number]) and header.frames)
        return next((f", such as {self._shown(number)}" for number in found), "")

    def _twins(self) -> list[str]:
        """A line for each split that holds files of the training split once more, which spoils what it measures."""
        digests = self.digests.view(np.uint64)[:, 0]  # 8 bytes of a sha256 are as good as all
        lines = []
        for split, numbers in self.kept.items():
            twins = numbers[np.isin(digests[numbers], digests[self.kept["train"]])] if split != "train" else numbers[:0]
            if len(twins):
                example = self._shown(twins[0])
                lines.append(f"also in train: {count(len(twins), 'image')} of the {split} split, such as {example}")
        return lines


def _by(counter: Counter[_Known], key: Callable[[_Known], _Key | None]) -> Counter[_Key]:
    """The numbers by a key of what was counted, where it has one."""
    found: Counter[_Key] = Counter()
    for item, number in counter.items():
        if value := key(item):
            found[value] += number
    return found


def _numbers(counter: Counter[str]) -> str:
    return some([f"{name} ({number:,})" for name, number in _by_count(counter)], 8)


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    return some([f"{width} x {height} ({number:,})" for (width, height), number in _by_count(sizes)], 5)


def _memory() -> float:
    """Bytes of memory of this machine; without end where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no Unix
        return float("inf")


def _by_count(counter: Counter[_Key]) -> list[tuple[_Key, int]]:
    """The commonest first, equals by name: not in the order in which a file system lists them."""
    return sorted(counter.items(), key=lambda item: (-item[1], str(item[0])))
