"""Published data sets through tensorflow-datasets, without TensorFlow: prepared once, then read back in a second.

A prepared copy lives in DATA_DIR/NAME/KEY, where the key is the checksum of the files it was made of, so that other
files of the same name never get its place. It is an ordinary tfds data set (`tfds.builder_from_directory` opens it)
with one more file, `source.json`. It is made in a folder beside and renamed when complete: what is there is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core.utils import py_utils, tqdm_utils
from tensorflow_datasets.proto import tf_example_pb2

from flaxvision.data import download, raw
from flaxvision.data.dataset import Dataset, Source, Split
from flaxvision.data.published import Published
from flaxvision.errors import UserError

VERSION = "1.0.0"  # of what the records hold; another one prepares everything again
_SOURCE = "source.json"
_CHUNK = 10_000  # records held as bytes at a time
_BOUNDARY = 64  # bytes, XLA's alignment


def load_published(published: Published, raw_folder: Path | None, data_dir: Path, limit: int | None) -> Dataset:
    """A published set, from the prepared copy or, the first time, from `raw_folder` or the web.

    Args:
      published: which set.
      raw_folder: the folder that holds its files; None downloads them.
      data_dir: where prepared copies and downloads live.
      limit: read only this many examples of every split.

    Raises:
      UserError: for a file that is missing, damaged or wrong, a failed download, or a `data_dir` that cannot be used.
    """
    paths = None
    if raw_folder is not None:
        paths = {name: raw.find(raw_folder, name) for name in published.file_names}
    home = data_dir / published.name / _key(published, paths)
    if not (home / _SOURCE).is_file():
        try:
            _prepare(published, paths, home, data_dir / "downloads")
        except OSError as error:
            raise UserError(
                f"cannot prepare {published.name} in {data_dir}: {error.strerror or error}. "
                "Set FLAXVISION_DATA_DIR or --data-dir to a folder that can be written"
            ) from error
    try:
        return _read(published, home, limit)
    except Exception as error:  # whatever tfds, array_record or protobuf raise for a damaged file
        reason = str(error).partition("\n")[0]
        raise UserError(f"the prepared copy {home} cannot be read ({reason}): delete it and load again") from error


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One builder for all published sets; it reads all files before the first record, so that errors come early."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = epath.Path(__file__).parent  # else tfds searches for the folder, and fails outside a package

    def __init__(self, published: Published, paths: Mapping[str, Path] | None, **kwargs: Any):
        self.name = published.name
        self.published, self.paths = published, paths
        self.source: dict[str, Any] = {}
        super().__init__(**kwargs)

    def _make_download_manager(self, download_dir: str, download_config: Any) -> tfds.download.DownloadManager:
        return download.manager(self.published, Path(download_dir))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # Raw bytes prepare three times as fast as PNG and decode by np.frombuffer; ArrayRecord compresses them.
            "image": tfds.features.Tensor(shape=self.published.shape, dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=list(self.published.classes)),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        if self.paths is None:
            contents = download.fetch(self.published, dl_manager)
        else:
            contents = {name: raw.read(path) for name, path in self.paths.items()}
        splits = {split: self.published.arrays(contents, split) for split in self.published.files}
        counts = {split: len(labels) for split, (_, labels) in splits.items()}
        self.source = _describe(self.published, contents, counts, downloaded=self.paths is None)
        return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}

    def _log_download_bytes(self) -> None:
        """Say nothing: tfds prints here."""

    def _log_download_done(self) -> None:
        """Say nothing: tfds prints here."""


def _key(published: Published, paths: Mapping[str, Path] | None) -> str:
    made_of = raw.fingerprint(paths.values()) if paths else ",".join(part.sha256 for part in published.downloads)
    return hashlib.sha256(f"{VERSION} {made_of}".encode()).hexdigest()[:16]


def _describe(
    published: Published, contents: Mapping[str, bytes], counts: Mapping[str, int], downloaded: bool
) -> dict[str, Any]:
    """The `Source` fields; the checksum is over decompressed files, the same for a download and a raw folder."""
    checksum = hashlib.sha256(b"".join(hashlib.sha256(contents[name]).digest() for name in published.file_names))
    known = {name: digest.split(":") for name, digest in published.digests.items()}
    official = downloaded or (
        bool(known) and all(hashlib.new(how, contents[name]).hexdigest() == hex_ for name, (how, hex_) in known.items())
    )
    if official:
        note = ""
    elif counts != dict(published.counts):
        given, expected = (" + ".join(f"{n:,}" for n in numbers.values()) for numbers in (counts, published.counts))
        note = f"not the official files: {given} images, officially {expected}"
    elif known:
        note = "not the official files: their checksums differ"
    else:
        note = "cannot be verified: no checksums of the official files are known"
    kind = "download" if downloaded else "raw folder"
    return {"kind": kind, "checksum": checksum.hexdigest(), "official": official, "note": note}


def _prepare(published: Published, paths: Mapping[str, Path] | None, home: Path, downloads: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".preparing-") as scratch, _quiet():
        builder = _Builder(published, paths, data_dir=scratch, file_format=_file_format())
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_dir=downloads if paths is None else scratch, download_config=config)
        made = Path(builder.data_dir)
        (made / _SOURCE).write_text(json.dumps(builder.source, indent=1) + "\n")
        try:
            os.rename(made, home)
        except OSError:
            if not (home / _SOURCE).is_file():  # else another process was first, and its copy is as good
                raise


def _file_format() -> str:
    """A format that tfds writes and reads without TensorFlow; array_record exists on Linux only."""
    return "array_record" if importlib.util.find_spec("array_record") else "parquet"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and Parquet files in one batch: tfds 4.9.10 drops most examples after the first."""
    with (
        py_utils.temporary_assignment(tqdm_utils, "_active", False),
        py_utils.temporary_assignment(file_adapters.ParquetFileAdapter, "_BATCH_SIZE", 10**9),
    ):
        yield


def _read(published: Published, home: Path, limit: int | None) -> Dataset:
    builder = tfds.builder_from_directory(home)
    splits = {split: _read_split(builder, split, limit) for split in ("train", "test")}
    counts = tuple((split, len(x)) for split, x in splits.items())
    source = Source(**json.loads((home / _SOURCE).read_text()), counts=counts)
    return Dataset(published.name, splits["train"], splits["test"], published.classes, source)


def _read_split(builder: tfds.core.DatasetBuilder, split: str, limit: int | None) -> Split:
    """The examples of a split; decoding the records here takes a fifth of the time of tfds's own decoder."""
    records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    total = len(records) if limit is None else min(limit, len(records))
    images = _empty((total, *builder.info.features["image"].shape), np.uint8)
    labels = _empty((total,), np.int32)
    flat = images.reshape(total, -1)
    for start in range(0, total, _CHUNK):
        rows = range(start, min(start + _CHUNK, total))
        for row, record in zip(rows, records.__getitems__(rows), strict=True):
            feature = tf_example_pb2.Example.FromString(record).features.feature
            flat[row] = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
            labels[row] = feature["label"].int64_list.value[0]
    return Split(images, labels)


def _empty(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array on a boundary of `_BOUNDARY` bytes, whose memory JAX uses on a CPU as it is."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _BOUNDARY, np.uint8)
    start = -memory.ctypes.data % _BOUNDARY
    return memory[start : start + size].view(dtype).reshape(shape)
