"""Published data sets through tensorflow-datasets, without TensorFlow: prepared once, then read back in a second.

A prepared copy lives in DATA_DIR/NAME/KEY, where the key is the checksum of the files it was made of, so that other
files of the same name never get its place. It is an ordinary tfds data set (`tfds.builder_from_directory` opens it)
with one more file, `source.json`. It is made in a folder beside and renamed when complete: what is there is whole.
Processes map what lies beside it in KEY-mapped, see `mapped.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
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

from flaxvision._memory import empty
from flaxvision.data import download, raw
from flaxvision.data.dataset import Dataset, Source, Split
from flaxvision.data.locate import Located
from flaxvision.data.mapped import mapped, told
from flaxvision.data.published import PUBLISHED, Published
from flaxvision.data.space import Place, Space
from flaxvision.errors import UserError

VERSION = "1.0.0"  # of what the records hold; another one prepares everything again
_SOURCE = "source.json"
_CHUNK = 10_000  # records held as bytes at a time


def load_published(published: Published, located: Located | None, data_dir: Path, limit: int | None) -> Dataset:
    """A published set, from the prepared copy or, the first time, from its files or the web.

    A prepared copy that is damaged is made anew, and its `loading_notes` say so.

    Args:
      published: which set.
      located: its files; None downloads them.
      data_dir: where prepared copies and downloads live.
      limit: give only this many examples of every split.

    Raises:
      UserError: for a file that is damaged or wrong, a failed download, or a `data_dir` that cannot be used.
    """
    home = data_dir / published.name / _key(published, located)
    notes: list[str] = []  # which are of this start alone

    def read(space: Space) -> Dataset:
        dataset, damage = _prepared(published, located, home, data_dir)
        if damage:
            notes.append(f"the prepared copy of {published.name} was damaged ({damage}) and made anew")
        return dataset

    place = Place(home.with_name(f"{home.name}-mapped"), "all", VERSION)
    return told(mapped(place, read), notes).limit(limit)


def _prepared(published: Published, located: Located | None, home: Path, data_dir: Path) -> tuple[Dataset, str]:
    """The set of a tfds copy, which is made if it is not there, and in what way one that was there is damaged."""
    damage = ""
    if home.exists():
        try:
            return _read(published, home), ""
        except MemoryError:
            raise
        except Exception as error:  # whatever tfds, array_record or protobuf raise for a damaged file
            damage = str(error).partition("\n")[0] or type(error).__name__
    try:
        _prepare(published, located, home, data_dir / "downloads", replace=bool(damage))
        return _read(published, home), damage
    except OSError as error:
        raise UserError(
            f"cannot prepare {published.name} in {data_dir}: {error.strerror or error}. "
            "Set FLAXVISION_DATA_DIR or --data-dir to a folder that can be written"
        ) from error


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One builder for all published sets; it reads all files before the first record, so that errors come early."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = epath.Path(__file__).parent  # else tfds searches for the folder, and fails outside a package

    def __init__(self, published: Published, located: Located | None, **kwargs: Any):
        self.name = published.name
        self.published, self.located = published, located
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
        if self.located is None:
            contents: Mapping[str, bytes] = download.fetch(self.published, dl_manager)
        else:
            contents = self.located.contents()
            _check_whose(self.published, contents, self.located.paths[0].parent)
        splits = {split: self.published.arrays(contents, split) for split in self.published.files}
        counts = {split: len(labels) for split, (_, labels) in splits.items()}
        self.source = _describe(self.published, contents, counts, self.located)
        return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield index, {"image": image, "label": label}

    def _log_download_bytes(self) -> None:
        """Say nothing: tfds prints here."""

    def _log_download_done(self) -> None:
        """Say nothing: tfds prints here."""


def _key(published: Published, located: Located | None) -> str:
    made_of = raw.fingerprint(located.paths) if located else ",".join(part.sha256 for part in published.downloads)
    return hashlib.sha256(f"{VERSION} {made_of}".encode()).hexdigest()[:16]


def _describe(
    published: Published, contents: Mapping[str, bytes], counts: Mapping[str, int], located: Located | None
) -> dict[str, Any]:
    """The `Source` fields; the checksum is over decompressed files, the same for a download and a raw folder."""
    checksum = hashlib.sha256(b"".join(hashlib.sha256(contents[name]).digest() for name in published.file_names))
    known = {name: digest.split(":") for name, digest in published.digests.items()}
    official = (
        located is None
        or located.sha256 in [part.sha256 for part in published.downloads]
        or (bool(known) and all(_digest(how, contents[name]) == hex_ for name, (how, hex_) in known.items()))
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
    kind = "download" if located is None else "raw folder"
    return {"kind": kind, "checksum": checksum.hexdigest(), "official": official, "note": note}


def _check_whose(published: Published, contents: Mapping[str, bytes], folder: Path) -> None:
    """Raise `UserError` for a file that is the official one of another set, or another one of this set."""
    for name, content in contents.items():
        held = {how: _digest(how, content) for how in ("sha256", "sha1")}
        owners = [
            (other.name, file)
            for other in PUBLISHED.values()
            for file, digest in other.digests.items()
            if held[digest.partition(":")[0]] == digest.partition(":")[2]
        ]
        if owners and (published.name, name) not in owners:
            raise UserError(
                f"{folder}: what should be {name} of {published.name} is {owners[0][1]} of {owners[0][0]} by its "
                f"checksum: ask for {owners[0][0]}, or put the right file there"
            )


def _digest(how: str, content: bytes) -> str:
    return hashlib.new(how, content).hexdigest()


def _prepare(published: Published, located: Located | None, home: Path, downloads: Path, *, replace: bool) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".preparing-") as scratch, _quiet():
        builder = _Builder(published, located, data_dir=scratch, file_format=_file_format())
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_dir=downloads if located is None else scratch, download_config=config)
        made = Path(builder.data_dir)
        (made / _SOURCE).write_text(json.dumps(builder.source, indent=1) + "\n")
        if replace and home.exists():
            os.rename(home, Path(scratch) / "damaged")
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


def _read(published: Published, home: Path) -> Dataset:
    builder = tfds.builder_from_directory(home)
    splits = {split: _read_split(builder, split) for split in ("train", "test")}
    counts = tuple((split, len(x)) for split, x in splits.items())
    source = Source(**json.loads((home / _SOURCE).read_text()), counts=counts)
    return Dataset(published.name, splits["train"], splits["test"], published.classes, source)


def _read_split(builder: tfds.core.DatasetBuilder, split: str) -> Split:
    """The examples of a split; decoding the records here takes a fifth of the time of tfds's own decoder."""
    records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    total = len(records)
    images = empty((total, *builder.info.features["image"].shape), np.uint8)
    labels = empty((total,), np.int32)
    flat = images.reshape(total, -1)
    for start in range(0, total, _CHUNK):
        rows = range(start, min(start + _CHUNK, total))
        for row, record in zip(rows, records.__getitems__(rows), strict=True):
            feature = tf_example_pb2.Example.FromString(record).features.feature
            flat[row] = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
            labels[row] = feature["label"].int64_list.value[0]
    return Split(images, labels)
