"""Who fills a run directory: one process all of it, or several a part each."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from flaxvision._files import write_atomically
from flaxvision._interrupts import stop_if_asked
from flaxvision._locks import try_lock
from flaxvision._text import visible
from flaxvision.errors import UserError
from flaxvision.sweep.parts import Part, files_of_parts, of_part

LOCK, HOLDER = ".lock", ".holder"
UNKNOWN = "another process"  # where its holder is not told
TURN = 0.5  # seconds after which one that waits for others to open the directory looks who it is


@contextlib.contextmanager
def locked(directory: Path, part: Part | None = None) -> Iterator[str]:
    """Make a run directory and keep other processes from filling it, or this part; it ends with the process.

    Yields what is to be said where that cannot be done, else "". `UserError` if another process fills the same, or a
    part of it, which it names, or if the directory cannot be written.
    """
    holder = directory / of_part(HOLDER, part)  # of its own: some versions of filelock empty their files when they try
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        there = _hold(held, directory, part)
        if part is None:
            for other in files_of_parts(directory, LOCK).values():
                with contextlib.ExitStack() as briefly:
                    _hold(briefly, directory, other)
        write_atomically(holder, f"process {os.getpid()} on {platform.node() or 'this machine'}\n")
        alone = "its file system has no locks: see to it that no other process fills this folder"
        try:
            yield "" if there else alone
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                holder.unlink()


@contextlib.contextmanager
def opening(directory: Path, part: Part | None) -> Iterator[None]:
    """Within it no other part opens the run directory; who fills all of it has that to itself anyway.

    `UserError` if another process fills all of it.
    """
    with contextlib.ExitStack() as held:
        while part is not None:
            stop_if_asked()
            with writable(directory):
                free = try_lock(held, directory / LOCK, TURN) is not False
            if free:
                (directory / HOLDER).unlink(missing_ok=True)  # of one that was killed
                break
            if (directory / HOLDER).exists():
                raise _filling(directory, None)
        yield


def filled_by(directory: Path, part: Part | None = None) -> str:
    """The process that fills a run directory, or a part of it, or did so when it was killed, in words."""
    with contextlib.suppress(OSError):  # it may just be ending
        text = (directory / of_part(HOLDER, part)).read_text(encoding="utf-8", errors="replace")
        return visible(text.strip()) or UNKNOWN
    return UNKNOWN


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Say in one line that a run directory cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {directory}: {error.strerror}; give a folder that you can write: --out DIR"
        ) from error


def _hold(held: contextlib.ExitStack, directory: Path, part: Part | None) -> bool:
    """Hold the lock of a run directory or a part, unless its file system has none."""
    with writable(directory):
        found = try_lock(held, directory / of_part(LOCK, part))
    if found is False:
        raise _filling(directory, part)
    return found is True


def _filling(directory: Path, part: Part | None) -> UserError:
    what = str(directory) if part is None else f"part {part} of {directory}"
    return UserError(
        f"{filled_by(directory, part)} is filling {what}: wait until it has ended, or give another --out DIR"
    )
