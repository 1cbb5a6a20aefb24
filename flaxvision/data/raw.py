"""Files as they were published: read them, compressed or not, and tell one set of files from another."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path

from flaxvision.errors import UserError

SUFFIXES = ("", ".gz", ".xz", ".bz2")
_DECOMPRESS = {b"\x1f\x8b": gzip.decompress, b"\xfd7zXZ\x00": lzma.decompress, b"BZh": bz2.decompress}
_NO_DATA = {
    (b"<!doctype", b"<html", b"<?xml"): "a web page: its download failed, so get the file again",
    (b"version https://git-lfs",): "a pointer of Git LFS: get the file with `git lfs pull`",
}


def read(path: Path) -> bytes:
    """What the file holds, decompressed; `UserError` for a file that is damaged or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return decompress(content, str(path))


def decompress(content: bytes, where: str) -> bytes:
    """`content` decompressed if it is compressed; `where` names it in an error.

    Its first bytes tell, not its name: browsers decompress .gz files and leave their name.
    """
    for starts, words in _NO_DATA.items():
        if content[:64].lstrip().lower().startswith(starts):
            raise UserError(f"{where} is {words}")
    for start, function in _DECOMPRESS.items():
        if content.startswith(start):
            try:
                return function(content)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"{where} is damaged: it cannot be decompressed ({error})") from error
    return content


def sha256(path: Path) -> str:
    """sha256 of the bytes of a file as it lies there; `UserError` for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over the names and the bytes of the files as they lie there, cheap enough to take at every load."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {sha256(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
