"""Arrays as people have them: taken where there is one reading, else a line that says what to write."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flaxvision import data
from flaxvision.data import examples
from flaxvision.errors import UserError

IMAGES = np.random.default_rng(0).integers(1, 256, (12, 5, 4, 3), dtype=np.uint8)
IMAGES[0, 0, 0] = 255
LABELS = np.arange(12) % 3


def made(x=IMAGES, y=LABELS, **more):
    return data.from_arrays(x, y, x, y, **more)


TAKEN = {  # what is given, and the note
    "int64": (IMAGES.astype(np.int64), "train: int64 images became uint8"),
    "uint16 of 8 bits": (IMAGES.astype(np.uint16), "uint16 images became uint8"),
    "float 0 to 255": (IMAGES.astype(np.float32), "float32 images became uint8"),
    "float 0 to 1": ((IMAGES / 255).astype(np.float32), "float32 images from 0 to 1 were multiplied by 255"),
    "float16 0 to 1": ((IMAGES / 255), "float64 images from 0 to 1 were multiplied by 255"),
    "a list of lists": (IMAGES.tolist(), "int64 images became uint8"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_pixels_that_can_be_read_only_one_way(case):
    x, note = TAKEN[case]
    dataset = made(x)
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    assert any(note in line for line in dataset.source.notes)


def test_tensors(torch):
    dataset = made(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    np.testing.assert_array_equal(dataset.test.images, IMAGES)
    assert dataset.source.notes == ()


REFUSED = {
    "bool": (IMAGES > 127, r"images are bool: write x.astype\('uint8'\) \* 255"),
    "int8": (IMAGES.astype(np.int8), "images are int8, in which pixels above 127 are negative"),
    "16 bits": (
        IMAGES.astype(np.uint16) * 257,
        r"allowed are pixels 0 to 255 \(of 16 bits: \(x // 257",
    ),
    "-1 to 1": (IMAGES / 127.5 - 1, r"seem scaled: .*np.rint\(\(x \+ 1\) \* 127.5\)"),
    "normalised": ((IMAGES - 120.0) / 70, "seem scaled: give the pixels"),
    "float 0 to 1, no 255ths": (IMAGES / 300 + 0.001, r"no 255ths: write np.rint\(x \* 255\)"),
    "broken pixels": (IMAGES + 0.5 - (IMAGES == 255), r"no whole numbers: write np.rint\(x\)"),
    "NaN": (np.where(IMAGES == 255, np.nan, IMAGES), "values that are not finite"),
    "channels first": (np.zeros((12, 3, 5, 6), np.uint8), r"channels first: write x.transpose\(0, 2, 3, 1\)"),
    "complex": (IMAGES.astype(complex), "examples are complex128"),
    "text": (IMAGES.astype(str), "give numbers, such as uint8 images"),
    "unequal rows": ([[1, 2], [3]], "examples are not an array"),
    "rows of pixels": (
        np.repeat(IMAGES.reshape(12, 60), 2, 1)[:, :64],
        r"x.reshape\(-1, 8, 8\)",
    ),
    "rows of float pixels": (np.ones((12, 784)) * 255, r"look like flattened images: write x.reshape\(-1, 28, 28\)"),
    "rows of coloured float pixels": (np.ones((12, 3072)) * 255, r"x.reshape\(-1, 32, 32, 3\)"),
    "one image": (IMAGES[0, ..., 0], r"examples are uint8 \(5, 4\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pixels_that_are_doubtful_or_none(case):
    x, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as caught:
        made(x, LABELS[: len(x)])
    assert "\n" not in str(caught.value)


NAMES = np.array(["dog", "cat", "fox"])
READ = {  # labels, the classes, and the note
    "(N, 1)": (LABELS[:, None], "012", "labels (N, 1) were taken as (N,)"),
    "one-hot": (np.eye(3)[LABELS], "012", "one-hot labels (3,) were taken by their 1"),
    "one-hot bool": (np.eye(3, dtype=bool)[LABELS], "012", "one-hot labels"),
    "whole floats": (LABELS.astype(np.float32), "012", None),
    "bool": (LABELS == 1, "01", "labels False and True were taken as 0 and 1"),
    "uint64": (LABELS.astype(np.uint64), "012", None),
}


@pytest.mark.parametrize("case", READ)
def test_labels_as_other_libraries_give_them(case):
    y, classes, note = READ[case]
    dataset = made(y=y)
    wanted = LABELS == 1 if case == "bool" else LABELS
    np.testing.assert_array_equal(dataset.train.labels, wanted)
    assert dataset.classes == tuple(classes)
    assert (note is None) or any(note in line for line in dataset.source.notes)


TEXT = {  # what is given, and the classes and the note
    "spaces": (["cat", "cat ", " dog"], ["cat", "dog"], "accents in one way: ' dog' for 'dog', 'cat ' for 'cat'"),
    "line ends": (["cat\r", "cat\n", "dog"], ["cat", "dog"], "without spaces"),
    "accents": (["caf\u00e9", "cafe\u0301", "bar"], ["bar", "caf\u00e9"], "accents in one way"),
    "bytes": ([b"cat ", b"cat", b"dog"], ["cat", "dog"], "without spaces"),
    "inner spaces": (["a cat", "a cat", "a  cat"], ["a  cat", "a cat"], None),
    "characters": ([" ", "b", "B"], [" ", "B", "b"], None),
    "case": (["Cat", "cat", "dog"], ["Cat", "cat", "dog"], "classes that differ by case only: 'Cat' and 'cat'"),
    "objects": (np.array([0, 1, 2], object), ["0", "1", "2"], None),
}


@pytest.mark.parametrize("case", TEXT)
def test_spellings_of_class_names(case):
    y, classes, note = TEXT[case]
    dataset = made(y=list(y) * 4 if isinstance(y, list) else np.tile(y, 4))
    assert dataset.classes == tuple(classes)
    assert any(note in line for line in dataset.source.notes) if note else not dataset.source.notes
    assert set(dataset.train.labels.tolist()) == set(range(len(classes)))


def test_class_names_that_are_given_are_spelt_alike():
    assert made(y=["cat ", "dog", "fox"] * 4, classes=["fox ", "dog", "cat"]).train.labels[:3].tolist() == [2, 1, 0]
    with pytest.raises(UserError, match="two classes are called 'cat'"):
        made(classes=["cat", "cat ", "dog"])


def test_text_of_any_length():
    labels = np.array(["cat", "dog", "fox"] * 4, np.dtypes.StringDType())
    assert made(y=labels).classes == ("cat", "dog", "fox")


SHAPES = {  # of images, and what is said of them
    (
        12,
        3,
        32,
        4,
    ): r"images \(12, 3, 32, 4\) were read as 32 x 3 pixels of 4 channels; if channels come first, write x.t",
    (12, 2, 8, 8): r"of 8 channels, not 1, 3 or 4; if channels come first, write x.transpose",
    (12, 12, 9, 16): r"read as 9 x 12 pixels of 16 channels, not 1, 3 or 4; if channels come first",
    (12, 6, 5, 2): r"images \(12, 6, 5, 2\) were read as 5 x 6 pixels of 2 channels, not 1, 3 or 4$",
    (12, 9, 9, 12): r"9 x 9 pixels of 12 channels, not 1, 3 or 4$",
    (12, 4, 3, 3): None,
    (12, 1, 28, 1): None,
    (12, 3, 3, 3): None,
    (12, 28, 28): None,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_unusual_shapes_are_said(shape):
    said = made(np.full(shape, 255, np.uint8)).source.notes
    assert (SHAPES[shape] is None) == (not said)
    assert all(re.search(SHAPES[shape], line) for line in said)


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_are_converted_a_part_at_a_time(monkeypatch, scale):
    monkeypatch.setattr(examples, "_CHUNK", 8 * 60 * 5)  # five images
    x = (IMAGES / scale).astype(np.float32)
    np.testing.assert_array_equal(made(x).train.images, IMAGES)
    x[-1, 0, 0, 0] += 0.4 / scale
    x.flat[0] = 255 / scale
    with pytest.raises(UserError, match="no 255ths" if scale == 255 else "no whole numbers"):
        made(x)


@pytest.mark.parametrize("kind", [str, object, np.bytes_])
def test_class_names_as_labels(kind):
    dataset = made(y=NAMES[LABELS].astype(kind))
    assert dataset.classes == ("cat", "dog", "fox")
    assert [dataset.classes[k] for k in dataset.train.labels] == NAMES[LABELS].tolist()
    assert made(y=NAMES[LABELS], classes=["fox", "dog", "cat"]).train.labels[:3].tolist() == [1, 2, 0]


def test_class_names_that_are_numbers_sort_as_numbers():
    dataset = made(np.repeat(IMAGES, 1, 0), np.array(["10", "2", "1"])[LABELS])
    assert dataset.classes == ("1", "2", "10")
    assert dataset.train.labels[:3].tolist() == [2, 1, 0]


def test_points_of_whole_numbers():
    points = np.arange(24).reshape(12, 2)
    dataset = made(points)
    np.testing.assert_array_equal(dataset.train.images, points.astype(np.float32))
    assert "train: int64 points became float32" in dataset.source.notes


WRONG = {
    "-1 and 1": (2 * (LABELS > 0) - 1, r"labels are -1 and 1: write \(labels \+ 1\) // 2"),
    "from 1": (LABELS + 1, "labels are 1 to 3, none is 0: write labels - 1, or give from_arrays 4"),
    "from 1 to many": (np.arange(12) + 1, "labels are 1 to 12, none is 0"),
    "ids with gaps": (
        np.array([1, 7, 20001])[LABELS],
        "3 numbers from 1 to 20001, with gaps: number them",
    ),
    "ids beyond memory": (np.array([0, 1, 2**40])[LABELS], "with gaps"),
    "a gap": (np.array([0, 1, 3])[LABELS], "3 numbers from 0 to 3, with gaps"),
    "soft": (np.full((12, 3), 1 / 3), "not one-hot"),
    "several a row": (np.ones((12, 3), int), "not one-hot"),
    "halves": (LABELS / 2, "labels are float64"),
    "NaN": (np.where(LABELS == 1, np.nan, LABELS), "labels are float64"),
    "objects": (np.array([None] * 12), "labels are NoneType"),
    "too large": (np.full(12, 2**64 - 1, np.uint64), "is too large"),
    "too large a float": (LABELS * 1e20, r"label 2e\+20 is too large"),
    "too small a float": (LABELS * -1e300, r"label -2e\+300 is too large"),
    "2 to the 63": (LABELS * 2.0**62, "is too large"),
    "far too large": ([10**30] * 12, "labels are object"),
    "numbers and text": ([1, "a"] * 6, r"labels are int \(1\) and text \('a'\): give whole numbers alone"),
    "numbers in text": (["a", "b", 2.5] * 4, r"text \('a'\) and float \(2.5\)"),
    "missing": (np.array(["a", None, "b"] * 4, object), r"text \('a'\) and NoneType \(None\)"),
    "not a number": (np.array(["a", np.nan, "b"] * 4, object), r"text \('a'\) and float \(nan\)"),
    "mixed rows": ([["a"], [1]] * 6, r"text \('a'\) and int \(1\)"),
    "no name": (["a", "", "b"] * 4, "label '' at index 1 is not a class name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_are_doubtful_or_none(case):
    y, words = WRONG[case]
    with pytest.raises(UserError, match=words) as caught:
        made(y=y)
    assert "\n" not in str(caught.value)


def test_one_hot_labels_tell_of_classes_without_examples():
    for numbers, absent in ((LABELS, "3, 4"), (LABELS * 2, "1, 3")):
        dataset = made(y=np.eye(5)[numbers])
        assert dataset.classes == tuple("01234")
        np.testing.assert_array_equal(dataset.train.labels, numbers)
        assert f"the train split has no examples of {absent}" in dataset.source.notes
    with pytest.raises(UserError, match="one-hot labels have 3 and 5 columns: give as many"):
        data.from_arrays(IMAGES, np.eye(5)[LABELS], IMAGES, np.eye(3)[LABELS])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_images_of_zeros_and_ones_are_said_to_be_dark(dtype):
    notes = made((IMAGES > 127).astype(dtype)).source.notes
    assert "train: images have no value above 1 of 255: for black and white write x * 255" in notes
    assert made(np.zeros_like(IMAGES)).source.notes == ()


def test_masked_values_and_two_classes_of_one_name():
    with pytest.raises(UserError, match=r"values are masked: write array.filled\(…\)"):
        made(np.ma.masked_greater(IMAGES, 200))
    with pytest.raises(UserError, match="4 values are masked"):
        made(y=np.ma.masked_equal(LABELS, 2))
    with pytest.raises(UserError, match="two classes are called 'a': give each a name of its own"):
        made(classes=["a", "a", "b"])


def test_splits_of_unlike_labels():
    with pytest.raises(UserError, match="some splits have class names for labels, others numbers"):
        data.from_arrays(IMAGES, NAMES[LABELS], IMAGES, LABELS)
    with pytest.raises(UserError, match="label 'owl' is none of the classes dog, cat, fox"):
        data.from_arrays(IMAGES, NAMES[LABELS], IMAGES, np.array(["owl"] * 12), classes=NAMES)


def test_a_class_of_one_split_only_is_said():
    dataset = data.from_arrays(IMAGES, LABELS, IMAGES[:8], np.arange(8) % 4)
    assert "the train split has no examples of 3" in dataset.source.notes
    dataset = data.from_arrays(IMAGES, LABELS, IMAGES[:2], LABELS[:2], classes=["a", "b", "c", "d"])
    assert "the test split has no examples of c, d" in dataset.source.notes


# --- npz -------------------------------------------------------------------------------------------------------------


def save(path, x="samples", y="annotations", count=12, offset=0, **more):
    np.savez(path, **{x: IMAGES[:count] - offset, y: LABELS[:count]}, **more)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("images", "image_labels"),
        ("train_images", "train_image_labels"),
        ("sample", "sample_class"),
        ("X", "label"),
        ("x_data", "y_data"),
        ("trainImages", "trainLabels"),
        ("data", "data_targets"),
        ("label_image", "label"),
        ("img", "target"),
    ],
)
def test_names_in_archives(tmp_path, x, y):
    for split in ("train", "test"):
        np.savez(tmp_path / split, **{y.replace("train", split): LABELS, x.replace("train", split): IMAGES})
    found = data.load(f"npz:{tmp_path}")
    np.testing.assert_array_equal(found.train.images, IMAGES)
    np.testing.assert_array_equal(found.test.labels, LABELS)


@pytest.mark.parametrize("name", ["valid", "val", "Validation", "DEV"])
def test_a_validation_archive_is_the_validation_split_beside_a_test(name, tmp_path):
    for number, (stem, count) in enumerate({"Train": 12, name: 6, "test": 9}.items()):
        save(tmp_path / f"{stem}.npz", count=count, offset=number)
    dataset = data.load(f"npz:{tmp_path}")
    assert {split: len(x) for split, x in dataset.splits.items()} == {"train": 12, "validation": 6, "test": 9}
    np.testing.assert_array_equal(dataset.validation.images, IMAGES[:6] - 1)
    assert dataset.source.note == ""


def test_a_validation_archive_alone_is_the_test_split_and_said(tmp_path):
    save(tmp_path / "train.npz")
    save(tmp_path / "valid.npz", count=6)
    save(tmp_path / "embeddings.npz")
    dataset = data.load(f"npz:{tmp_path}")
    assert len(dataset.test) == 6
    assert dataset.source.note == "test split: the validation archive, since there is no other"
    assert "left out: 1 other archives, such as embeddings.npz" in dataset.source.notes


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_one_archive_with_all_splits(names, tmp_path):
    np.savez(tmp_path / "mnist.npz", **dict(zip(names, [IMAGES, LABELS, IMAGES[:6], LABELS[:6]], strict=True)), path=1)
    for place in (tmp_path, tmp_path / "mnist.npz"):
        dataset = data.load(f"npz:{place}")
        assert [len(x) for x in dataset.splits.values()] == [12, 6]
        assert "left out of mnist.npz: path" in dataset.source.notes


@pytest.mark.parametrize(("x", "y"), [("images", "labels"), ("X", "y"), ("data", "target"), ("arr_0", "arr_1")])
def test_other_names_of_arrays(x, y, tmp_path):
    for split in ("train", "test"):
        save(tmp_path / f"{split}.npz", x, y)
    np.testing.assert_array_equal(data.load(f"npz:{tmp_path}").train.images, IMAGES)


def test_an_archive_without_splits(tmp_path):
    save(tmp_path / "all.npz", "x", "y")
    with pytest.raises(
        UserError, match=r"all.npz names no split, it has x, y: save train.npz and test.npz, or x_train"
    ):
        data.load(f"npz:{tmp_path}")


def test_archives_that_are_no_set(tmp_path):
    save(tmp_path / "train.npz")
    with pytest.raises(UserError, match=r"there is no test split in .*npz:FOLDER needs train.npz and valid.npz"):
        data.load(f"npz:{tmp_path}")
    save(tmp_path / "test.npz")
    save(tmp_path / "testing.npz")
    with pytest.raises(UserError, match="has the test split twice: keep one"):
        data.load(f"npz:{tmp_path}")
    for path in tmp_path.glob("*.npz"):
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(UserError, match=r"there is no train.npz in .*, which has xtest.npz, xtesting.npz"):
        data.load(f"npz:{tmp_path}")


@pytest.mark.parametrize(
    "classes", [{"a", "b", "c"}, 3, [], {1: "a", 2: "b", 3: "c"}], ids=["set", "number", "empty", "gaps"]
)
def test_classes_in_no_order(classes):
    with pytest.raises(UserError, match="give the names in the order of their numbers"):
        made(classes=classes)


def test_classes_by_number():
    assert made(classes={2: "c", 0: "a", 1: "b"}).classes == ("a", "b", "c")


def test_splits_of_unlike_ranges():
    with pytest.raises(UserError, match="pixels of the splits have different ranges, train 0 to 255, test 0 to 1"):
        data.from_arrays(IMAGES, LABELS, IMAGES / 255, LABELS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 2.5}, "limit is 2.5: give 1 or more, a whole number"),
        ({"limit": "5"}, "limit is '5': give 1 or more"),
        ({"validation": "0.2"}, "validation is '0.2': give a fraction"),
        ({"validation": 0.2, "validation_seed": 0.5}, "validation_seed is 0.5: give 0 or more"),
        ({"validation": 0.001}, "leaves a split empty: give a fraction from 0.0083 to 0.99"),
    ],
)
def test_options_of_another_type(options, words):
    with pytest.raises(UserError, match=words):
        data.load("glyphs", **{"examples": 120, **options})


def test_an_array_that_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(UserError, match="holds one array: give an archive with samples and annotations"):
        data.load(f"npz:{tmp_path / 'a.npy'}")
