"""Where the files of a published set lie in a person's folder: under which names, how deep, packed in what."""

from __future__ import annotations

import dataclasses
import functools
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from flaxvision._files import is_zip
from flaxvision.data import raw
from flaxvision.errors import UserError

if TYPE_CHECKING:
    from flaxvision.data.published import Published

_ARCHIVE = re.compile(r"(.+?)\.(zip|tar|tgz|tar\.gz|tar\.xz|tar\.bz2)", re.IGNORECASE)
_THROUGH = {"raw", "gzip", "data", "dataset", "datasets", "archive", "files", "original"}  # names that say nothing
_DEPTH = 3
_LISTED = 6  # files of a folder that an error names


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """A form in which people have a set: its files, and how they become the published ones."""

    names: tuple[str, ...]
    convert: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = dict


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """Files that hold a set: those of one format, or an archive."""

    published: Published
    paths: tuple[Path, ...]
    format: Format | None  # None: what is in the archive decides

    @property
    def sha256(self) -> str | None:
        """Of the archive; None where there is none."""
        return raw.sha256(self.paths[0]) if self.format is None else None

    def contents(self) -> Mapping[str, bytes]:
        """The published files by name, decompressed."""
        if self.format is None:
            return _unpack(self.published, self.paths[0])
        contents = {
            name: raw.read(path, self.published.most_bytes)
            for name, path in zip(self.format.names, self.paths, strict=True)
        }
        return self.format.convert(contents)


def locate(published: Published, root: Path, instead: str) -> Located:
    """The files of a set in `root`: in its own folder there, which many names may have, or loose, or packed.

    Names count without case, dots, hyphens and compression: train-images.idx3-ubyte is train-images-idx3-ubyte.gz. The
    first folder with any of the files decides: those of the set's own name, `root` itself, those below data/ or raw/.

    Args:
      published: which set.
      root: the folder, or one file, that was given.
      instead: what to do without it, for errors.

    Raises:
      UserError: where it is not there or not whole; names what was looked for and what lies there.
      OSError: where a folder may not be looked into.
    """
    for folder in _folders(published, root):
        found = _files_in(folder)
        for form in published.formats:
            here = [name for name in form.names if _plain(name) in found]
            if len(here) == len(form.names):
                return Located(published, tuple(found[_plain(name)] for name in form.names), form)
            if here:
                missing = [name for name in form.names if name not in here]
                raise UserError(
                    f"{folder} has {len(here)} of the {len(form.names)} files of {published.name} but no "
                    f"{', '.join(missing)} (plain, .gz, .xz or .bz2): put it there, or {instead}"
                )
        if archive := _archive_in(published, folder):
            return Located(published, (archive,), None)
    names = [path.name for path in _visible(root)]
    holds = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")
    raise UserError(
        f"{root} does not hold {published.name}: looked for {', '.join(published.file_names)} (plain, .gz, .xz, .bz2 "
        f"or in an archive) there and in {published.name}/; it holds {holds or 'nothing'}. Put them there, or {instead}"
    )


def _folders(published: Published, root: Path) -> Iterator[Path]:
    """Where to look, in this order."""
    if not root.is_dir():
        yield root
        return
    own = [folder for folder in _subfolders(published, root) if _is_of(published, folder.name)]
    for folder in own:
        yield from _with_inner(published, folder, _DEPTH)
    if _is_of_another(published, root.resolve().name):
        return
    yield root
    for folder in _subfolders(published, root):
        if folder not in own:
            yield from _with_inner(published, folder, _DEPTH)


def _with_inner(published: Published, folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth > 1:
        for inner in _subfolders(published, folder):
            yield from _with_inner(published, inner, depth - 1)


def _subfolders(published: Published, folder: Path) -> list[Path]:
    """Those that may hold the set, the likeliest first."""
    found = [path for path in _visible(folder) if _is_of(published, path.name) or _key(path.name) in _THROUGH]
    found.sort(key=lambda path: (path.name != published.name, not _is_of(published, path.name), path.name))
    return [path for path in found if path.is_dir()]


def _is_of(published: Published, name: str) -> bool:
    return re.fullmatch(published.folder, _key(name)) is not None


def _is_of_another(published: Published, name: str) -> bool:
    from flaxvision.data.published import PUBLISHED

    return not _is_of(published, name) and any(_is_of(other, name) for other in PUBLISHED.values())


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, but what systems hide there; a file is alone."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    return [path for path in paths if not path.name.startswith((".", "__MACOSX"))]


def _archive_in(published: Published, folder: Path) -> Path | None:
    """An archive of the set's own name, else one whose name says nothing."""
    found = [(path, match[1]) for path in _visible(folder) if (match := _ARCHIVE.fullmatch(path.name))]
    own = [path for path, stem in found if _is_of(published, stem)]
    other = [path for path, stem in found if _key(stem) in _THROUGH]
    return next((path for path in [*own, *other] if path.is_file()), None)


def _files_in(folder: Path) -> dict[str, Path]:
    """The files by their plain names, one that is not compressed before one that is."""
    found: dict[str, Path] = {}
    for path in sorted(_visible(folder), key=lambda path: (path.suffix.lower() in raw.SUFFIXES[1:], path.name)):
        key = _plain(path.name)
        if path.is_dir():  # Kaggle has each file in a folder of its name
            path = next((inner for inner in _visible(path) if _plain(inner.name) == key), path)
        if path.is_file():
            found.setdefault(key, path)
    return found


def _plain(name: str) -> str:
    """A file's name as far as it tells what is in it."""
    for suffix in raw.SUFFIXES[1:]:
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return _key(name)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _unpack(published: Published, path: Path) -> Mapping[str, bytes]:
    """The published files by name, out of an archive in any of the set's formats."""
    wanted = {_plain(name) for form in published.formats for name in form.names}
    try:
        found = {}
        for name, size, read in _members(path, wanted):
            raw.check_unpacked(size, published.most_bytes * len(wanted), str(path))
            if read is not None:
                found[_plain(PurePosixPath(name).name)] = (name, read())
    except UserError:
        raise
    except Exception as error:  # those of zipfile, tarfile and the compressions
        raise UserError(f"{path} cannot be unpacked ({error}): it is damaged or no such archive") from error
    for form in published.formats:
        if all(_plain(name) in found for name in form.names):
            members = {name: found[_plain(name)] for name in form.names}
            return form.convert(
                {
                    name: raw.decompress(content, f"{path}: {member}", published.most_bytes)
                    for name, (member, content) in members.items()
                }
            )
    has = ", ".join(member for member, _ in found.values()) or "none of them"
    raise UserError(f"{path} does not hold {published.name}: of {', '.join(published.file_names)} it has {has}")


def _members(path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, int, Callable[[], bytes] | None]]:
    """What is in an archive: names, bytes that it takes to come to their ends, and what reads those that are wanted."""

    def is_wanted(name: str) -> bool:
        last = PurePosixPath(name).name
        return not last.startswith(".") and _plain(last) in wanted

    if is_zip(path):
        with zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                if is_wanted(info.filename) and not info.is_dir():
                    yield info.filename, info.file_size, functools.partial(packed.read, info)
        return
    with tarfile.open(path) as archive:  # read in its own order: going back would decompress it again
        for member in archive:
            end, file = member.offset_data + member.size, None
            if member.isfile() and is_wanted(member.name):
                file = archive.extractfile(member)
            yield member.name, end, None if file is None else file.read
