"""The user's own data: arrays and npz folders."""

from __future__ import annotations

import numpy as np
import pytest

from flaxvision import data
from flaxvision.errors import UserError

IMAGES = np.random.default_rng(0).integers(256, size=(6, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64])
def test_images_and_labels_of_any_whole_type(dtype):
    arrays = data.from_arrays(IMAGES, LABELS.astype(dtype), IMAGES[:2], LABELS[:2].astype(dtype))
    assert arrays.train.images.shape == (6, 5, 4, 1)
    assert arrays.train.labels.dtype == np.int32
    assert arrays.classes == ("0", "1", "2")
    assert (arrays.name, arrays.source.kind, arrays.source.official) == ("arrays", "arrays", None)
    assert len(arrays.source.checksum) == 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points(dtype):
    points = np.linspace(-1, 1, 12).reshape(6, 2).astype(dtype)
    arrays = data.from_arrays(points, LABELS, points, LABELS, classes=["a", "b", "c"], name="mine")
    assert arrays.train.images.dtype == np.float32
    assert arrays.classes == ("a", "b", "c")
    assert arrays.name == "mine"


def test_checksum_knows_every_value():
    def checksum(images, labels):
        return data.from_arrays(images, labels, IMAGES, LABELS).source.checksum

    assert checksum(IMAGES, LABELS) == checksum(IMAGES.copy(), LABELS.astype(np.uint8))
    assert checksum(IMAGES, LABELS) != checksum(IMAGES ^ 1, LABELS)
    assert checksum(IMAGES, LABELS) != checksum(IMAGES, LABELS[::-1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS[:5], "arrays: train: 6 examples but 5 labels"),
        (IMAGES, LABELS - 1, "arrays: train: label -1 at index 0"),
        (IMAGES, LABELS + 1, "arrays: train: label 3 at index 2 is outside the 3 classes: labels are 0 to 2"),
        (IMAGES, LABELS + 2**40, "label 1099511627776 at index 0"),
        (IMAGES, LABELS + 0.5, "labels are float64"),
        (IMAGES, np.stack([LABELS, LABELS], 1), r"labels are int64 \(6, 2\) and not one-hot"),
        (IMAGES, list("abcabd"), "label 'd' is none of the classes a, b, c|some splits have class names"),
        (IMAGES[0], LABELS[:5], r"examples are uint8 \(5, 4\)"),
        (np.full((6, 2), np.nan), LABELS, "not finite"),
        (np.full((6, 2), 1e300), LABELS, "not finite"),
        (IMAGES[:0], LABELS[:0], "there are no examples"),
        (IMAGES[:, :4], LABELS, r"train examples are \(4, 4, 1\) but test examples \(5, 4, 1\)"),
    ],
)
def test_array_errors(images, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        data.from_arrays(images, labels, IMAGES, LABELS, classes="abc")
    assert "\n" not in str(caught.value)


# --- npz -------------------------------------------------------------------------------------------------------------

POINTS = {"samples": np.arange(12.0).reshape(6, 2), "annotations": LABELS}


def _npz(folder, train=POINTS, valid=POINTS):
    np.savez(folder / "train.npz", **train)
    np.savez_compressed(folder / "valid.npz", **valid)
    return f"npz:{folder}"


def test_npz(tmp_path):
    points = data.load(_npz(tmp_path, valid={"samples": np.ones((2, 2)), "annotations": np.array([0.0, 2.0])}))
    assert points.source.counts == (("train", 6), ("test", 2))
    assert points.source.kind == "folder"
    assert np.array_equal(points.train.images, POINTS["samples"])
    assert points.test.labels.tolist() == [0, 2]
    images = data.load(_npz(tmp_path, *[{"samples": IMAGES, "annotations": LABELS}] * 2))
    assert images.input_shape == (5, 4, 1)
    assert images.source.checksum != points.source.checksum


def test_whole_numbers_in_archives_are_taken_as_in_arrays(tmp_path):
    """Points on a grid, with a word; flattened images are refused."""
    grid = {"samples": np.array([[1, 2], [300, 4], [5, 6]]), "annotations": [0, 1, 2]}
    points = data.load(_npz(tmp_path, grid, grid))
    assert points.train.images.tolist() == [[1, 2], [300, 4], [5, 6]]
    assert "train: int64 points became float32" in points.source.notes
    flat = {"samples": np.eye(64, dtype=np.uint8), "annotations": np.arange(64) % 3}
    with pytest.raises(UserError, match=r"train.npz: examples are uint8 \(64, 64\): .* by x.reshape\(-1, 8, 8\)"):
        data.load(_npz(tmp_path, flat, flat))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"samples": POINTS["samples"]}, "valid.npz has no annotations: it has samples"),
        ({}, "valid.npz has no samples and no annotations: it has nothing"),
        ({**POINTS, "samples": np.array([{}] * 6)}, "valid.npz cannot be read as plain NumPy arrays without pickled"),
        ({**POINTS, "samples": np.zeros((6, 2, 3))}, r"train examples are \(2,\) but test examples \(2, 3, 1\)"),
        ({**POINTS, "annotations": LABELS[:4]}, "valid.npz: 6 examples but 4 labels"),
        ({**POINTS, "annotations": LABELS / 2}, "valid.npz: labels are float64"),
        ({**POINTS, "annotations": LABELS - 1}, "valid.npz: label -1"),
    ],
)
def test_npz_errors(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        data.load(_npz(tmp_path, valid=content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:100], lambda content: b"", lambda content: b"hello", lambda content: content[::-1]],
)
def test_damaged_npz(tmp_path, damage):
    name = _npz(tmp_path)
    path = tmp_path / "valid.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"valid.npz cannot be read"):
        data.load(name)
    path.unlink()
    with pytest.raises(UserError, match=r"there is no test split in .*: npz:FOLDER needs train.npz and valid.npz"):
        data.load(name)
    with pytest.raises(UserError, match="there is no folder ''"):
        data.load("npz:")
