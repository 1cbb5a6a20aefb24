"""Where the copy of a data set lies, and the room that is given to one in the making: files, or memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from flaxvision._limits import free_memory
from flaxvision._memory import empty
from flaxvision.errors import UserError

VERSION = 3  # of what a copy is; another one makes all copies anew
BEGUN = ".preparing-"  # how a folder in the making is called
MORE_ROOM = "set FLAXVISION_DATA_DIR or --data-dir to a folder with more room"
_TURN = 2**22  # bytes that are copied at a time
Piece = tuple[np.ndarray, np.ndarray | None]  # an array, and its rows; None: all of them


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where the copy of a data set lies, by what it is made of."""

    folder: Path  # of all copies of one source
    state: str  # of the source's files, see `files.state_of`: with another one they have changed
    options: str  # what it was loaded with

    @classmethod
    def of(cls, folder: Path, source: Path, state: str, *options: object) -> Place:
        """The place below `folder` of a source that lies at a path."""
        return cls(folder / _hash(source.absolute()), _hash(state), _hash(*options))

    def of_part(self, *options: object) -> Place:
        """That of what is made of this copy with more options."""
        return dataclasses.replace(self, options=_hash(self.options, *options))

    @property
    def home(self) -> Path:
        """The folder of the copy."""
        return self.folder / f"{self.state}-{VERSION}-{self.options}"


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
                self._folder = Path(tempfile.mkdtemp(dir=self.place.folder, prefix=BEGUN)) / "copy"
                self._folder.mkdir()
            except OSError as error:
                self.give_up(error)
        return self._folder

    def give_up(self, error: Exception) -> None:
        """Delete the folder, and give memory from now on; arrays in files stay as long as somebody holds them."""
        self.close()
        self.place, self.why = None, reason(error)

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
        """An array for the examples of "train", or for those "held_out"; what the part had before is void.

        Raises:
            UserError: If neither disk nor memory have room for it.
        """
        array = self.file(part, shape, dtype)
        if array is None:
            self.check_memory(math.prod(shape) * np.dtype(dtype).itemsize)
            return empty(shape, dtype)
        return array

    def file(self, part: str, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray | None:
        """The same in a file; None where none can be made."""
        self.parts.pop(part, None)
        folder = self.folder()
        if folder is None:
            return None
        path = folder / f"{part}.npy"
        try:
            path.unlink(missing_ok=True)
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            if hasattr(os, "posix_fallocate"):  # or a full disk would end the process at some later write
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            self.give_up(error)
            return None
        self.parts[part] = array
        return array.view(np.ndarray)

    def check_memory(self, size: int) -> None:
        """Raise `UserError` unless the memory has room for so many bytes, for which there is no file."""
        if size > (free := free_memory()):
            raise UserError(
                f"{size / 2**30:,.1f} GB of examples have no room on disk ({self.why or 'no folder is given'}), nor in "
                f"the {free / 2**30:,.1f} GB of memory that are free: {MORE_ROOM}"
            )

    def take(self, part: str, *pieces: Piece) -> list[np.ndarray]:
        """Copy the rows of arrays, one behind the other; gives those of each."""
        return filled(self(part, *like(pieces)), pieces)


def like(pieces: Sequence[Piece]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of an array of all rows."""
    first = pieces[0][0]
    return (sum(map(_count, pieces)), *first.shape[1:]), first.dtype


def _count(piece: Piece) -> int:
    array, rows = piece
    return len(array) if rows is None else len(rows)


def filled(whole: np.ndarray, pieces: Sequence[Piece]) -> list[np.ndarray]:
    """Copy rows, some at a time, into an array that has room for all; gives those of each piece."""
    found = np.split(whole, np.cumsum(list(map(_count, pieces)))[:-1])
    step = max(1, _TURN // max(1, whole[:1].nbytes))
    for (array, rows), out in zip(pieces, found, strict=True):
        for start in range(0, len(out), step):
            end = start + step
            out[start:end] = array[start:end] if rows is None else array[rows[start:end]]
    return found


def _hash(*values: object) -> str:
    return hashlib.sha256(repr(values).encode(errors="surrogateescape")).hexdigest()[:16]


def reason(error: Exception) -> str:
    """An error in a few words."""
    return (isinstance(error, OSError) and error.strerror) or str(error).partition("\n")[0] or type(error).__name__
