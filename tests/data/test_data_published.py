"""Published sets: from a raw folder or the web to a prepared copy, and back."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flaxvision import data
from flaxvision.data import _load, mapped, raw, space
from flaxvision.data.cifar import RECORD
from flaxvision.data.idx import parse_idx
from flaxvision.data.published import PUBLISHED, Download
from flaxvision.errors import UserError
from tests.conftest import slow


def test_every_published_set_is_listed_and_lists_its_files():
    assert list(PUBLISHED) == [name for name in data.list_datasets() if name in PUBLISHED]
    for published in PUBLISHED.values():
        held = [name for part in published.downloads for name, _ in part.files]
        assert sorted(held) == sorted(published.file_names)
        assert len(set(published.classes)) == len(published.classes)


@pytest.mark.parametrize("suffix", raw.SUFFIXES)
def test_idx_set_is_prepared_and_read_back(files, tmp_path, suffix):
    made = files.idx_set(tmp_path / "raw" / "mnist", suffix=suffix)
    for _ in range(2):  # the second time from the prepared copy
        mnist = data.load("mnist", raw_dir=tmp_path / "raw", data_dir=tmp_path / "data")
        assert np.array_equal(mnist.train.images[..., 0], made["train-images-idx3-ubyte"])
        assert np.array_equal(mnist.test.labels, made["t10k-labels-idx1-ubyte"])
    assert mnist.classes == tuple("0123456789")
    assert mnist.source.kind == "raw folder"
    assert mnist.source.official is False
    assert mnist.source.note == "not the official files: 40 + 20 images, officially 60,000 + 10,000"
    assert mnist.source.counts == (("train", 40), ("test", 20))


def test_a_cpu_takes_the_arrays_without_a_copy(files, tmp_path):
    jax = pytest.importorskip("jax")
    files.idx_set(tmp_path / "raw" / "mnist")
    mnist = data.load("mnist", raw_dir=tmp_path / "raw", data_dir=tmp_path / "data", limit=11)
    for array in (mnist.train.images, mnist.train.labels, mnist.test.images, mnist.test.labels):
        on_device = jax.device_put(array, jax.devices("cpu")[0])
        assert on_device.unsafe_buffer_pointer() == array.ctypes.data


def test_checksum_is_that_of_the_content_and_the_copy_that_of_the_files(files, tmp_path):
    sources = []
    for index, (suffix, seed) in enumerate([(".gz", 0), (".xz", 0), (".gz", 1)]):
        files.idx_set(tmp_path / str(index) / "mnist", suffix=suffix, seed=seed)
        sources.append(data.load("mnist", raw_dir=tmp_path / str(index), data_dir=tmp_path / "data").source)
    assert sources[0] == sources[1]
    assert sources[0].checksum != sources[2].checksum
    assert len(list((tmp_path / "data" / "mnist").iterdir())) == 3


def test_changed_files_are_not_served_from_the_old_copy(files, tmp_path):
    load = functools.partial(data.load, "mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    files.idx_set(tmp_path / "mnist", seed=0)
    before = load()
    made = files.idx_set(tmp_path / "mnist", seed=1)
    assert np.array_equal(load().train.images[..., 0], made["train-images-idx3-ubyte"])
    assert load().source.checksum != before.source.checksum


def test_limit_then_hold_out(files, tmp_path):
    files.idx_set(tmp_path / "mnist")
    mnist = data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data", limit=30, validation=0.2)
    assert mnist.source.counts == (("train", 24), ("validation", 6), ("test", 20))


def test_settings_come_from_the_environment(files, tmp_path, monkeypatch):
    files.idx_set(tmp_path / "raw" / "mnist")
    monkeypatch.setenv("FLAXVISION_RAW_DIR", str(tmp_path / "raw"))
    monkeypatch.setenv("FLAXVISION_DATA_DIR", str(tmp_path / "data"))
    assert len(data.load("mnist").train) == 40
    assert (tmp_path / "data" / "mnist").is_dir()
    monkeypatch.delenv("FLAXVISION_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _load._data_dir(None) == tmp_path / "cache" / "flaxvision"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert _load._data_dir(None) == tmp_path / "home" / ".cache" / "flaxvision"


@pytest.mark.parametrize(("name", "labels"), [("emnist_letters", (1, 27)), ("emnist_balanced", (0, 47))])
def test_emnist_is_put_upright_and_counted_from_zero(files, tmp_path, name, labels):
    names = PUBLISHED[name].file_names
    made = files.idx_set(tmp_path / name, names=names, labels=labels)
    emnist = data.load(name, raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert np.array_equal(emnist.train.images[..., 0], made[names[0]].transpose(0, 2, 1))
    assert np.array_equal(emnist.train.labels, made[names[1]] - labels[0])
    assert emnist.num_classes == labels[1] - labels[0]
    assert "".join(emnist.classes).startswith("ABC" if name == "emnist_letters" else "0123456789ABC")


def _write_cifar(files, folder, suffix=".xz"):
    rng = np.random.default_rng(0)
    batches = {}
    for name in PUBLISHED["cifar10"].file_names:
        batches[name] = rng.integers(256, size=(4, RECORD), dtype=np.uint8)
        batches[name][:, 0] %= 10
        files.write(folder / (name + suffix), batches[name].tobytes())
    return batches


def test_cifar10(files, tmp_path):
    batches = _write_cifar(files, tmp_path / "cifar10")
    cifar = data.load("cifar10", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert cifar.train.images.shape == (20, 32, 32, 3)
    second = batches["data_batch_2.bin"][1]
    assert np.array_equal(cifar.train.images[5], second[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert cifar.train.labels[5] == second[0]
    assert cifar.classes[3] == "cat"


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar100(files, tmp_path, form):
    rng = np.random.default_rng(0)
    made = {}
    for name, count in (("train", 6), ("test", 3)):
        planes, fine = rng.integers(256, size=(count, 3072), dtype=np.uint8), rng.integers(100, size=count)
        coarse = fine // 5
        made[name] = planes, fine
        if form == "binary":
            records = np.concatenate([coarse[:, None], fine[:, None], planes], axis=1).astype(np.uint8)
            files.write(tmp_path / "cifar100" / f"{name}.bin", records.tobytes())
        else:
            batch = {b"data": planes, b"coarse_labels": coarse.tolist(), b"fine_labels": fine.tolist()}
            files.write(tmp_path / "cifar-100-python" / name, pickle.dumps(batch, protocol=2))
    cifar = data.load("cifar100", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert np.array_equal(cifar.train.labels, made["train"][1])
    assert np.array_equal(cifar.test.images, made["test"][0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    names = cifar.classes
    assert (len(names), names[0], names[42], names[99]) == (100, "apple", "leopard", "worm")


def test_pickles_of_cifar10_are_not_cifar100(files, tmp_path):
    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, protocol=2)
    for name in ("train", "test"):
        files.write(tmp_path / "cifar100" / name, batch)
    with pytest.raises(UserError, match="train is not a batch of CIFAR-100: it has no data and coarse_labels and fine"):
        data.load("cifar100", raw_dir=tmp_path, data_dir=tmp_path / "data")


def test_kmnist(files, tmp_path):
    made = files.idx_set(tmp_path / "KMNIST" / "raw")
    kmnist = data.load("kmnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert np.array_equal(kmnist.train.images[..., 0], made["train-images-idx3-ubyte"])
    assert kmnist.classes[8:] == ("re", "wo")


def test_svhn(files, tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    made = {}
    for name, count in (("train", 12), ("test", 5)):
        images = rng.integers(256, size=(32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 for a zero
        content = io.BytesIO()
        savemat(content, {"X": images, "y": labels}, do_compression=True)
        files.write(tmp_path / "svhn" / f"{name}_32x32.mat", content.getvalue())
        made[name] = images
    svhn = data.load("svhn", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert np.array_equal(svhn.train.images[3], made["train"][..., 3])
    assert svhn.train.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    files.write(tmp_path / "svhn" / "test_32x32.mat", content.getvalue()[:200])
    with pytest.raises(UserError, match=r"test_32x32\.mat is not a MATLAB file of X and y"):
        data.load("svhn", raw_dir=tmp_path, data_dir=tmp_path / "data")


def test_records_are_ordinary_tfds_examples(files, tmp_path):
    import tensorflow_datasets as tfds

    made = files.idx_set(tmp_path / "mnist")
    data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    (home,) = (tmp_path / "data" / "mnist").iterdir()
    examples = tfds.builder_from_directory(home).as_data_source("train")
    assert np.array_equal(examples[7]["image"][..., 0], made["train-images-idx3-ubyte"][7])
    assert examples[7]["label"] == made["train-labels-idx1-ubyte"][7]
    assert "tensorflow" not in sys.modules


def test_without_array_record_the_copy_is_parquet(files, tmp_path, monkeypatch):
    from flaxvision.data import prepared

    monkeypatch.setattr(prepared, "_file_format", lambda: "parquet")
    made = files.idx_set(tmp_path / "mnist", counts=(250, 130))  # more than tfds writes in a batch
    mnist = data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert list((tmp_path / "data" / "mnist").glob("*/*.parquet-*"))
    assert np.array_equal(mnist.train.images[..., 0], made["train-images-idx3-ubyte"])
    assert np.array_equal(mnist.test.labels, made["t10k-labels-idx1-ubyte"])


def test_preparing_is_quiet(files, tmp_path, capfd):
    from tensorflow_datasets.core.utils import tqdm_utils

    files.idx_set(tmp_path / "mnist")
    data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert capfd.readouterr() == ("", "")
    assert tqdm_utils._active  # as it was


def test_an_interrupted_preparation_leaves_nothing(files, tmp_path, monkeypatch):
    from flaxvision.data import prepared

    files.idx_set(tmp_path / "mnist")
    with monkeypatch.context() as patch:
        patch.setattr(prepared.os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert list((tmp_path / "data" / "mnist").iterdir()) == []
    assert len(data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data").train) == 40


def test_two_processes_at_once(files, tmp_path):
    files.idx_set(tmp_path / "mnist", counts=(2000, 20))
    code = (
        f"from flaxvision import data; mnist = data.load('mnist', raw_dir={str(tmp_path)!r}, "
        f"data_dir={str(tmp_path / 'data')!r}); print(mnist.source.checksum, int(mnist.train.images.sum()))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=120)[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert first == second != ""
    assert [path.name for path in (tmp_path / "data" / "mnist").iterdir() if path.name.startswith(".")] == []


# --- what can be wrong -----------------------------------------------------------------------------------------------

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, lambda f: f.idx(np.zeros((40, 28, 28), np.uint8))[:-5], f"{IMAGES} is truncated"),
        (IMAGES, lambda f: f.idx(np.zeros((40, 28, 28), np.uint8)) + b"..", f"{IMAGES} has trailing bytes"),
        (IMAGES, lambda f: f.idx(np.zeros(40, np.uint8)), f"{IMAGES} is not an IDX file of 3-dimensional"),
        (IMAGES, lambda f: f.idx(np.zeros((39, 28, 28), np.uint8)), f"{IMAGES} and {LABELS} hold 39 images but 40 "),
        (IMAGES, lambda f: f.idx(np.zeros((40, 14, 28), np.uint8)), "not \\(N, 28, 28, 1\\)"),
        (
            LABELS,
            lambda f: f.idx(np.full(40, 10, np.uint8)),
            f"{LABELS}: label 10 at index 0 is outside the 10 ",
        ),
    ],
)
def test_wrong_idx_files(files, tmp_path, name, content, message):
    files.idx_set(tmp_path / "mnist")
    files.write(tmp_path / "mnist" / f"{name}.gz", content(files))
    with pytest.raises(UserError, match=message) as caught:
        data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "data" / "mnist").glob("*") if not path.name.startswith(".")] == []


def test_letters_have_no_label_0(files, tmp_path):
    files.idx_set(tmp_path / "emnist_letters", names=PUBLISHED["emnist_letters"].file_names, labels=(0, 1))
    with pytest.raises(UserError, match="label -1 at index 0 is outside the 26 classes"):
        data.load("emnist_letters", raw_dir=tmp_path, data_dir=tmp_path / "data")


def test_corrupt_gzip(files, tmp_path):
    files.idx_set(tmp_path / "mnist")
    path = tmp_path / "mnist" / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{IMAGES}.gz is damaged: it cannot be decompressed"):
        data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")


def test_raw_folder_without_the_file(files, tmp_path):
    files.idx_set(tmp_path / "mnist")
    (tmp_path / "mnist" / f"{LABELS}.gz").unlink()
    message = rf"mnist has 3 of the 4 files of mnist but no {LABELS} \(plain, .*\): put it there, or leave"
    with pytest.raises(UserError, match=message):
        data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    with pytest.raises(UserError, match="does not exist: set FLAXVISION_RAW_DIR or --raw-dir"):
        data.load("mnist", raw_dir=tmp_path / "nowhere", data_dir=tmp_path / "data")


def test_data_dir_that_cannot_be_written(files, tmp_path):
    files.idx_set(tmp_path / "mnist")
    (tmp_path / "file").touch()
    message = "cannot prepare mnist in .*file/sub: Not a directory. Set FLAXVISION_DATA_DIR or --data-dir"
    with pytest.raises(UserError, match=message):
        data.load("mnist", raw_dir=tmp_path, data_dir=tmp_path / "file" / "sub")


@pytest.mark.parametrize("name", ["mnist-train*", "mnist-test*", "source.json", "dataset_info.json", "features.json"])
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(p.read_bytes()[:-9])]
)
def test_damaged_prepared_copy_is_made_anew(files, tmp_path, name, damage):
    made = files.idx_set(tmp_path / "mnist")
    load = functools.partial(data.load, "mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    whole = load()
    (path,) = (tmp_path / "data" / "mnist").glob(f"*/{name}")
    damage(path)
    again = load()
    assert np.array_equal(again.train.images[..., 0], made["train-images-idx3-ubyte"])
    assert again.source.checksum == whole.source.checksum
    assert re.fullmatch(r"the prepared copy of mnist was damaged \(.+\) and made anew", *again.loading_notes)
    assert again.source == whole.source
    assert load().loading_notes == ()  # said once


def test_a_mapped_copy_of_another_version_is_not_damaged(files, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped.mapped, "__kwdefaults__", {"least": 0})
    files.idx_set(tmp_path / "mnist")
    load = functools.partial(data.load, "mnist", raw_dir=tmp_path, data_dir=tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(space, "VERSION", 1)
        load()
    (about,) = tmp_path.rglob("about.json")
    about.write_text("of another form")
    assert load().loading_notes == ()
    assert len(list(tmp_path.rglob("about.json"))) == 2


# --- downloads -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: (folder, base URL)."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def _publish(monkeypatch, name, folder, base_url, holds):
    """Put the official URLs of a set on the local server; `holds` maps a file there to what it contains."""
    parts = tuple(
        Download(f"{base_url}/{file}", len(content), hashlib.sha256(content).hexdigest(), inside)
        for file, inside in holds.items()
        for content in [(folder / file).read_bytes()]
    )
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], downloads=parts))


@pytest.fixture
def mnist_server(files, server, monkeypatch):
    folder, url = server
    made = files.idx_set(folder)
    _publish(monkeypatch, "mnist", folder, url, {f"{name}.gz": ((name, ""),) for name in files.mnist})
    return folder, made


def test_download(mnist_server, tmp_path, capfd):
    folder, made = mnist_server
    mnist = data.load("mnist", data_dir=tmp_path / "data")
    assert np.array_equal(mnist.train.images[..., 0], made["train-images-idx3-ubyte"])
    assert (mnist.source.kind, mnist.source.official, mnist.source.note) == ("download", True, "")
    assert capfd.readouterr() == ("", "")
    for path in folder.iterdir():
        path.unlink()
    again = data.load("mnist", data_dir=tmp_path / "data")  # needs the web no more
    assert again.source == mnist.source
    (tmp_path / "raw").mkdir()  # a raw folder is never set aside for what was downloaded
    with pytest.raises(UserError, match="raw does not hold mnist"):
        data.load("mnist", raw_dir=tmp_path / "raw", data_dir=tmp_path / "data")


def test_download_with_a_wrong_checksum(mnist_server, files, tmp_path):
    folder, _ = mnist_server
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"t10k-images-idx3-ubyte.gz does not have the sha256 .* FLAXVISION_RAW_DIR"
    ) as caught:
        data.load("mnist", data_dir=tmp_path / "data")
    assert "\n" not in str(caught.value)
    files.idx_set(folder)  # put right, it loads: nothing bad was kept
    assert data.load("mnist", data_dir=tmp_path / "data").source.official


def test_a_download_that_was_damaged_on_disk(mnist_server, tmp_path):
    data.load("mnist", data_dir=tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "mnist")
    (kept,) = (tmp_path / "data" / "downloads").glob("*t10k-images*[!O]")
    kept.write_bytes(kept.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz was damaged on disk .* is deleted: load again"):
        data.load("mnist", data_dir=tmp_path / "data")
    assert data.load("mnist", data_dir=tmp_path / "data").source.official


def test_download_that_is_not_there(mnist_server, tmp_path):
    folder, _ = mnist_server
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"the download of mnist failed .* --raw-dir .* data set glyphs"):
        data.load("mnist", data_dir=tmp_path / "data")


def test_offline(monkeypatch, tmp_path):
    part = Download("http://127.0.0.1:9/gzip.zip", 1, "0" * 64, (("x", "x"),))  # port 9: nobody listens
    monkeypatch.setitem(PUBLISHED, "mnist", dataclasses.replace(PUBLISHED["mnist"], downloads=(part,)))
    with pytest.raises(UserError) as caught:
        data.load("mnist", data_dir=tmp_path / "data")
    for words in ("download of mnist failed", "FLAXVISION_RAW_DIR or --raw-dir", IMAGES, "data set glyphs"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_emnist_archive_serves_both_parts(files, server, monkeypatch, tmp_path):
    folder, url = server
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name, labels in (("emnist_balanced", (0, 47)), ("emnist_letters", (1, 27))):
            made = files.idx_set(tmp_path / "made", names=PUBLISHED[name].file_names, labels=labels)
            for file, array in made.items():
                opened.writestr(f"gzip/{file}.gz", gzip.compress(files.idx(array)))
    (folder / "gzip.zip").write_bytes(archive.getvalue())
    for name in ("emnist_balanced", "emnist_letters"):
        _publish(monkeypatch, name, folder, url, {"gzip.zip": PUBLISHED[name].downloads[0].files})
    assert data.load("emnist_balanced", data_dir=tmp_path / "data").num_classes == 47
    (folder / "gzip.zip").unlink()  # the second part comes from the archive that was kept
    assert data.load("emnist_letters", data_dir=tmp_path / "data").num_classes == 26


def test_cifar_archive(files, server, monkeypatch, tmp_path):
    folder, url = server
    batches = _write_cifar(files, tmp_path / "made", suffix="")
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made", "cifar-10-batches-bin")
    holds = {"cifar-10-binary.tar.gz": PUBLISHED["cifar10"].downloads[0].files}
    _publish(monkeypatch, "cifar10", folder, url, holds)
    cifar = data.load("cifar10", data_dir=tmp_path / "data")
    assert np.array_equal(cifar.test.labels, batches["test_batch.bin"][:, 0])


# --- the real files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", slow("fashion_mnist")])
def test_real_mnist_equals_its_files(real_set, name):
    folders = real_set(name)
    loaded = data.load(name, **folders)
    published = PUBLISHED[name]
    contents = _load.located(published, folders["raw_dir"]).contents()
    for split, files in published.files.items():
        images, labels = (contents[file] for file in files)
        assert np.array_equal(loaded.splits[split].images[..., 0], parse_idx(images, 3, files[0]))
        assert np.array_equal(loaded.splits[split].labels, parse_idx(labels, 1, files[1]))
    assert loaded.source.counts == (("train", 60_000), ("test", 10_000))
    assert loaded.source.official
    again = data.load(name, **folders, limit=100)
    assert np.array_equal(again.test.images, loaded.test.images[:100])
    assert again.source.checksum == loaded.source.checksum
    assert "tensorflow" not in sys.modules


def test_real_emnist_is_upright(real_set):
    mnist = data.load("mnist", **real_set("mnist"), limit=5000).train
    emnist = data.load("emnist_balanced", **real_set("emnist_balanced"))
    assert emnist.source.official is False
    assert "37,600 + 4,700 images, officially 112,800 + 18,800" in emnist.source.note
    for digit in (2, 4, 7):
        upright = mnist.images[mnist.labels == digit].mean(0)[..., 0]
        ours = emnist.train.images[emnist.train.labels == digit].mean(0)[..., 0]
        turned = [np.rot90(image, turns) for image in (ours, ours.T) for turns in range(4)]
        assert np.argmax([np.corrcoef(upright.ravel(), image.ravel())[0, 1] for image in turned]) == 0
    letter = emnist.train.images[emnist.train.labels == emnist.classes.index("L")].mean(0)[..., 0]
    assert letter[:, :14].sum() > letter[:, 14:].sum()  # an L has its stem at the left
    assert letter[18:].sum() > letter[:10].sum()  # and its foot below


@pytest.mark.slow
def test_real_cifar10(real_set):
    folders = real_set("cifar10")
    cifar = data.load("cifar10", **folders)
    assert cifar.source.counts == (("train", 50_000), ("test", 10_000))
    published, name = PUBLISHED["cifar10"], "data_batch_5.bin"
    paths = list(Path(folders["raw_dir"], "cifar10").glob(f"{name}*"))  # alone it is read sooner than all six
    located = _load.located(published, folders["raw_dir"])
    content = raw.read(paths[0], published.most_bytes) if paths else located.contents()[name]
    last = np.frombuffer(content, np.uint8)[-RECORD:]
    assert np.array_equal(cifar.train.images[-1], last[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert np.bincount(cifar.train.labels).tolist() == [5000] * 10


def test_import_is_lazy():
    heavy = ("jax", "tensorflow_datasets", "matplotlib", "PIL", "tensorflow", "requests")
    code = f"import sys, flaxvision.data; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
