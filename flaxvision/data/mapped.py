"""Copies of data sets that processes map into their memory, where they would read, convert and hold them.

A copy is a folder of plain NumPy files: `train.npy`; `held_out.npy`, which has the other splits one behind the other,
as training evaluates them; `labels.npy`; `files.npy`; and `about.json`, which has all else, with checksums. Its pages
are in memory once for all processes, and the kernel drops them when it needs their memory. JAX on a CPU computes on
them as they are. A copy is made in a folder beside and renamed when complete: what is there is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import mmap
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from flaxvision._limits import free_memory
from flaxvision._memory import empty
from flaxvision.data.dataset import Dataset, Split
from flaxvision.data.stored import about, rebuilt
from flaxvision.runtime import cores

VERSION = 2  # of what a copy is; another one makes all copies anew
SMALL = 2**24  # bytes of examples that are read about as fast as mapped
ABOUT = "about.json"
_OWN = "checksum"  # of all else in it
_BEGUN = ".preparing-"
_BLOCK = 2**22  # bytes under one checksum
_CHECKED = 2**30  # bytes of a file that are compared with their checksums at each start, spread over it
_ABANDONED = 86_400.0  # seconds after which nobody is making a copy any more
_UNUSED = 90 * 86_400.0  # seconds after which a copy that nobody has used is deleted


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where the copy of a data set lies, by what it is made of."""

    folder: Path  # of all copies of one source
    state: str  # of the source's files, see `files.state_of`: with another one they have changed
    options: str  # what it was loaded with

    @classmethod
    def of(cls, folder: Path, source: Path, state: str, *options: object) -> Place:
        """The place below `folder` of a source that lies at a path."""
        return cls(folder / _hash(source.absolute()), _hash(VERSION, state), _hash(*options))

    def of_part(self, *options: object) -> Place:
        """That of what is made of this copy with more options."""
        return dataclasses.replace(self, options=_hash(self.options, *options))

    @property
    def home(self) -> Path:
        """The folder of the copy."""
        return self.folder / f"{self.state}-{self.options}"


class Space:
    """Gives memory for the examples of a copy in the making: files that are mapped, or memory where none can be made.

    Args:
        place: Where the copy is to lie; None: nowhere.
    """

    def __init__(self, place: Place | None = None):
        self.place, self.why = place, ""  # why there can be no files
        self.parts: dict[str, np.memmap] = {}
        self._folder: Path | None = None

    def folder(self) -> Path | None:
        """The folder of the copy in the making; None where there can be none."""
        if self._folder is None and self.place is not None:
            try:
                self.place.folder.mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(dir=self.place.folder, prefix=_BEGUN)) / "copy"
                self._folder.mkdir()
            except OSError as error:
                self.give_up(error)
        return self._folder

    def give_up(self, error: OSError) -> None:
        """Delete the folder, and give memory from now on; arrays in files stay as long as somebody holds them."""
        self.close()
        self.place, self.why = None, _reason(error)

    def close(self) -> None:
        """Delete what was not given a name."""
        if self._folder is not None:
            shutil.rmtree(self._folder.parent, ignore_errors=True)
            with contextlib.suppress(OSError):  # other copies are there
                self._folder.parent.parent.rmdir()
        self._folder = None

    def room(self) -> float:
        """How many bytes it can give."""
        folder = self.folder()
        return max(free_memory(), 0 if folder is None else shutil.disk_usage(folder).free)

    def __call__(self, part: str, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
        """An array for the examples of "train", or for those "held_out"; what the part had before is void."""
        self.parts.pop(part, None)
        folder = self.folder()
        if folder is None:
            return empty(shape, dtype)
        path = folder / f"{part}.npy"
        try:
            path.unlink(missing_ok=True)
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            if hasattr(os, "posix_fallocate"):  # or a full disk would end the process at some later write
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            self.give_up(error)
            return empty(shape, dtype)
        self.parts[part] = array
        return array.view(np.ndarray)

    def take(self, part: str, *pieces: tuple[np.ndarray, np.ndarray | None]) -> list[np.ndarray]:
        """Copy rows of arrays (None: all of them), one behind the other; gives those of each."""
        counts = [len(array) if rows is None else len(rows) for array, rows in pieces]
        first = pieces[0][0]
        whole = self(part, (sum(counts), *first.shape[1:]), first.dtype)
        found = np.split(whole, np.cumsum(counts)[:-1])
        step = max(1, _BLOCK // max(1, first[0].nbytes))
        for (array, rows), out in zip(pieces, found, strict=True):
            for start in range(0, len(out), step):
                end = start + step
                out[start:end] = array[start:end] if rows is None else array[rows[start:end]]
        return found


def mapped(place: Place, make: Callable[[Space], Dataset], *, least: int = SMALL) -> Dataset:
    """The data set that `make` gives, mapped from its copy; where there is none, one is made.

    Notes of its source say so if the copy was damaged, if files have changed since, or if none can be kept.

    Args:
        place: Where the copy lies.
        make: What reads the data set; it may put the examples into the space that it is given.
        least: Bytes of examples below which no copy is kept.
    """
    notes = []
    if os.path.isdir(place.home):  # False, too, where one may not look
        try:
            return _read(place.home)
        except MemoryError:
            raise
        except Exception as error:  # whatever json, zlib or NumPy raise for a damaged file
            notes.append(f"the prepared copy was damaged ({_reason(error)}) and made anew")
    elif _stale(place):
        notes.append("files have changed since they were prepared, and were prepared anew")
    space = Space(place)
    try:
        dataset = make(space)
        if sum(split.images.nbytes for split in dataset.splits.values()) < least:
            return dataset
        try:
            if _written(dataset, space):
                return told(_read(place.home), notes)
        except OSError as error:
            space.give_up(error)
        return told(dataset, [f"no prepared copy could be kept in {place.folder.parent}: {space.why}"])
    finally:
        space.close()


def told(dataset: Dataset, notes: Sequence[str]) -> Dataset:
    """The same with what is to be said of this start, before what is always said."""
    source = dataclasses.replace(dataset.source, notes=(*notes, *dataset.source.notes))
    return dataclasses.replace(dataset, source=source)


def held_out(dataset: Dataset, place: Place, fraction: float, seed: int, *, least: int = SMALL) -> Dataset:
    """`Dataset.hold_out` of a mapped data set, as a mapped copy of its own."""

    def make(space: Space) -> Dataset:
        kept, held = dataset.draw(fraction, seed)
        (train,) = space.take("train", (dataset.train.images, kept))
        validation, test = space.take("held_out", (dataset.train.images, held), (dataset.test.images, None))
        return dataset.with_splits(
            train=dataset.train.relabelled(train, kept),
            validation=dataset.train.relabelled(validation, held),
            test=dataclasses.replace(dataset.test, images=test),
        )

    return mapped(place.of_part("held out", fraction, seed), make, least=least)


def _written(dataset: Dataset, space: Space) -> bool:
    """Complete the copy of a data set whose examples are in a space or elsewhere; whether that could be done."""
    others = [split for name, split in dataset.splits.items() if name != "train"]
    for part, splits in (("train", [dataset.train]), ("held_out", others)):
        if part not in space.parts:
            space.take(part, *((split.images, None) for split in splits))
    folder, place = space.folder(), space.place
    if folder is None or place is None:
        return False
    for array in space.parts.values():
        array.flush()
    splits = list(dataset.splits.values())
    np.save(folder / "labels.npy", np.concatenate([split.labels for split in splits]))
    if all(split.files is not None for split in splits):
        np.save(folder / "files.npy", np.concatenate([split.files for split in splits]).astype(str))
    # What a loss of power takes of files that are not yet on disk shows in these.
    sums = {path.name: [path.stat().st_size, *_sums(path)] for path in sorted(folder.glob("*.npy"))}
    lengths = {name: len(split) for name, split in dataset.splits.items()}
    (folder / ABOUT).write_text(sealed({**about(dataset), "lengths": lengths, "sums": sums}), encoding="utf-8")
    _publish(folder, place)
    return True


def _publish(made: Path, place: Place) -> None:
    """Give a complete copy its name, and delete what no one needs any more."""
    if place.home.exists():  # damaged
        with contextlib.suppress(OSError):
            os.rename(place.home, made.parent / "damaged")
    try:
        os.rename(made, place.home)
    except OSError:
        if not (place.home / ABOUT).is_file():  # else another process was first, and its copy is as good
            raise
    unused = (path.parent for path in place.folder.parent.glob(f"*/*/{ABOUT}") if _age(path) > _UNUSED)
    abandoned = (path for path in place.folder.glob(f"{_BEGUN}*") if _age(path) > _ABANDONED)
    for folder in [*_stale(place), *unused, *abandoned]:
        shutil.rmtree(folder, ignore_errors=True)


def _stale(place: Place) -> list[Path]:
    """The copies of what a source was before its files changed."""
    with contextlib.suppress(OSError):  # of a folder that is not there yet, or somebody else's
        found = [path.parent for path in place.folder.glob(f"*/{ABOUT}")]
        return [folder for folder in found if not folder.name.startswith(f"{place.state}-")]
    return []


def _read(home: Path) -> Dataset:
    """The data set of a copy, mapped."""
    found = unsealed((home / ABOUT).read_text(encoding="utf-8"))
    for name, (size, *sums) in found["sums"].items():
        path = home / name
        if path.stat().st_size != size:
            raise ValueError(f"{name} has {path.stat().st_size:,} bytes of {size:,}")
        every = max(1, math.ceil(size / _CHECKED))
        if _sums(path, every) != sums[::every]:
            raise ValueError(f"{name} differs from its checksum")
    arrays = {path.stem: np.load(path, mmap_mode="r").view(np.ndarray) for path in home.glob("*.npy")}
    splits: dict[str, Split] = {}
    first = {"train": 0, "held_out": 0, "all": 0}
    for name, length in found["lengths"].items():
        part = "train" if name == "train" else "held_out"
        images = arrays[part][first[part] : first[part] + length]
        of_all = slice(first["all"], first["all"] + length)
        if len(images) != length or len(arrays["labels"][of_all]) != length:
            raise ValueError(f"{name} has not {length:,} examples")
        files = arrays["files"][of_all] if "files" in arrays else None
        splits[name] = Split(images, arrays["labels"][of_all], files)
        first[part] += length
        first["all"] += length
    with contextlib.suppress(OSError):  # a copy of somebody else's
        os.utime(home / ABOUT)
    return rebuilt(found, splits)


def sealed(found: Mapping[str, object]) -> str:
    """What about.json says, with a checksum of it."""
    return json.dumps({**found, _OWN: zlib.crc32(json.dumps(found, sort_keys=True).encode())})


def unsealed(text: str) -> dict[str, Any]:
    """What `sealed` was given; `ValueError` for anything else."""
    found = json.loads(text)
    if not isinstance(found, dict) or found.pop(_OWN, None) != zlib.crc32(json.dumps(found, sort_keys=True).encode()):
        raise ValueError(f"{ABOUT} differs from its checksum")
    return found


def _sums(path: Path, every: int = 1) -> list[int]:
    """The checksum of each block of a file, or of some."""

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        view = memoryview(whole)
        blocks = [view[start : start + _BLOCK] for start in range(0, len(view), every * _BLOCK)]
        with ThreadPoolExecutor(len(cores())) as pool:
            sums = list(pool.map(zlib.crc32, blocks))
        for each in (*blocks, view):
            each.release()  # or the map could not be closed
        return sums


def _hash(*values: object) -> str:
    return hashlib.sha256(repr(values).encode(errors="surrogateescape")).hexdigest()[:16]


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error).partition("\n")[0] or type(error).__name__
