"""Copies of data sets that processes map into their memory, where they would read, convert and hold them.

A copy is a folder of plain NumPy files: `train.npy`; `held_out.npy`, which has the other splits one behind the other,
as training evaluates them; `labels.npy`; `files.npy`; and `about.json`, which has all else, with checksums. Its pages
are in memory once for all processes, and the kernel drops them when it needs their memory. JAX on a CPU computes on
them as they are. A copy is made in a folder beside and renamed when complete: what is there is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._locks import share, try_lock, unshared
from flaxvision.data.dataset import Dataset, Split
from flaxvision.data.space import BEGUN, MORE_ROOM, VERSION, Place, Space, filled, like, reason
from flaxvision.data.stored import about, rebuilt
from flaxvision.errors import UserError
from flaxvision.runtime import cores

SMALL = 2**24  # bytes of examples that are read about as fast as mapped
ABOUT = "about.json"
_OWN = "checksum"  # of all else in it
_BLOCK = 2**22  # bytes under one checksum
_CHECKED = 2**30  # bytes of a file that are compared with their checksums at each start, spread over it
_ABANDONED = 86_400.0  # seconds after which nobody is making a copy any more
_STALE = 86_400.0  # likewise, of files that have changed: hosts whose data lie at one path take each other's for that
_UNUSED = 90 * 86_400.0  # seconds after which a copy that nobody has used is deleted


def mapped(place: Place, make: Callable[[Space], Dataset], *, least: int = SMALL) -> Dataset:
    """The data set that `make` gives, mapped from its copy; where there is none, one is made.

    Its `loading_notes` say so if the copy was damaged, if files have changed since, or if none can be kept.

    Args:
        place: Where the copy lies.
        make: What reads the data set; it may put the examples into the space that it is given.
        least: Bytes of examples below which no copy is kept.
    """
    dataset, damaged, notes = _found(place)
    if dataset is not None:
        return dataset
    with contextlib.nullcontext() if least else _one_at_a_time(place):
        if _number(place.home) not in (None, damaged):  # others have made it meanwhile
            dataset, damaged, more = _found(place)
            if dataset is not None:
                return told(dataset, notes)
            notes = more
        return _made(place, make, least, damaged, notes)


def _found(place: Place) -> tuple[Dataset | None, int | None, list[str]]:
    """The data set of the copy that is there, or the number of one that is damaged; and what is to be said."""
    there = _number(place.home)
    if there is None:  # or one may not look
        changed = "files have changed since they were prepared, and were prepared anew"
        return None, None, [changed] if _stale(place) else []
    try:
        return _read(place.home), None, []
    except MemoryError:
        raise
    except Exception as error:  # whatever json, zlib or NumPy raise for a damaged file
        return None, there, [f"the prepared copy was damaged ({reason(error)}) and made anew"]


@contextlib.contextmanager
def _one_at_a_time(place: Place) -> Iterator[None]:
    """Wait until no other process makes the same copy, where the file system has locks."""
    lock = place.folder.parent / f"{BEGUN}{place.folder.name}-{place.home.name}.lock"
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # of a folder that cannot be written, where each process reads for itself
            lock.parent.mkdir(parents=True, exist_ok=True)
            if try_lock(held, lock, math.inf):
                held.callback(lock.unlink, missing_ok=True)
        yield


def _made(
    place: Place, make: Callable[[Space], Dataset], least: int, damaged: int | None, notes: Sequence[str]
) -> Dataset:
    """The data set that `make` gives, mapped from its copy if one can be kept."""
    space = Space(place)
    try:
        dataset = make(space)
        if sum(split.images.nbytes for split in dataset.splits.values()) < least:
            return dataset
        try:
            if _written(dataset, space, damaged):
                return told(_read(place.home), notes)
        except (OSError, ValueError) as error:  # of a damaged copy, too, that is somebody else's and stays
            space.give_up(error)
        return told(dataset, [f"no prepared copy could be kept in {place.folder.parent}: {space.why}"])
    finally:
        space.close()


def told(dataset: Dataset, notes: Sequence[str]) -> Dataset:
    """The same with what is to be said of this start."""
    return dataclasses.replace(dataset, loading_notes=tuple(dict.fromkeys((*notes, *dataset.loading_notes))))


def held_out(dataset: Dataset, place: Place, fraction: float, seed: int, *, least: int = SMALL) -> Dataset:
    """`Dataset.hold_out` of a mapped data set, as a mapped copy of its own.

    Args:
        dataset: The data set.
        place: Where its own copy lies, with all options that its examples depend on.
        fraction: As of `Dataset.hold_out`.
        seed: As of `Dataset.hold_out`.
        least: As of `mapped`.

    Raises:
        UserError: If there is no room for the copy.
    """

    def make(space: Space) -> Dataset:
        kept, held = dataset.draw(fraction, seed)
        size, room = dataset.train.images.nbytes + dataset.test.images.nbytes, space.room()
        if size > room:
            raise UserError(
                f"{dataset.name}: a copy with validation={fraction} held out takes {size / 2**30:,.1f} GB of the "
                f"{room / 2**30:,.1f} that there are in memory and on disk: leave validation out, or {MORE_ROOM}"
            )
        (train,) = space.take("train", (dataset.train.images, kept))
        validation, test = space.take("held_out", (dataset.train.images, held), (dataset.test.images, None))
        return dataset.with_splits(
            train=dataset.train.relabelled(train, kept),
            validation=dataset.train.relabelled(validation, held),
            test=dataclasses.replace(dataset.test, images=test),
        )

    return told(mapped(place.of_part("held out", fraction, seed), make, least=least), dataset.loading_notes)


def _written(dataset: Dataset, space: Space, damaged: int | None) -> bool:
    """Complete the copy of a data set whose examples are in a space or elsewhere; whether that could be done."""
    others = [split for name, split in dataset.splits.items() if name != "train"]
    for part, splits in (("train", [dataset.train]), ("held_out", others)):
        if part not in space.parts:
            pieces = [(split.images, None) for split in splits]
            whole = space.file(part, *like(pieces))
            if whole is None:  # what is in memory or mapped already is used from there
                return False
            filled(whole, pieces)
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
    _publish(folder, place, damaged)
    return True


def _publish(made: Path, place: Place, damaged: int | None) -> None:
    """Give a complete copy its name, and delete what no one needs any more.

    What has that name already is replaced if it is the folder that was found to be damaged, by its `_number`; else
    another process was first, and its copy is as good.
    """
    if damaged is not None and _number(place.home) == damaged:
        with contextlib.suppress(OSError):
            os.rename(place.home, made.parent / "damaged")
    try:
        os.rename(made, place.home)
    except OSError:
        if not (place.home / ABOUT).is_file():
            raise
    unused = (path.parent for path in place.folder.parent.glob(f"*/*/{ABOUT}") if _age(path) > _UNUSED)
    abandoned = (path for path in place.folder.glob(f"{BEGUN}*") if _age(path) > _ABANDONED)
    stale = (folder for folder in _stale(place) if _age(folder / ABOUT) > _STALE)
    for folder in [*stale, *unused, *abandoned]:
        # A network's file system takes from other hosts what they have mapped, and their processes end by a signal.
        if unshared(folder / ABOUT):
            shutil.rmtree(folder, ignore_errors=True)


def _number(folder: Path) -> int | None:
    """The number that a file system knows a folder by."""
    with contextlib.suppress(OSError):
        return folder.stat().st_ino
    return None


def _stale(place: Place) -> list[Path]:
    """The copies of what a source was before its files changed."""
    with contextlib.suppress(OSError):  # of a folder that is not there yet, or somebody else's
        found = [path.parent for path in place.folder.glob(f"*/{ABOUT}")]
        others = [folder for folder in found if not folder.name.startswith(f"{place.state}-")]
        return [folder for folder in others if f"-{VERSION}-" in folder.name]
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
    share(home / ABOUT)
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


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
