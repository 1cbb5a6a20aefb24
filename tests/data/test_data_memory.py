"""What loading takes beside the examples themselves, and that rows which change places in one array are the same."""

from __future__ import annotations

import os
import tracemalloc

import jax
import numpy as np
import pytest
from PIL import Image

from flaxvision import _memory, data
from flaxvision._memory import reorder
from flaxvision.errors import UserError

SIDE = 96
IMAGES = 200
ALLOWED = 1.3  # times the examples


def write(folder, image, images, classes="ab", suffix="jpg"):
    """So many equal images of each class, links to one file."""
    first = folder.parent / f"{folder.name}.{suffix}"
    image.save(first)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for index in range(images // len(classes)):
            os.link(first, folder / label / f"{index}.{suffix}")


def traced(name, **options):
    """A data set and the most memory that its loading took."""
    tracemalloc.start()
    found = data.load(name, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, peak


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "all"
    write(folder, Image.new("RGB", (SIDE, SIDE), "red"), IMAGES)
    for index in range(10):
        (folder / "a" / f"x{index}.jpg").write_bytes((folder / "a" / "0.jpg").read_bytes()[:-200])
    data.load(f"images:{folder}", skip_damaged=True)  # Pillow's readers
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"validation": 0.2}, {"validation": 0.5}, {"limit": 100}, {"limit": 150, "validation": 0.4}, {"limit": 20}],
    ids=str,
)
def test_image_folders(photos, options):
    found, peak = traced(f"images:{photos}", skip_damaged=True, **options)
    assert peak < ALLOWED * IMAGES * SIDE * SIDE * 3
    for split in found.splits.values():  # JAX on a CPU trains on them where they are
        on_device = jax.device_put(split.images, jax.devices("cpu")[0])
        assert on_device.unsafe_buffer_pointer() == split.images.ctypes.data or options == {"limit": 20}


def test_small_images_are_many(tmp_path):
    write(tmp_path / "grey", Image.new("L", (28, 28), 9), 3000, suffix="png")
    found, peak = traced(f"images:{tmp_path / 'grey'}", validation=0.1)
    assert sum(map(len, found.splits.values())) == 3000
    assert peak < 1.4 * 3000 * 28 * 28  # threads and Pillow take the same for few images and for many


def test_a_few_of_many_do_not_keep_the_memory_of_all(photos):
    few = data.load(f"images:{photos}", skip_damaged=True, limit=20)
    assert few.train.images.base is None or few.train.images.base.nbytes < 40 * SIDE * SIDE * 3


@pytest.mark.parametrize(
    "x",
    [
        np.arange(2_000_000, dtype=np.uint32).view(np.uint8).reshape(2000, 50, 40, 2)[..., :1].copy(),
        np.arange(2_000_000, dtype=np.float32).reshape(20_000, 100),
        np.arange(4_000_000, dtype=np.float32).reshape(1_000_000, 4),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}",
)
def test_npz_archives_sorted_by_class(tmp_path, x):
    y = (np.arange(len(x)) * 4 // len(x)).astype(np.uint8)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "test.npz", x=x[::20], y=y[::20])
    found, peak = traced(f"npz:{tmp_path}", validation=0.3)
    labels = 12 * len(y) * 1.05 + 8 * 4 * len(y)  # and orders, which are more than points of few numbers
    assert peak < ALLOWED * x.nbytes * 1.05 + labels
    copied = data.load(f"npz:{tmp_path}").hold_out(0.3)
    for split, same in zip(found.splits.values(), copied.splits.values(), strict=True):
        np.testing.assert_array_equal(split.images, same.images)
        np.testing.assert_array_equal(split.labels, same.labels)


@pytest.mark.parametrize("options", [{"limit": 150}, {"validation": 0.5}, {"limit": 90, "validation": 0.4}], ids=str)
def test_in_place_and_copied_splits_are_equal(tmp_path, options):
    rng = np.random.default_rng(0)
    for split, number in (("train", 200), ("test", 100)):
        np.savez(
            tmp_path / split,
            images=rng.integers(256, size=(number, 5, 3), dtype=np.uint8),
            y=rng.integers(3, size=number),
        )
    whole = data.load(f"npz:{tmp_path}")
    kept = whole.train.images.copy()
    copied = whole.limit(options.get("limit")).hold_out(options.get("validation"))
    np.testing.assert_array_equal(whole.train.images, kept)
    for name, split in data.load(f"npz:{tmp_path}", **options).splits.items():
        np.testing.assert_array_equal(split.images, copied.splits[name].images)
        np.testing.assert_array_equal(split.labels, copied.splits[name].labels)


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (50, 3), (40, 5, 7, 3), (9, 200)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_reorder(shape, dtype):
    rng = np.random.default_rng(0)
    array = rng.integers(256, size=shape).astype(dtype)
    for number in (shape[0], shape[0] // 2, 1):
        order = rng.permutation(shape[0])[:number]
        given = array.copy()
        found = reorder(given, order)
        np.testing.assert_array_equal(found, array[order])
        assert np.shares_memory(found, given) or not number


def test_more_than_there_is_memory_for_is_one_line(monkeypatch):
    """Linux would give it, and kill the process where it is filled."""
    monkeypatch.setattr(_memory, "free_memory", lambda: 2.0**30)
    _memory.empty((2**9, 2**10, 2**10))
    with pytest.raises(
        UserError, match=r"1\.5 GB of examples have no room in the 1\.0 GB of memory that are free: give"
    ):
        _memory.empty((3 * 2**9, 2**10, 2**10))
