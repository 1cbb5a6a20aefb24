"""Files that are either whole or not there, after a loss of power too."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from flaxvision._text import SUBSTITUTE
from flaxvision.errors import UserError

WINNER = "winner/flaxvision.safetensors"  # the winner's weights in a run directory; the folder is what leaves the run


def write_atomically(
    path: str | Path, content: bytes | str | Iterable[bytes | memoryview] | Callable[[BinaryIO], object]
) -> Path:
    """Write `content` to `path`, replacing it only once everything is on disk.

    Text is written as UTF-8, pieces in their order; a function is given the file to write to.

    Raises:
        UserError: If the folder is missing or cannot be written.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode(errors=SUBSTITUTE)  # the name of a folder can hold bytes that are not UTF-8
    try:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())  # or the new name could be on disk before the content is
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give a path in a folder that you can write") from error
    return path


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def weights_in(path: str | Path) -> Path:
    """The weights file that a path stands for: of a run directory, or of the folder of its winner, the winner's.

    Raises:
        UserError: If a folder has none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = next((path / name for name in (WINNER, Path(WINNER).name) if (path / name).exists()), None)
    if found is None:
        raise UserError(f"{path} has no {WINNER}: give a run that has ended with a winner, or a weights file")
    return found


def is_zip(path: str | Path) -> bool:
    """Whether a file is a ZIP archive that can be read; `zipfile.is_zipfile` raises for one of several disks."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def is_unfinished(path: Path) -> bool:
    """Whether a file is what `write_atomically` leaves when its process is killed."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name) is not None


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder that a "~" at its beginning stands for.

    Raises:
        UserError: If there is no such user, or this one has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no home folder is known for its first part: write the path without ~") from error


def cache_folder() -> Path:
    """The library's folder in the user's cache folder; one that earlier versions made in ~/.cache is kept."""
    import platformdirs

    given = os.environ.get("XDG_CACHE_HOME")
    folder = expanded(given or "~/.cache") / "flaxvision"
    return folder if given or folder.is_dir() else platformdirs.user_cache_path("flaxvision", appauthor=False)
