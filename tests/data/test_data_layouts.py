"""Published sets under the names, in the places and in the archives in which people have them."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from flaxvision import data
from flaxvision.data._load import located
from flaxvision.data.cifar import RECORD
from flaxvision.data.locate import locate
from flaxvision.data.published import PUBLISHED
from flaxvision.errors import UserError

MNIST = PUBLISHED["mnist"].file_names
EMNIST = PUBLISHED["emnist_balanced"].file_names
CIFAR = PUBLISHED["cifar10"].file_names


@pytest.fixture(scope="module")
def idx_files(files, tmp_path_factory):
    """The four files of MNIST, tiny, by name."""
    folder = tmp_path_factory.mktemp("idx")
    files.idx_set(folder, suffix="", counts=(3, 2))
    return {name: (folder / name).read_bytes() for name in MNIST}


@pytest.fixture(scope="module")
def batches():
    """The six binary files of CIFAR-10, tiny, by name."""
    records = np.random.default_rng(0).integers(256, size=(6, 2, RECORD), dtype=np.uint8)
    records[..., 0] %= 10
    return {name: batch.tobytes() for name, batch in zip(CIFAR, records, strict=True)}


def _put(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


# --- MNIST, Fashion-MNIST, EMNIST ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "given", "place"),
    [
        ("mnist", "", "{}"),  # loose in the folder that was given
        ("mnist", "", "mnist/{}"),
        ("mnist", "", "MNIST/raw/{}"),  # torchvision
        ("mnist", "MNIST", "MNIST/raw/{}"),  # its folder itself was given
        ("mnist", "MNIST/raw", "MNIST/raw/{}"),
        ("mnist", "", "Mnist-Dataset/{}"),
        ("mnist", "", "mnist/{}/{}"),  # Kaggle: each file in a folder of its name
        ("mnist", "", "data/MNIST/raw/{}"),
        ("mnist", "", "mnist/raw/{}"),
        ("fashion_mnist", "", "FashionMNIST/raw/{}"),
        ("fashion_mnist", "", "fashion-mnist/{}"),  # Keras
        ("fashion_mnist", "", "Fashion MNIST/{}"),
        ("fashion_mnist", "", "fashion-mnist-master/data/fashion/{}"),  # the repository of its authors
    ],
)
@pytest.mark.parametrize("rename", [str, _dotted, str.upper])
def test_files_are_found(idx_files, tmp_path, published, given, place, rename):
    _put(tmp_path, {place.format(rename(name), rename(name)): content for name, content in idx_files.items()})
    assert locate(PUBLISHED[published], tmp_path / given, "").contents() == idx_files


@pytest.mark.parametrize(
    "place", ["EMNIST/raw/{}", "emnist/gzip/{}", "gzip/{}", "emnist-gzip/{}", "emnist_balanced/{}"]
)
def test_emnist_is_found(idx_files, tmp_path, place):
    named = dict(zip(EMNIST, idx_files.values(), strict=True))
    _put(tmp_path, {place.format(f"{name}.gz"): gzip.compress(content) for name, content in named.items()})
    assert locate(PUBLISHED["emnist_balanced"], tmp_path, "").contents() == named


@pytest.mark.parametrize("archive", ["gzip.zip", "emnist-gzip.zip", "EMNIST/archive.zip", "EMNIST/raw/gzip.zip"])
def test_emnist_is_read_from_its_archive(idx_files, tmp_path, archive):
    named = dict(zip(EMNIST, idx_files.values(), strict=True))
    (tmp_path / archive).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(tmp_path / archive, "w") as packed:
        for name, content in named.items():
            packed.writestr(f"gzip/{name}.gz", gzip.compress(content))
            packed.writestr(f"__MACOSX/gzip/._{name}.gz", b"what the Finder adds")
    assert locate(PUBLISHED["emnist_balanced"], tmp_path, "").contents() == named
    with pytest.raises(UserError, match=r"zip does not hold emnist_letters: .* it has none of them"):
        locate(PUBLISHED["emnist_letters"], tmp_path, "").contents()


def test_the_official_archive_is_official(idx_files, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as packed:
        for name, content in zip(EMNIST, idx_files.values(), strict=True):
            packed.writestr(f"gzip/{name}", content)
    emnist = PUBLISHED["emnist_balanced"]
    digest = hashlib.sha256((tmp_path / "gzip.zip").read_bytes()).hexdigest()
    part = dataclasses.replace(emnist.downloads[0], sha256=digest)
    monkeypatch.setitem(PUBLISHED, emnist.name, dataclasses.replace(emnist, downloads=(part,)))
    assert data.load("emnist_balanced", raw_dir=tmp_path, data_dir=tmp_path / "data").source.official


def test_keras_npz_is_byte_for_byte_the_published_files(idx_files, tmp_path):
    def array(name):
        content = idx_files[name]
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape((-1, 28, 28)[: content[3]])

    keys = dict(zip(("x_train", "y_train", "x_test", "y_test"), map(array, MNIST), strict=True))
    for place in ("mnist.npz", "datasets/mnist.npz"):  # ~/.keras/datasets, or ~/.keras
        (tmp_path / place).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / place, **keys)
        assert locate(PUBLISHED["mnist"], tmp_path, "").contents() == idx_files
        assert locate(PUBLISHED["mnist"], tmp_path / place, "").contents() == idx_files  # the file itself was given
        (tmp_path / place).unlink()
    np.savez(tmp_path / "mnist.npz", images=keys["x_train"])
    with pytest.raises(UserError, match=r"mnist.npz cannot be read as Keras's x_train, y_train, x_test, y_test"):
        locate(PUBLISHED["mnist"], tmp_path, "").contents()
    np.savez(tmp_path / "mnist.npz", **{**keys, "x_train": keys["x_train"] / 255.0})
    with pytest.raises(UserError, match="x_train is float64: allowed are whole numbers from 0 to 255"):
        locate(PUBLISHED["mnist"], tmp_path, "").contents()


def test_hidden_files_and_second_copies_do_not_count(idx_files, tmp_path):
    _put(tmp_path / "MNIST" / "raw", idx_files)
    _put(
        tmp_path / "MNIST" / "raw", {f"{name}.gz": b"\x1f\x8bcut short" for name in idx_files}
    )  # torchvision keeps both
    _put(tmp_path / "MNIST" / "raw", {f"._{name}": b"what macOS adds to a stick" for name in idx_files})
    assert locate(PUBLISHED["mnist"], tmp_path, "").contents() == idx_files


def test_a_set_has_one_checksum_in_whatever_form(idx_files, tmp_path):
    _put(tmp_path / "a" / "MNIST" / "raw", idx_files)
    _put(tmp_path / "b", {_dotted(name) + ".gz": gzip.compress(content) for name, content in idx_files.items()})
    with tarfile.open(tmp_path / "mnist.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "a" / "MNIST", "MNIST")
    sources = [
        data.load("mnist", raw_dir=tmp_path / place, data_dir=tmp_path / "data").source
        for place in ("a", "b", "mnist.tar.xz")
    ]
    assert sources[0] == sources[1] == sources[2]


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


class _Python2Pickler(pickle._Pickler):
    """Text and bytes as Python 2 wrote them, as in the published files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    dispatch[str] = dispatch[bytes] = _save_string


def _pickled(batch: bytes, how: str) -> bytes:
    records = np.frombuffer(batch, np.uint8).reshape(-1, RECORD)
    content = {"batch_label": "training batch", "labels": records[:, 0].tolist(), "data": records[:, 1:].copy()}
    if how == "python 2":
        _Python2Pickler(file := io.BytesIO(), protocol=2).dump(content)
        return file.getvalue()
    if how == "bytes":  # read with encoding="bytes" and written again, its labels an array
        content = {name.encode(): value for name, value in content.items()}
        content[b"labels"] = np.asarray(content[b"labels"])
    return pickle.dumps(content, protocol=2 if how == "protocol 2" else 4)


@pytest.mark.parametrize("how", ["python 2", "protocol 2", "protocol 4", "bytes"])
@pytest.mark.parametrize(
    "place",
    ["cifar-10-batches-py", "", "CIFAR10/cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"],
)
def test_pickled_batches_are_byte_for_byte_the_binary_ones(batches, tmp_path, how, place):
    _put(tmp_path / place, {name.removesuffix(".bin"): _pickled(batch, how) for name, batch in batches.items()})
    _put(tmp_path / place, {"batches.meta": b"not needed", "readme.html": b"<html>"})
    assert locate(PUBLISHED["cifar10"], tmp_path, "").contents() == batches


@pytest.mark.parametrize("kind", ["py", "bin"])
@pytest.mark.parametrize("archive", ["cifar-10-{}.tar.gz", "cifar10/cifar-10-{}.tar", "CIFAR-10/archive.tgz"])
def test_cifar_is_read_from_its_archive(batches, tmp_path, kind, archive):
    held = {n.removesuffix(".bin"): _pickled(b, "python 2") for n, b in batches.items()} if kind == "py" else batches
    _put(tmp_path / "made", held)
    path = tmp_path / "raw" / archive.format({"py": "python", "bin": "binary"}[kind])
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as packed:
        packed.add(tmp_path / "made", f"cifar-10-batches-{kind}")
    assert locate(PUBLISHED["cifar10"], tmp_path / "raw", "").contents() == batches


class _Runs:
    """Whoever unpickles it as pickle.load does runs a command."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_a_malicious_pickle_runs_nothing(batches, tmp_path):
    harmful = {
        "os": _Runs(os.system, f"touch {tmp_path / 'harmed'}"),
        "eval": _Runs(eval, f"open({str(tmp_path / 'harmed')!r}, 'w')"),
        "getattr": _Runs(getattr, "a", "upper"),
        "numpy": _Runs(np.savetxt, str(tmp_path / "harmed"), [1]),
    }
    good = {name.removesuffix(".bin"): _pickled(batch, "python 2") for name, batch in batches.items()}
    for harm in harmful.values():
        records = np.frombuffer(batches["data_batch_1.bin"], np.uint8).reshape(-1, RECORD)
        batch = {"data": records[:, 1:].copy(), "labels": records[:, 0].tolist(), "more": harm}
        _put(tmp_path / "cifar-10-batches-py", {**good, "data_batch_1": pickle.dumps(batch, protocol=2)})
        with pytest.raises(
            UserError, match=r"data_batch_1 is not a pickle of plain arrays \(it asks for .*, which data do"
        ):
            locate(PUBLISHED["cifar10"], tmp_path, "").contents()
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a pickle of plain arrays"),
        (b"\x80\x02}", "not a pickle of plain arrays"),  # cut short
        (pickle.dumps([1, 2]), "it has no data and labels"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}), "it has no data and labels"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}), "data are float32"),
        (pickle.dumps({"data": np.zeros((2, 32, 32, 3), np.uint8), "labels": [0, 1]}), "not uint8"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 300]}), "not whole numbers from 0 to 9"),
    ],
)
def test_batches_that_are_none(batches, tmp_path, content, message):
    good = {name.removesuffix(".bin"): _pickled(batch, "protocol 4") for name, batch in batches.items()}
    _put(tmp_path, {**good, "test_batch": content})
    with pytest.raises(UserError, match=message) as caught:
        locate(PUBLISHED["cifar10"], tmp_path, "").contents()
    assert "test_batch" in str(caught.value)


# --- a folder that was given is not set aside ------------------------------------------------------------------------


def test_not_there_is_an_error_that_says_what_is(tmp_path, monkeypatch):
    for number in range(9):
        (tmp_path / f"file-{number}.csv").touch()
    with pytest.raises(UserError) as caught:
        data.load("mnist", raw_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} does not hold mnist: looked for train-images-idx3-ubyte, ")
    assert "it holds file-0.csv, file-1.csv, file-2.csv, file-3.csv, file-4.csv, file-5.csv and 3 more" in message
    assert message.endswith("or leave raw_dir (--raw-dir) out to download it")
    assert "\n" not in message
    monkeypatch.setenv("FLAXVISION_RAW_DIR", str(tmp_path))  # it was given once for all, which is no less
    with pytest.raises(UserError, match=r"or unset FLAXVISION_RAW_DIR to download it$"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("published", "place"),
    [
        ("mnist", "fashion_mnist/{}"),
        ("mnist", "FashionMNIST/raw/{}"),
        ("mnist", "kmnist/{}"),
        ("fashion_mnist", "MNIST/raw/{}"),
        ("fashion_mnist", "mnist/{}"),
    ],
)
def test_the_files_of_another_set_are_not_taken(idx_files, tmp_path, published, place):
    _put(tmp_path, {place.format(name): content for name, content in idx_files.items()})
    for root in (tmp_path, tmp_path / Path(place).parts[0]):
        if "kmnist" not in str(root):
            with pytest.raises(UserError, match=f"does not hold {published}"):
                locate(PUBLISHED[published], root, "")


def test_cifar_100_is_not_cifar_10(batches, tmp_path):
    _put(tmp_path / "cifar-100-python", batches)
    with pytest.raises(UserError, match=r"does not hold cifar10: .* it holds cifar-100-python. Put"):
        locate(PUBLISHED["cifar10"], tmp_path, "")


def test_half_a_set_is_named(idx_files, tmp_path):
    _put(tmp_path / "MNIST" / "raw", dict(list(idx_files.items())[:2]))
    _put(tmp_path, idx_files)  # what lies elsewhere does not fill it up in silence
    with pytest.raises(UserError, match=r"MNIST.raw has 2 of the 4 files of mnist but no \S+, \S+ \(plain"):
        locate(PUBLISHED["mnist"], tmp_path, "")


def test_the_official_files_of_another_set(idx_files, tmp_path, monkeypatch):
    fashion = PUBLISHED["fashion_mnist"]
    digests = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in idx_files.items()}
    monkeypatch.setitem(PUBLISHED, fashion.name, dataclasses.replace(fashion, digests=digests))
    _put(tmp_path / "mnist", idx_files)
    with pytest.raises(
        UserError, match=r"is train-images-idx3-ubyte of fashion_mnist by its checksum: ask for fashion_m"
    ):
        data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    (tmp_path / "mnist").rename(tmp_path / "fashion_mnist")
    train, test = (tmp_path / "fashion_mnist" / f"{part}-labels-idx1-ubyte" for part in ("train", "t10k"))
    shutil.copyfile(test, train)  # two files of one set in each other's place
    with pytest.raises(UserError, match=r"what should be train-labels-idx1-ubyte .* is t10k-labels-idx1-ubyte of"):
        data.load("fashion_mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")


NOT_ALLOWED = r"cannot read .*: Permission denied; give |train.npz cannot be read as .*Permission denied"


@contextlib.contextmanager
def as_a_user():
    """Within it this process may do no more than a user may, root's too."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")
@pytest.mark.parametrize("kind", ["mnist", "npz", "images"])
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_without_permission_is_one_line(idx_files, kind, mode):
    """It, or the one around it, may not be looked into."""

    def read(folder):
        located(PUBLISHED["mnist"], folder).contents() if kind == "mnist" else data.load(f"{kind}:{folder}")

    with tempfile.TemporaryDirectory() as folder:  # in which everybody may look for others
        inner = Path(folder, "raw", "mnist")
        _put(inner, idx_files)
        (inner / "train").mkdir()
        (inner / "train.npz").touch()
        os.chmod(folder, 0o755)
        for closed in (inner, inner.parent):
            closed.chmod(mode)
            with as_a_user(), pytest.raises(UserError, match=NOT_ALLOWED) as caught:
                read(inner)
            closed.chmod(0o755)
            assert "\n" not in str(caught.value)


def test_a_damaged_archive(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b\x08\x00 cut short")
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz cannot be unpacked \(.*\): it is damaged or no such"):
        locate(PUBLISHED["cifar10"], tmp_path, "").contents()


def test_real_files_under_another_name(real_set):
    folders = real_set("mnist")
    contents = locate(PUBLISHED["mnist"], Path(folders["raw_dir"]) / "mnist", "").contents()
    for name, digest in PUBLISHED["mnist"].digests.items():
        assert f"sha256:{hashlib.sha256(contents[name]).hexdigest()}" == digest
