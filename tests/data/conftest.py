"""Files of the published formats that the tests write themselves, and the real ones where a machine has them."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.copies import RNG

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
REAL_RAW_DIR = os.environ.get("FLAXVISION_RAW_DIR", "")


class Files:
    """Writers of small files."""

    mnist = MNIST_FILES

    @staticmethod
    def idx(array: np.ndarray) -> bytes:
        """`array` in the IDX format."""
        return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()

    @staticmethod
    def write(path: Path, content: bytes) -> None:
        """Write `content`, compressed as the suffix says."""
        same = functools.partial(gzip.compress, mtime=0)  # bytes, whenever it is packed
        compress = {".gz": same, ".xz": lzma.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(compress(content))

    def idx_set(
        self,
        folder: Path,
        names: tuple[str, ...] = MNIST_FILES,
        counts: tuple[int, int] = (40, 20),
        labels: tuple[int, int] = (0, 10),
        suffix: str = ".gz",
        seed: int = 0,
    ) -> dict[str, np.ndarray]:
        """Write 28 x 28 images and labels of two splits under the four `names`; returns them by name."""
        rng = np.random.default_rng(seed)
        arrays = {}
        for images_name, labels_name, count in zip(names[::2], names[1::2], counts, strict=True):
            arrays[images_name] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
            arrays[labels_name] = rng.integers(*labels, size=count, dtype=np.uint8)
        for name, array in arrays.items():
            self.write(folder / (name + suffix), self.idx(array))
        return arrays


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names must not decide how a test ends."""
    monkeypatch.delenv("FLAXVISION_RAW_DIR", raising=False)


@pytest.fixture(scope="session")
def files() -> Files:
    """Writers of small files in the published formats."""
    return Files()


@pytest.fixture(scope="session")
def real_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """For a set's name, the folders to load the real one with; skips where FLAXVISION_RAW_DIR does not hold it."""
    data_dir = tmp_path_factory.mktemp("prepared")

    def folders(name: str) -> dict[str, str]:
        if not REAL_RAW_DIR or not (Path(REAL_RAW_DIR) / name).is_dir():
            pytest.skip(f"FLAXVISION_RAW_DIR has no {name}")
        return {"raw_dir": REAL_RAW_DIR, "data_dir": str(data_dir)}

    return folders


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of copies, empty."""
    monkeypatch.setenv("FLAXVISION_DATA_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def pets(tmp_path):
    """Images of two classes, no two alike, in training and validation, and some things that are said of them."""
    for split, number in (("train", 30), ("val", 7)):
        for label in "ab":
            (tmp_path / "pets" / split / label).mkdir(parents=True)
            for index in range(number):
                pixels = RNG.integers(256, size=(6, 5, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert("L" if index == 3 else "RGB")
                exif = Image.Exif()
                exif[0x0112] = 3 if index == 4 else 1
                image.save(tmp_path / "pets" / split / label / f"{index}.png", exif=exif)
    (tmp_path / "pets" / "notes.txt").write_text("stray")
    return tmp_path / "pets"
