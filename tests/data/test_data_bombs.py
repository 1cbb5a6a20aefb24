"""Small files that unpack to gigabytes are refused before they do; sound ones of any size can be read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from flaxvision.data import load, raw, svhn
from flaxvision.data._load import located
from flaxvision.data.idx import unpack_npz
from flaxvision.data.published import PUBLISHED
from flaxvision.errors import UserError
from flaxvision.sweep import load_spec

REFUSED = (
    "unpacks to more than .* MB, as a damaged or hostile file does: if yours is sound, set .*FLAXVISION_UNPACKED_GB"
)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_compressed_files(tmp_path, monkeypatch, pack):
    (tmp_path / "a").write_bytes(pack(bytes(3 * 2**20)))
    assert raw.read(tmp_path / "a", 3 * 2**20) == bytes(3 * 2**20)
    with pytest.raises(UserError, match=REFUSED):
        raw.read(tmp_path / "a", 3 * 2**20 - 1)
    monkeypatch.setenv(raw.UNPACKED, "0.01")
    assert len(raw.read(tmp_path / "a", 1)) == 3 * 2**20
    monkeypatch.setenv(raw.UNPACKED, "much")
    with pytest.raises(UserError, match="FLAXVISION_UNPACKED_GB is 'much': give a number of gigabytes, such as 8"):
        raw.read(tmp_path / "a")


def test_published_files_have_a_known_size(tmp_path):
    """Four times the published images are read, as for larger sets of the same form."""
    mnist = PUBLISHED["mnist"]
    assert 47_040_016 * 4 < mnist.most_bytes < 47_040_016 * 5
    assert all(len(published.classes) and published.most_bytes < 2.5e9 for published in PUBLISHED.values())
    name = mnist.file_names[0]
    content = gzip.compress(bytes(mnist.most_bytes + 1), 1)
    for each in mnist.file_names:
        (tmp_path / f"{each}.gz").write_bytes(content if each == name else gzip.compress(b""))
    with pytest.raises(UserError, match=f"{name}.gz {REFUSED}"):
        located(mnist, tmp_path).contents()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives(tmp_path, kind, monkeypatch):
    """A member that is not wanted counts too where its end must be reached."""
    mnist, path = PUBLISHED["mnist"], tmp_path / f"mnist.{kind}"
    monkeypatch.setattr(type(mnist), "most_bytes", 1000)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(mnist.file_names[0], bytes(10**5))
    else:
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo("other")
            info.size = 10**5
            archive.addfile(info, io.BytesIO(bytes(10**5)))
    with pytest.raises(UserError, match=REFUSED):
        located(mnist, tmp_path).contents()


def test_npz(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "SMALL", 1000)
    examples = np.zeros((1000, 8, 8), np.uint8)
    labels = np.arange(1000) % 2
    np.savez_compressed(tmp_path / "a.npz", x_train=examples, y_train=labels, x_test=examples, y_test=labels)
    with pytest.raises(UserError, match=REFUSED):
        load(f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(UserError, match=REFUSED):
        unpack_npz({"mnist.npz": (tmp_path / "a.npz").read_bytes()})
    monkeypatch.setenv(raw.UNPACKED, "1")
    assert len(load(f"npz:{tmp_path / 'a.npz'}").train) == 1000


def test_matlab(tmp_path, monkeypatch):
    """Of SVHN's format: a compressed variable, and cells, of which an empty file may claim any number."""
    monkeypatch.setattr(svhn, "SMALL", 1000)
    made = {"X": np.zeros((32, 32, 3, 200), np.uint8), "y": np.ones((200, 1), np.uint8)}
    with io.BytesIO() as file:
        savemat(file, made, do_compression=True)
        packed = file.getvalue()
    with pytest.raises(UserError, match=f"a.mat {REFUSED}"):
        svhn.parse_svhn(packed, "a.mat")
    monkeypatch.setenv(raw.UNPACKED, "1")
    assert svhn.parse_svhn(packed, "a.mat")[0].shape == (200, 32, 32, 3)

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)

    cells = element(6, struct.pack("<2I", 1, 0)) + element(5, struct.pack("<2i", 2**14, 2**14)) + element(1, b"X")
    content = b"MATLAB 5.0".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + element(14, cells)
    with pytest.raises(UserError, match=r"a.mat is not a MATLAB file of X and y \(X is no array of numbers\)"):
        svhn.parse_svhn(content, "a.mat")


@pytest.mark.parametrize("content", [b"# " + b"x" * 10**6, b"x = 1\n" * 200_000])
def test_a_spec_of_megabytes_is_none(tmp_path, content):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(UserError, match="has more than 1,000,000 bytes: give a sweep's TOML file"):
        load_spec(tmp_path / "a.toml")
    (tmp_path / "b.toml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="has more than 1,000,000 bytes"):
        load_spec(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"seeds = {list(range(10_001))}", "seeds is a list of 10,001: give 10,000 of them at most"),
        (
            f"[recipe]\nbatch_size = 0x{'f' * 5000}",
            "batch_size is a number of 20,000 bits: give one of 64 bits at most",
        ),
        (f"[grid]\nbatch_size = [0x{'f' * 5000}]", "batch_size is a number of 20,000 bits"),
        (
            f"[grid]\nbatch_size = [{{ name = 'a', batch_size = 0x{'f' * 5000} }}]",
            "batch_size is a number of 20,000 bits",
        ),
    ],
)
def test_numbers_without_measure(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(f'dataset = "glyphs"\nmodel = "linear"\n{text}\n')
    with pytest.raises(UserError, match=message):
        load_spec(tmp_path / "a.toml")
