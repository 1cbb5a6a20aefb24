"""Whether the files of a data set are still those that were read, without reading them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from flaxvision.data import _load
from flaxvision.data.published import PUBLISHED


def stamp(name: str, *, raw_dir: str | os.PathLike[str] | None = None) -> str:
    """What is equal as long as nobody writes to the files of a data set; "" for sets that are generated.

    Names, sizes and times of all files in the set's folder, the time of change (`st_ctime`) among them, which copying
    tools do not set back.

    Args:
      name: as `load` takes it.
      raw_dir: as `load` takes it.
    """
    path = name.partition(":")[2]
    folder = Path(path).expanduser() if path else None
    if name in PUBLISHED:
        folder = _load._raw_folder(name, raw_dir)
    if folder is None:
        return ""
    digest = hashlib.sha256(os.fsencode(folder.absolute()))
    for entry in sorted(_entries(folder)):
        digest.update(repr(entry).encode())
    return digest.hexdigest()


def _entries(folder: Path) -> Iterator[tuple]:
    for where, _, files in os.walk(os.fsencode(folder)):
        for file in files:
            path = os.path.join(where, file)
            try:
                stat = os.stat(path)
            except OSError:
                yield (path,)
            else:
                yield path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
