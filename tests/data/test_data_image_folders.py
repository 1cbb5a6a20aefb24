"""Image folders as they lie on people's disks: split names, outer folders, depth, stray files, odd names."""

from __future__ import annotations

import io
import itertools
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxvision import data
from flaxvision.data._stamp import stamp
from flaxvision.errors import UserError

NUMBERS = itertools.count()


def png(value: int = 0, number: int | None = None) -> bytes:
    """An image whose first pixel is `value`, unlike every other one."""
    pixels = np.zeros((3, 4), np.uint8)
    pixels[1:].flat[:8] = np.frombuffer((next(NUMBERS) if number is None else number).to_bytes(8), np.uint8)
    pixels[0] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, *paths: str) -> str:
    """Write an image for each path, or as many as "cat*5" says; returns the name of the data set."""
    for path in paths:
        path, _, number = path.partition("*")
        for index in range(int(number or 1)):
            file = folder / (f"{path}/{index}.png" if number else path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png())
    return f"images:{folder}"


def counts(dataset: data.Dataset) -> dict[str, list[int]]:
    """Images of each class, by split."""
    return {split: np.bincount(x.labels, minlength=dataset.num_classes).tolist() for split, x in dataset.splits.items()}


def refuse(name: str, message: str, **options: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        data.load(name, **options)
    assert "\n" not in str(caught.value)


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAINING", "Validation", "Testing"),
        ("training_set", "dev_set", "test_set"),
        ("Training Data", "eval", "test-images"),
        ("trainset", "valset", "testset"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),  # as on Kaggle
        ("train2017", "val2017", "test2017"),
        ("archive/pets/train", "archive/pets/val", "archive/pets/test"),
        ("images/train", "images/val", "images/test"),
        ("train/images", "val/images", "test/images"),
    ],
)
def test_names_of_splits(tmp_path, train, validation, test):
    name = fill(tmp_path, f"{train}/a*3", f"{train}/b*2", f"{validation}/a*1", f"{validation}/b*2", f"{test}/b*4")
    found = data.load(name)
    assert found.classes == ("a", "b")
    assert counts(found) == {"train": [3, 2], "validation": [1, 2], "test": [0, 4]}
    assert dict(found.source.counts) == {"train": 5, "validation": 3, "test": 4}
    assert found.source.note == ""
    assert found.source.notes[-1] == "the test split has no examples of a"


@pytest.mark.parametrize("inner", ["{split}/{label}", "{label}/{split}"])
def test_without_a_validation_split(tmp_path, inner):
    paths = [inner.format(split=split, label=label) + "*2" for split in ("train", "test") for label in "ab"]
    found = data.load(fill(tmp_path, *paths))
    assert counts(found) == {"train": [2, 2], "test": [2, 2]}
    assert (found.source.note, found.source.notes) == ("", ())


def test_without_a_test_split(tmp_path):
    found = data.load(fill(tmp_path, "train/a*10", "train/b*5", "validation/a*3", "validation/b*3"))
    assert counts(found) == {"train": [8, 4], "validation": [3, 3], "test": [2, 1]}
    assert found.source.note == "test split: a random 20% of each class of train (seed 0)"


def test_a_validation_split_is_not_replaced(tmp_path):
    name = fill(tmp_path, "train/a*10", "train/b*5", "val/a*3", "val/b*3")
    refuse(name, "validation is 0.2: leave it out, .* has a validation split of its own", validation=0.2)
    assert counts(data.load(fill(tmp_path / "none", "a*10", "b*10"), validation=0.5))["train"] != [8, 8]


@pytest.mark.parametrize("outer", ["", "train/", "archive/dataset/"])
def test_without_splits(tmp_path, outer):
    found = data.load(fill(tmp_path, f"{outer}a*10", f"{outer}b*3"))
    assert counts(found) == {"train": [8, 2], "test": [2, 1]}
    assert found.source.note == "test split: a random 20% of each class (seed 0)"
    assert found.source.notes == (("the images are those of its folder archive/dataset",) if "archive" in outer else ())


def test_a_class_called_train(tmp_path):
    found = data.load(fill(tmp_path, "bus*5", "car*5", "train*5"))
    assert counts(found) == {"train": [4, 4, 4], "test": [1, 1, 1]}
    assert found.source.notes == ("the folder train is taken for a class, as bus, car beside it",)
    assert data.load(fill(tmp_path / "x", "test_tube*5", "train_station*5")).classes == ("test_tube", "train_station")


def test_folders_beside_the_splits(tmp_path):
    name = fill(tmp_path, "train/a*2", "train/b*2", "test/a*2", "test/b*2", "seg_pred*7", "unlabelled/deep/more*3")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.xml").write_text("<xml>")
    found = data.load(name)
    assert counts(found) == {"train": [2, 2], "test": [2, 2]}
    assert found.source.notes == (
        "left out: 10 images outside the splits, such as seg_pred/0.png",
        "left out: 1 file without an image, such as annotations/all.xml",
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("train/a*2", "train/b*2", "extra/a*2"), "has train beside extra: is train a split or a class"),
        (("train/a*2", "valid/a*2", "val/a*2"), "has val and valid for the validation split: keep one"),
        (("train/a*2", "Train/b*2"), "has Train and train for the train split: keep one"),
        (("val/a*2", "test/a*2"), "has test, val but no folder train"),
        (("test/a*2", "test/b*2"), "has test but no folder train"),
        (("train*2", "test*2"), "test has 2 images and no class folders: put those of a class into a folder of its"),
        (("train/a*2", "train/b*2", "test*9"), "test has 9 images and no class folders: .* or move test out of"),
        (("0.png", "1.png"), "has 2 images and no class folders: put those of a class into a folder of its name"),
        (("train/a*2", "test/a*2", "test/b*2"), "the test split has a class b that the train split does not have"),
        (("a/train*2", "a/test*2", "b*2"), "has test, train within a, b, beside other images"),
        (("a*1", "b*1"), "has 1 image a class and no folder test"),
    ],
)
def test_doubtful_folders(tmp_path, paths, message):
    refuse(fill(tmp_path, *paths), message)


# --- what lies there beside the images -------------------------------------------------------------------------------


def test_images_at_any_depth(tmp_path):
    name = fill(tmp_path, "a*2", "a/session 2*3", "a/2024/may/raw*4", "b/session1*5", "overview.png")
    found = data.load(name)
    assert sum(np.array(list(counts(found).values()))).tolist() == [9, 5]
    assert found.source.notes == ("left out: 1 image in no class folder, such as overview.png",)


def test_hidden_and_system_files_are_no_images(tmp_path):
    hidden = ("a/._0.png", "a/.thumb.png", ".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0.png", "@eaDir/0.png")
    name = fill(tmp_path, "a*5", "b*5", *hidden, "__MACOSX/a/0.png", "$RECYCLE.BIN/0.png")
    for path in ("a/.DS_Store", "b/Thumbs.db", "desktop.ini", "a/Icon\r"):
        (tmp_path / path).write_bytes(b"\0\5\26\7")
    found = data.load(name)
    assert found.classes == ("a", "b")
    assert counts(found) == {"train": [4, 4], "test": [1, 1]}
    assert found.source.notes == ()


def test_files_of_other_kinds_are_counted(tmp_path):
    name = fill(tmp_path, "a*5", "b*5")
    for path in ("a/label.pdf", "a/results.h5", "b/notes.txt", "b/scan.eps", "images.zip", "b/clip.mp4", "b/logo.svg"):
        (tmp_path / path).write_bytes(b"%PDF\x89HDF")
    (tmp_path / "a" / "raw.NEF").write_bytes(b"II*\0")
    assert data.load(name).source.notes == (
        "left out: 7 files without an image, such as a/label.pdf",
        "left out: 1 file of a camera's raw format (save as PNG or TIFF), such as a/raw.NEF",
    )


def test_images_are_told_by_their_content(tmp_path):
    """Suffixes that Pillow does not know, none, wrong ones: 10 images each, as on the disk."""
    for index, suffix in enumerate((".heic", "", ".png_", ".JPG_large", ".jpg", ".bin")):
        fill(tmp_path, *(f"class{index}/{number}{suffix}" for number in range(10)))
    found = data.load(f"images:{tmp_path}")
    assert counts(found) == {"train": [8] * 6, "test": [2] * 6}
    assert found.source.notes == ()


def test_images_that_need_a_plugin(tmp_path, monkeypatch):
    name = fill(tmp_path, "a*5", "b*5")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    (tmp_path / "b" / "IMG_1.HEIC").write_bytes(heic)
    note = "left out: 1 image in HEIC (pip install pillow-heif), such as b/IMG_1.HEIC"
    assert data.load(name).source.notes == (note,)
    for path in (tmp_path / "b").glob("*.png"):
        path.unlink()
    refuse(
        name, r"b has no images: .*passed over there: 1 file, such as .*IMG_1.HEIC, image in HEIC: pip install pillow-h"
    )


def test_a_class_without_images(tmp_path):
    name = fill(tmp_path, "cat*5", "fox*5")
    (tmp_path / "dog").mkdir()
    refuse(name, "dog has no images: fill it, or remove what is not a class$")
    (tmp_path / "owl").mkdir()
    (tmp_path / "dog" / "a.txt").write_text("dogs")
    refuse(
        name, r"dog, .*owl have no images: fill them, .*; passed over there: 1 file, such as .*a.txt, file without an"
    )
    split = fill(tmp_path / "split", "train/a*2", "train/b*2", "test/a*2")
    (tmp_path / "split" / "test" / "b").mkdir()
    refuse(split, "test/b has no images")
    (tmp_path / "split" / "Validation").mkdir()
    refuse(split, "Validation has no images: fill it, or move it out of")
    refuse(f"images:{tmp_path / 'dog'}", "dog has no images: put those of a class into .* passed over there: 1 file")


def test_a_class_that_a_split_lacks_is_said(tmp_path):
    name = fill(tmp_path, "train/a*2", "train/b*2", "test/a*2")
    found = data.load(name)
    assert counts(found) == {"train": [2, 2], "test": [2, 0]}
    assert found.source.notes == ("the test split has no examples of b",)


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "store", "cats*5", "dogs*5")
    pets = tmp_path / "pets"
    pets.mkdir()
    (pets / "cat").symlink_to(tmp_path / "store" / "cats")
    (pets / "dog").symlink_to(tmp_path / "store" / "dogs")
    (tmp_path / "store" / "cats" / "again").symlink_to(pets)
    found = data.load(f"images:{pets}")
    assert counts(found) == {"train": [4, 4], "test": [1, 1]}
    assert found.source.notes == ("left out: 1 link back to a folder around it, such as cat/again",)
    before = stamp(f"images:{pets}")
    assert stamp(f"images:{pets}") == before
    (tmp_path / "store" / "cats" / "0.png").write_bytes(png())
    assert stamp(f"images:{pets}") != before
    (pets / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    refuse(f"images:{pets}", r"1 of 11 files cannot be read as images, cat/gone.png \(no such file or directory\)")


def test_folders_and_links_are_part_of_the_state(tmp_path):
    """What without a copy would be an error is one beside a copy; what a link leads to counts under its name, too."""
    name = fill(tmp_path / "set", "train/a*2", "train/b*2")
    (tmp_path / "set" / "test").symlink_to("train")
    assert sum(counts(data.load(name))["test"]) == 4
    before = stamp(name)
    (tmp_path / "set" / "train" / "c").mkdir()
    assert stamp(name) != before
    refuse(name, "(train|test)/c has no images: fill it")
    (tmp_path / "set" / "train" / "c").rmdir()
    (tmp_path / "set" / "test").unlink()
    assert stamp(name) != before
    assert counts(data.load(name)) == {"train": [1, 1], "test": [1, 1]}


def test_links_that_lead_nowhere(tmp_path, monkeypatch):
    name = fill(tmp_path, "a*5", "b*5")
    (tmp_path / "a" / "self").symlink_to("self")
    found = data.load(name)
    assert found.source.notes == ("left out: 1 file without an image, such as a/self",)
    before = stamp(name)
    (tmp_path / "a" / "self").rename(tmp_path / "b" / "self")
    assert stamp(name) != before

    def forbidden(entry):
        raise PermissionError(13, "Permission denied", entry.path)

    monkeypatch.setattr("flaxvision.data.listing._kind", forbidden)
    refuse(name, f"cannot read the folder {tmp_path}/(a|b): Permission denied; give one that you can")
    with monkeypatch.context() as patch:
        patch.setattr("flaxvision.data._load.state_of", lambda paths: forbidden(type("Entry", (), {"path": paths[0]})))
        refuse(name, f"cannot read {tmp_path}: Permission denied; give yourself the right to")
    refuse("images:~nosuchuser/pets", "~nosuchuser/pets: no home folder is known for its first part")
    with pytest.raises(UserError, match="no home folder is known"):
        stamp("npz:~nosuchuser/pets")


def test_no_folder(tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"PK")
    refuse(f"images:{archive}", "pets.zip is a file: unpack it, and type images:FOLDER with the path of its folder")
    refuse(f"images:{tmp_path / 'pest'}", "there is no folder")
    refuse("images:", "there is no folder ''")
    refuse(f"images:{tmp_path}", r"has no images: put those of a class into a folder of its name; passed over there")


def test_images_that_are_in_train_too(tmp_path):
    name = fill(tmp_path, "train/a*3", "train/b*3", "val/a*2", "val/b*2", "test/a*2", "test/b*2")
    assert data.load(name).source.notes == ()
    (tmp_path / "test" / "b" / "copy.png").write_bytes((tmp_path / "train" / "a" / "0.png").read_bytes())
    note = "also in train: 1 image of the test split, such as test/b/copy.png"
    found = data.load(name)
    assert found.loading_notes == ("files have changed since they were prepared, and were prepared anew",)
    assert found.source.notes == (note,)
    again = data.load(name)
    assert (again.source.notes, again.loading_notes) == ((note,), ())


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        ([str(c) for c in range(12)], [str(c) for c in range(12)]),
        (["010", "9", "2"], ["2", "9", "010"]),
        (["0.5", "-1", "10"], ["-1", "0.5", "10"]),
        (["10", "9", "other"], ["10", "9", "other"]),  # the alphabet, unless all are numbers
        (["Zebra", "ant", "cat"], ["Zebra", "ant", "cat"]),
    ],
)
def test_order_of_classes(tmp_path, folders, classes):
    for number, label in enumerate(classes):
        for index in range(5):
            path = tmp_path / label / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(number))
    found = data.load(f"images:{tmp_path}")
    assert set(folders) == set(classes)
    assert found.classes == tuple(classes)
    for split in found.splits.values():
        assert np.array_equal(split.images[:, 0, 0, 0], split.labels)


def test_names_in_any_script(tmp_path):
    decomposed, composed = unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")
    name = fill(tmp_path, "train/猫*3", f"train/{decomposed}*3", "test/猫*2", f"test/{composed}*2")
    found = data.load(name)
    assert found.classes == (decomposed, "猫")
    assert counts(found) == {"train": [3, 3], "test": [2, 2]}


def test_names_that_are_no_utf8(tmp_path):
    fill(tmp_path, "tea*5")
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for index in range(5):
        with open(folder + b"/\xff%d.png" % index, "wb") as file:
            file.write(png())
    found = data.load(f"images:{tmp_path}")
    assert found.classes == ("caf\\xe9", "tea")
    assert counts(found) == {"train": [4, 4], "test": [1, 1]}
    for text in (*found.classes, *found.source.notes):
        text.encode()  # a report, a figure, an ONNX file
    with open(folder + b"/a\nb\xff.png", "wb") as file:
        file.write(b"no image")
    refuse(f"images:{tmp_path}", r"caf\\xe9/a\\nb\\xff.png \(text\)")


def test_letter_case_of_classes(tmp_path):
    found = data.load(fill(tmp_path / "two", "train/Cat*2", "train/dog*2", "test/cat*2", "test/DOG*2"))
    assert found.classes == ("Cat", "dog")
    assert counts(found) == {"train": [2, 2], "test": [2, 2]}
    assert found.source.notes == (
        "test: the folder DOG is taken for the class dog",
        "test: the folder cat is taken for the class Cat",
    )
    refuse(
        fill(tmp_path / "one", "Cat*5", "cat*5"), "has the classes Cat and cat: put their images into one folder, or"
    )
    twice = fill(tmp_path / "other", "train/cat*2", "test/cat*2", "test/CAT*2")
    refuse(twice, "the test split has cat twice, in two spellings")


def test_the_checksum_is_of_content_and_class(tmp_path):
    """Equal content in equal order is the same set, whatever the files are called; another class is not."""

    def checksum(first: str, second: str, name: str, value: int = 0, **options: object) -> str:
        folder = tmp_path / f"{first}{second}{name}{value}"
        for label in (first, second):
            for index in range(5):
                path = folder / label / f"{name}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(value if label == first else 9, index))
        return data.load(f"images:{folder}", **options).source.checksum

    same = checksum("a", "b", "x")
    assert same == checksum("a", "b", "y")
    assert same != checksum("a", "b", "x", 1)
    assert same != checksum("a", "c", "x")
    assert same != checksum("a", "b", "x", size=2)
    assert checksum("a", "b", "x", size=2) != checksum("a", "b", "x", size=2, fit="stretch")


def test_each_example_knows_its_file(tmp_path):
    """Also of a hold-out and a limit, and mixed."""
    dataset = data.load(fill(tmp_path, "train/a*9", "train/b*7", "test/a*3", "test/b*2"), limit=10).hold_out(0.3)
    assert list(map(len, dataset.splits.values())) == [7, 3, 5]
    for examples in dataset.splits.values():
        for number, image in enumerate(examples.images):
            with Image.open(tmp_path / examples.name(number)) as stored:
                np.testing.assert_array_equal(np.asarray(stored), image[..., 0])
    assert data.load("two_clusters", limit=3).test.name(2) == "#2"
