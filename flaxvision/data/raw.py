"""Files as they were published: find them (plain, .gz or .xz), read them, and tell one set of files from another."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path

from flaxvision.errors import UserError

SUFFIXES = ("", ".gz", ".xz")
_DECOMPRESS = {".gz": gzip.decompress, ".xz": lzma.decompress}


def find(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, plain or compressed; `UserError` names every file that was looked for."""
    for suffix in SUFFIXES:
        path = folder / (name + suffix)
        if path.is_file():
            return path
    looked_for = ", ".join(name + suffix for suffix in SUFFIXES)
    raise UserError(
        f"{folder} has none of {looked_for}: put it there, or set FLAXVISION_RAW_DIR or --raw-dir to another folder"
    )


def read(path: Path) -> bytes:
    """What the file holds, decompressed by its suffix; `UserError` for a file that is damaged or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return decompress(content, path.suffix, str(path))


def decompress(content: bytes, suffix: str, where: str) -> bytes:
    """`content` decompressed when `suffix` is .gz or .xz, as it is otherwise; `where` names it in an error."""
    try:
        return _DECOMPRESS.get(suffix, bytes)(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{where} is damaged: it cannot be decompressed ({error})") from error


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over the names and the bytes of the files as they lie there, cheap enough to take at every load."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()
