"""Files as they were published: read them, compressed or not, and tell one set of files from another."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from flaxvision.errors import UserError

SUFFIXES = ("", ".gz", ".xz", ".bz2")
_OPEN: dict[bytes, Callable[[io.BytesIO], gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
UNPACKED = "FLAXVISION_UNPACKED_GB"  # the environment variable that raises the limit of what a file may unpack to
PACKED = 64  # bytes that one byte of a compressed file may unpack to,
SMALL = 2**28  # unless these are no more than so many
_NO_DATA = {
    (b"<!doctype", b"<html", b"<?xml"): "a web page: its download failed, so get the file again",
    (b"version https://git-lfs",): "a pointer of Git LFS: get the file with `git lfs pull`",
}


def read(path: Path, most: int = SMALL) -> bytes:
    """What the file holds, decompressed to `most` bytes; `UserError` for one that is damaged or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return decompress(content, str(path), most)


def allowed(most: int) -> int:
    """So many bytes a file may unpack to: `most`, or more where the user allows it."""
    given = os.environ.get(UNPACKED, "0")
    try:
        return max(most, int(float(given) * 2**30))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{UNPACKED} is {given!r}: give a number of gigabytes, such as 8") from error


def check_unpacked(size: int, most: int, where: str) -> None:
    """Raise `UserError` for a file that unpacks to `size` bytes, if that is more than is `allowed`."""
    if size > allowed(most):
        raise UserError(
            f"{where} unpacks to more than {allowed(most) / 2**20:,.0f} MB, as a damaged or hostile file does: if "
            f"yours is sound, set the environment variable {UNPACKED} to the gigabytes that it may have, such as 8"
        )


def check_members(archive: zipfile.ZipFile | None, packed: int, where: str) -> None:
    """Raise `UserError` for a zip archive of so many bytes that would unpack to far more."""
    members = [] if archive is None else archive.infolist()
    check_unpacked(sum(member.file_size for member in members), max(PACKED * packed, SMALL), where)


def decompress(content: bytes, where: str, most: int = SMALL) -> bytes:
    """`content` decompressed if it is compressed, to no more than `most` bytes; `where` names it in an error.

    Its first bytes tell, not its name: browsers decompress .gz files and leave their name.
    """
    for starts, words in _NO_DATA.items():
        if content[:64].lstrip().lower().startswith(starts):
            raise UserError(f"{where} is {words}")
    for start, opened in _OPEN.items():
        if content.startswith(start):
            try:
                with opened(io.BytesIO(content)) as file:
                    unpacked = file.read(allowed(most) + 1)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"{where} is damaged: it cannot be decompressed ({error})") from error
            check_unpacked(len(unpacked), most, where)
            return unpacked
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
