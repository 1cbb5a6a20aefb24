"""`images:FOLDER`: a data set of the image files in a folder of one's own, whatever their sizes and modes."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from flaxvision._text import some
from flaxvision.data import arrays
from flaxvision.data.balance import first_few
from flaxvision.data.dataset import SPLITS, Dataset
from flaxvision.data.image_notes import by_name, by_size, conversions
from flaxvision.data.listing import Listing, count, list_images, shown
from flaxvision.data.pixels import (
    CHANNELS,
    FITS,
    THREADS,
    Header,
    Pixels,
    Unreadable,
    Wanted,
    pillow,
    read_header,
    read_pixels,
)
from flaxvision.data.space import Space
from flaxvision.errors import UserError, check_choice

_SEED = 0  # of the order of the images, and of the test split where the folder has none
_TEST_SHARE = 0.2
_TURNS = 64  # in which a thread reads its share of the files


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


def readers() -> tuple[str, ...]:
    """What decides, beside files and options, what images become: Pillow's version and the plug-ins that there are."""
    plugins = [name for name in ("pillow_heif", "pillow_jxl") if importlib.util.find_spec(name)]
    return PIL.__version__, *plugins


def read_images(
    name: str, folder: Path, options: Conversion, limit: int | None = None, space: Space | None = None
) -> Dataset:
    """A set of the images in `folder`, in a seeded random order, so that the first few are of all classes.

    Where no folder is a test split, a fifth of the training images of each class becomes one. With a limit only those
    are read that are kept: the first so many of each split, with the classes in its proportions. Which these are, and
    which of them are for testing, is then drawn among all files, else among those that can be read.
    """
    name = shown(name)
    listing = list_images(folder)
    reader = _Reader(name, folder, options, listing, limit, space or Space())
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

    def __init__(
        self, name: str, folder: Path, conversion: Conversion, listing: Listing, limit: int | None, space: Space
    ):
        self.name, self.folder, self.conversion, self.classes = name, str(folder), conversion, listing.classes
        self.limit, self.space = limit, space
        self.paths: list[str] = []  # split by split, class by class
        labels: list[np.ndarray] = []
        self.ranges: dict[str, range] = {}
        for split, files in listing.splits.items():
            start = len(self.paths)
            for label, class_name in enumerate(listing.classes):
                paths = files.get(class_name, ())
                self.paths += paths
                labels.append(np.full(len(paths), label, np.int32))
            self.ranges[split] = range(start, len(self.paths))
        self.labels = np.concatenate(labels)
        self.digests = np.zeros((len(self.paths), hashlib.sha256().digest_size), np.uint8)
        self.headers: list[Header | None] = [None] * len(self.paths)
        self.pixels: list[Pixels | None] = [None] * len(self.paths)
        self.damaged: dict[int, str] = {}
        self.splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.kept: dict[str, np.ndarray] = {}  # of each split, the files of its examples
        self.shared: dict[Any, Any] = {}
        with pillow(), ThreadPoolExecutor(THREADS) as self.pool:
            while not self._read():  # then some are damaged, and others take their places
                pass

    def _read(self) -> bool:
        """Read what is drawn; whether all of that could be read."""
        known = len(self.damaged)
        self.splits.clear()  # whose memory is needed
        self.kept = self._draw()
        self._each(self._read_header, [number for number in self._all_kept() if self.headers[number] is None])
        if len(self.damaged) > known and self.conversion.skip_damaged:
            return False
        self.wanted = self._wanted()
        width, height = self.wanted.size
        for part, splits in (("train", ["train"]), ("held_out", [split for split in self.kept if split != "train"])):
            numbers = np.concatenate([self.kept[split] for split in splits])
            images = self.space(part, (len(numbers), height, width, CHANNELS[self.wanted.mode]))
            self._load(images, numbers)
            for split in splits:
                end = len(self.kept[split])
                self.splits[split] = images[:end], self.labels[self.kept[split]]
                images = images[end:]
        self._check_damaged()
        return len(self.damaged) == known

    def files(self) -> dict[str, np.ndarray]:
        """The path of each example below the folder, by split."""
        shown_paths = {number: shown(self.paths[number]) for number in self._all_kept()}
        return {split: np.array([shown_paths[n] for n in numbers], object) for split, numbers in self.kept.items()}

    def checksum(self, classes: Sequence[str]) -> str:
        """sha256 over all that decides what the examples are, in their order."""
        digest = hashlib.sha256(repr((self.wanted, classes)).encode())
        for split, numbers in self.kept.items():
            digest.update(split.encode() + self.labels[numbers].tobytes())
            digest.update(self.digests[numbers])
        return digest.hexdigest()

    def _path(self, number: int) -> str:
        return os.path.join(self.folder, self.paths[number])

    def _each(self, function: Callable[[int], None], numbers: Sequence[int]) -> None:
        """Call a function for each file, several at once; where there is no image, enter the reason in `damaged`."""

        def attempt(part: Sequence[int]) -> None:
            for number in part:
                try:
                    function(number)
                except Unreadable as error:
                    self.damaged[number] = str(error)

        size = len(numbers) // (THREADS * _TURNS) + 1
        for _ in self.pool.map(attempt, (numbers[i : i + size] for i in range(0, len(numbers), size))):
            pass

    def _draw(self) -> dict[str, np.ndarray]:
        """The numbers of the files of each split, in its order."""
        sound = np.ones(len(self.paths), bool)
        sound[list(self.damaged)] = False
        if not sound.any():
            raise UserError(f"{self.name}: no file can be read as an image, such as {self._reasons(3)}")
        train = self.ranges["train"]
        self._check_classes(train.start + np.flatnonzero(sound[train.start : train.stop]))
        drawn: dict[str, np.ndarray] = {}
        for split, numbers in self.ranges.items():
            among = np.arange(numbers.start, numbers.stop)
            if self.limit is None:  # damage must not bend the share of the test split
                among = among[sound[among]]
            drawn |= {split: among} if split != "train" or "test" in self.ranges else self._divide(among)
        for split, among in drawn.items():
            mixed = among[np.random.default_rng(_SEED).permutation(len(among))]
            mixed = mixed[sound[mixed]]
            drawn[split] = mixed if self.limit is None else mixed[first_few(self.labels[mixed], self.limit)]
        return {split: drawn[split] for split in SPLITS if split in drawn}

    def _read_header(self, number: int) -> None:
        header, digest = read_header(self._path(number))
        self.headers[number] = self.shared.setdefault(header, header)
        self.digests[number] = np.frombuffer(digest, np.uint8)

    def _wanted(self) -> Wanted:
        """What to make of every image; `UserError` where that is doubtful."""
        headers = [header for number in self._all_kept() if (header := self.headers[number])]
        sizes = Counter(header.size for header in headers)
        modes = {header.shown for header in headers}
        mode = modes.pop() if len(modes) == 1 else "RGB"  # grey among colour is colour
        if self.conversion.channels is not None:
            mode = next(mode for mode, channels in CHANNELS.items() if channels == self.conversion.channels)
        size = self.conversion.size
        if size is None and len(sizes) > 1:
            self._decode_all()  # so that one message tells of all that is wrong
            raise UserError(f"{self.name}: {self._differing(headers)}{self._and_damaged()}")
        if not sizes:
            raise UserError(f"{self.name}: no file can be read as an image, such as {self._reasons(3)}")
        width, height = size or next(iter(sizes))
        needed, room = len(headers) * width * height * CHANNELS[mode], self.space.room()
        if needed > room:
            raise UserError(
                f"{self.name}: {count(len(headers), 'image')} of {width} x {height} {mode} take "
                f"{needed / 2**30:,.0f} GB of the {room / 2**30:,.0f} that there are: give a smaller size, such as "
                f"--set size=224 (in Python size=224){self._and_damaged()}"
            )
        return Wanted(mode, (width, height), self.conversion.fit or FITS[0])

    def _decode_all(self) -> None:
        """Find the damage behind headers."""

        def decode(number: int) -> None:
            if self.headers[number]:
                read_pixels(self._path(number), Wanted("L", (1, 1), "stretch"), np.empty((1, 1, 1), np.uint8))

        self._each(decode, self._all_kept())

    def _differing(self, headers: Sequence[Header]) -> str:
        """What sizes and modes there are, and how to make them one."""
        sizes, modes = Counter(header.size for header in headers), Counter(header.mode for header in headers)
        (width, height), _ = sizes.most_common(1)[0]
        size = width if width == height else f"{width}x{height}"
        return (
            f"{count(sizes.total(), 'image')} of {len(sizes):,} sizes, {by_size(sizes)}, and of "
            f"{count(len(modes), 'mode')}, {by_name(modes)}: --set size={size} (in Python size={size!r}) makes "
            "all of the commonest size; add --set fit=crop, pad or stretch, and --set channels=1, 3 or 4"
        )

    def _load(self, images: np.ndarray, numbers: np.ndarray) -> None:
        """The images of files, in their order; the place of a damaged one is void."""
        places = dict(zip(numbers.tolist(), range(len(numbers)), strict=True))

        def store(number: int) -> None:
            if self.headers[number] is not None:
                pixels = read_pixels(self._path(number), self.wanted, images[places[number]])
                self.pixels[number] = self.shared.setdefault(pixels, pixels)

        self._each(store, list(places))

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

    def _check_classes(self, numbers: np.ndarray) -> None:
        there = np.bincount(self.labels[numbers], minlength=len(self.classes))
        gone = [label for label, images in zip(self.classes, there, strict=True) if not images]
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
        return f"; and {self._unreadable()}: mend or remove them, or add --set skip_damaged=true"

    def _unreadable(self) -> str:
        total = count(len(self.damaged.keys() | set(self._all_kept())), "file")
        return f"{len(self.damaged):,} of {total} cannot be read as images, {self._reasons(8)}"

    def _reasons(self, most: int) -> str:
        named = sorted((self._shown(number), reason) for number, reason in self.damaged.items())
        return some([f"{path} ({reason})" for path, reason in named], most)

    def _shown(self, number: int) -> str:
        return shown(self.paths[number])

    def _all_kept(self) -> list[int]:
        return np.concatenate(list(self.kept.values())).tolist()

    def notes(self) -> list[str]:
        """What was left out and what was converted, a line each."""
        kept = self._all_kept()
        headers = [header for number in kept if (header := self.headers[number])]
        pixels = [found for number in kept if (found := self.pixels[number])]
        animated = next((self._shown(n) for n in kept if (header := self.headers[n]) and header.frames), "")
        left_out = f"left out: {count(len(self.damaged), 'damaged image')}, {self._reasons(3)}"
        return [
            *([left_out] if self.damaged else []),
            *conversions(self.wanted, Counter(headers), Counter(pixels), animated),
            *self._twins(),
        ]

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
