"""The official files from the web, through the tfds download manager, which checks their sha256."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import requests
from tensorflow_datasets.core.download import checksums, download_manager, resource
from tensorflow_datasets.core.utils import Size

from flaxvision.data import raw
from flaxvision.data.published import Download, Published
from flaxvision.errors import UserError

TIMEOUT = 10  # seconds for the first answer


def manager(published: Published, folder: Path) -> download_manager.DownloadManager:
    """A download manager that knows the official sizes and sha256 and keeps all files in one `folder`.

    tfds's own would keep a copy of the EMNIST archive for each of its parts.
    """
    infos = {
        part.url: checksums.UrlInfo(size=Size(part.size), checksum=part.sha256, filename=part.url.rpartition("/")[2])
        for part in published.downloads
    }
    return download_manager.DownloadManager(
        download_dir=folder, url_infos=infos, force_checksums_validation=True, dataset_name=None
    )


def fetch(published: Published, dl_manager: download_manager.DownloadManager) -> dict[str, bytes]:
    """The set's files by name, decompressed; `UserError` says what to do where there is no network."""
    contents: dict[str, bytes] = {}
    for part in published.downloads:
        contents.update(_unpack(part, _download(published, part, dl_manager), published.most_bytes))
    return contents


def _download(published: Published, part: Download, dl_manager: download_manager.DownloadManager) -> Path:
    try:
        # tfds asks a dead address for minutes, without a time limit: ask once before, unless the file is here.
        if not (dl_manager.download_dir / resource.get_dl_fname(part.url, part.sha256)).exists():
            requests.head(part.url, timeout=TIMEOUT, allow_redirects=True)
        return Path(dl_manager.download(part.url))
    except download_manager.NonMatchingChecksumError as error:
        raise UserError(
            f"the download {part.url} does not have the sha256 {part.sha256}: it changed or was cut short. Try again, "
            f"or {_advice(published)}"
        ) from error
    except Exception as error:  # requests, urllib3, tfds and the file system have their own
        reason = type(error).__name__
        raise UserError(
            f"the download of {published.name} failed ({reason} for {part.url}): {_advice(published)}"
        ) from error


def _advice(published: Published) -> str:
    files = ", ".join(published.file_names)
    return (
        f"set FLAXVISION_RAW_DIR or --raw-dir to a folder that holds {published.name}/ with {files} "
        "(plain, .gz or .xz), or take the data set glyphs, which needs no files"
    )


def _unpack(part: Download, path: Path, most: int) -> dict[str, bytes]:
    suffix = PurePosixPath(part.url).suffix
    try:
        if part.files[0][1] == "":
            return {part.files[0][0]: raw.decompress(path.read_bytes(), part.url, most)}
        if suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return {
                    name: raw.decompress(archive.read(inside), f"{part.url}: {inside}", most)
                    for name, inside in part.files
                }
        wanted = {inside: name for name, inside in part.files}
        contents = {}
        with tarfile.open(path) as archive:  # read in its own order: going back would decompress it again
            for member in archive:
                file = archive.extractfile(member) if member.name in wanted else None
                if file is not None:
                    contents[wanted[member.name]] = file.read()
        return contents
    except Exception as error:  # those of zipfile, tarfile and the compressions; it was checked when it came
        path.unlink(missing_ok=True)  # else it would be taken again
        raise UserError(f"the download {part.url} was damaged on disk ({error}) and is deleted: load again") from error
