"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from flaxvision.errors import UserError


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write `content` (text as UTF-8) to `path`, replacing it only once everything is on disk.

    Raises:
        UserError: If the folder is missing or cannot be written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give a path in a folder that you can write") from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """The library's folder in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")).expanduser() / "flaxvision"
