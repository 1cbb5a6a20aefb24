"""The state of files: whether they are still those that were read, without reading them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def state_of(paths: Iterable[Path]) -> str:
    """What is equal as long as nobody writes to files, or to those in folders.

    Their names, sizes and times, the time of change (`st_ctime`) among them, which copying tools do not set back; the
    names of folders, empty ones and links too. No inodes, which FAT and FUSE number anew at each mount. Links are
    followed; what is hidden does not count, as no reader of data looks at it.
    """
    digest = hashlib.sha256()
    for path in paths:
        rows = sorted(_rows(os.fsencode(path.absolute())))
        digest.update(b"%d\n" % len(rows))
        digest.update(b"".join(rows))
    return digest.hexdigest()


def _rows(path: bytes) -> Iterator[bytes]:
    """A line for a file, or for each folder and file below a folder; links are followed, but into no folder twice."""
    folders, seen = [path], set[tuple[int, int]]()
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(folder)
            entries = os.scandir(folder)
        except NotADirectoryError:
            yield _row(folder, status)
            continue
        except OSError:
            yield folder
            continue
        yield b"%s\0\n" % folder
        with entries:
            if (status.st_dev, status.st_ino) in seen:  # a link to a folder around it, perhaps
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                try:
                    if entry.is_dir():
                        folders.append(entry.path)
                    else:
                        yield _row(entry.path, entry.stat())
                except OSError:  # of a link that leads nowhere, to itself, or where one may not look, the name counts
                    yield entry.path


def _row(path: bytes, status: os.stat_result) -> bytes:
    numbers = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return b"%s\0%d %d %d\n" % (path, *numbers)
