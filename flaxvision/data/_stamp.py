"""Whether the files of a data set are still those that were read, without reading them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from flaxvision.data import _load, tfds_sets
from flaxvision.data.published import PUBLISHED


def stamp(
    name: str,
    *,
    raw_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> str:
    """What is equal as long as nobody writes to the files of a data set; "" for sets that are generated.

    Names, sizes and times of all files in the set's folder, the time of change (`st_ctime`) among them, which copying
    tools do not set back.

    Args:
      name: as `load` takes it.
      raw_dir: as `load` takes it.
      data_dir: as `load` takes it; where `tfds:NAME` lies.
    """
    path = name.partition(":")[2]
    if name.startswith("tfds:"):
        files = _walk(tfds_sets.folder_of(name, Path(data_dir) if data_dir else None).absolute())
    elif path:
        files = _walk(Path(path).expanduser().absolute())
    else:
        located = _load.located(PUBLISHED[name], raw_dir) if name in PUBLISHED else None
        if located is None:
            return ""
        files = (os.fsencode(file.absolute()) for file in located.paths)
    digest = hashlib.sha256(os.fsencode(path))
    for file in sorted(files):
        digest.update(repr(_entry(file)).encode())
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[bytes]:
    """The files below a folder and below those that links in it lead to, once each."""
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(os.fsencode(folder), followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder around it, perhaps
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (os.path.join(where, file) for file in files)


def _entry(path: bytes) -> tuple:
    try:
        stat = os.stat(path)
    except OSError:
        return (path,)
    return path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
