"""A run's winner at work in the shell: on files, on folders, on its own data; runs listed, shown, removed."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import flaxvision as fv
from flaxvision.cli.evaluate import _numbers, _trained_on
from flaxvision.cli.main import main
from flaxvision.cli.runs import size_text
from flaxvision.cli.winner import Winner
from flaxvision.errors import UserError

pytestmark = pytest.mark.quick


@pytest.fixture
def pictures(author, received):
    """The test images as files: FOLDER/CLASS/NUMBER.png."""
    test = author.data.test
    for number, (image, label) in enumerate(zip(test.images, test.labels, strict=True)):
        path = received.parent / "pictures" / str(label) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return received.parent / "pictures"


def test_files_are_classified(author, received, pictures, capsys):
    assert main(["predict", str(received), str(pictures), "--csv"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    scores = fv.predict(fv.load_model(received), author.data.test.images)
    assert len(rows) == 60
    for row in rows:
        expected = scores[int(re.search(r"(\d+)\.png", row["file"])[1])]
        assert row["class"] == str(expected.argmax())
        np.testing.assert_allclose([float(row[name]) for name in "012"], expected, atol=1e-5)
        assert row["probability"] == row[row["class"]]
    assert err.splitlines()[0] == "door_net.py:small trained on arrays:made, 3 classes; 60 images"


def test_images_of_any_size_and_what_is_none(author, received, pictures, capsys):
    """Larger, turned and grey images are converted as in training; what holds none is named, and counts."""
    test, folder = author.data.test, received.parent / "mixed"
    folder.mkdir()
    Image.fromarray(test.images[0]).resize((64, 64), Image.Resampling.NEAREST).save(folder / "large.png")
    Image.fromarray(test.images[0]).convert("L").save(folder / "grey.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "notes.txt").write_text("none")
    assert main(["predict", str(received), str(folder), str(folder / "large.png")]) == 3
    out, err = capsys.readouterr()
    assert re.search(rf"large\.png +{test.labels[0]} ", out)
    assert out.count("large.png") == 2
    assert f"passed over in {folder}: 1, file without an image" in err
    assert re.search(r"not read: .*broken\.png \(no image\)", err)


def test_folders_are_scored_by_the_names_of_their_classes(author, received, pictures, capsys):
    metrics = fv.evaluate(fv.load_model(received), author.data.test)
    assert main(["evaluate", str(received), str(pictures)]) == 0
    out = capsys.readouterr().out
    assert f"top-1     {100 * metrics.top1:.2f} %" in out
    assert f"loss      {metrics.loss:.4f}" in out
    shutil.rmtree(pictures / "0")  # the others keep their numbers
    assert main(["evaluate", str(received), f"images:{pictures}"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    of_two = [f"{100 * metrics.per_class[label]:.2f}" for label in (1, 2)]
    assert [row[2] for row in rows if row[:1] in (["1"], ["2"])] == of_two
    (pictures / "1").rename(pictures / "cat")
    assert main(["evaluate", str(received), str(pictures)]) == 2
    assert "pictures has 'cat', which the network does not know: its classes are 0, 1, 2" in capsys.readouterr().err


def test_names_of_classes_may_differ_in_case_and_accents(capsys):
    winner = SimpleNamespace(classes=("Cat", "café", "a", "A", "dog"))
    decomposed = unicodedata.normalize("NFD", "café")
    assert _numbers(winner, ["cat", decomposed, "A", "dog"], "pets") == {"cat": 0, decomposed: 1, "A": 3, "dog": 4}
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "note: pets: cat is taken for the class Cat",
        f"note: pets: {decomposed} is taken for the class café",
    ]
    with pytest.raises(UserError, match="pets has 'CAT', which the network does not know"):
        _numbers(winner, ["Cat", "CAT"], "pets")


def test_the_folder_that_it_was_trained_on(received, pictures, monkeypatch, capsys):
    assert main(["evaluate", str(received), str(pictures)]) == 0
    assert "trained on images" not in capsys.readouterr().err
    winner = SimpleNamespace(trial={"dataset": f"images:{pictures}"})
    for folder, expected in ((pictures, True), (pictures / "train", True), (pictures / "test", False)):
        assert _trained_on(winner, folder) == expected
    loop = pictures.parent / "loop"
    loop.symlink_to(loop)
    for elsewhere in ("~nosuchuser/pets", loop):
        assert not _trained_on(SimpleNamespace(trial={"dataset": f"images:{elsewhere}"}), pictures)
    monkeypatch.setattr(Winner, "load", lambda path, load=Winner.load: dataclasses.replace(load(path), **vars(winner)))
    assert main(["evaluate", str(received), str(pictures)]) == 0
    assert f"note: the network was trained on images of {pictures}, and" in capsys.readouterr().err


def test_its_own_data_score_what_is_on_record(author, received, monkeypatch, capsys):
    assert main(["evaluate", str(received)]) == 0
    lines = capsys.readouterr().out.splitlines()
    top1 = 100 * author.result.winner.final["test_top1"]
    assert f"top-1     {top1:.2f} %" in lines
    assert lines[-1] == f"on record: {top1:.2f} %"
    assert main(["evaluate", str(received), "--split", "validation"]) == 2
    assert "made has no validation split: it has train, test" in capsys.readouterr().err
    assert main(["evaluate", str(received), "two_clusters"]) == 2
    assert "two_clusters has" in capsys.readouterr().err
    noted = dataclasses.replace(author.data, loading_notes=("no copy could be kept in \x1b",))
    monkeypatch.setattr("flaxvision.sweep.inputs.load_dataset", lambda *_: noted)
    assert main(["evaluate", str(received)]) == 0
    assert "note: no copy could be kept in \\x1b\n" in capsys.readouterr().err


def test_a_test_split_that_may_hold_training_images_is_refused(author, received, monkeypatch, capsys):
    """As where a folder has other images than then, and the test split was drawn among all of them."""
    given = author.data
    for split, status in (("train", 0), ("test", 2)):
        changed = given.splits[split][:-1]
        other = given.with_splits(**{split: changed})
        monkeypatch.setattr("flaxvision.sweep.inputs.load_dataset", lambda *_, other=other: other)
        assert main(["evaluate", str(received)]) == status
    said = "made is not what it was when the network was trained on it, and its test split may hold examples of its"
    assert said in capsys.readouterr().err
    assert main(["evaluate", str(received), "--split", "train"]) == 0


def test_of_a_folder_s_splits_the_one_farthest_from_training_counts(received, pictures, capsys):
    for split in ("train", "val"):
        shutil.copytree(pictures, pictures.parent / "splits" / split)
    (pictures.parent / "splits" / "val" / "0" / "bad.png").write_bytes(b"")
    assert main(["evaluate", str(received), "splits"]) == 3
    out, err = capsys.readouterr()
    assert "on splits, split validation: 60 examples" in out
    assert re.search(r"not read: .*bad\.png \(empty\)", err)
    assert main(["evaluate", str(received), "splits", "--raw-dir", "."]) == 2
    assert "--raw-dir has no effect on a folder of images" in capsys.readouterr().err
    for path in (pictures.parent / "splits" / "val").rglob("*.png"):
        path.write_bytes(b"")
    assert main(["evaluate", str(received), "splits"]) == 2
    assert "splits: none of 61 files can be read as an image" in capsys.readouterr().err


def test_networks_without_classes_and_of_points(author, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28)).save("a.png")
    fv.save_model(fv.models.create("polar_linear"), "points.safetensors")
    assert main(["predict", "points.safetensors", "a.png"]) == 2
    assert "takes examples of shape (2,), which are no images: use fv.predict" in capsys.readouterr().err
    fv.save_model(fv.models.create("emnist_autoencoder"), "images.safetensors")
    assert main(["predict", "images.safetensors", "a.png"]) == 2
    assert "holds emnist_autoencoder, which gives images and no classes" in capsys.readouterr().err


def test_runs_are_listed_shown_and_removed(author, received, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # of a file no matter: a line for each run
    assert main(["runs", "list", "."]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split("  ")
    best = max(author.result.cells, key=lambda cell: cell.mean("test_top1"))
    shown = f"{100 * best.mean('test_top1'):.2f} % (learning_rate {best.where['learning_rate']})"
    assert row[0] == "own"
    assert {"arrays:made", "complete", shown} <= {entry.strip() for entry in row}
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["runs", "show", "own", "--trials"]) == 0
    out = capsys.readouterr().out
    assert all(trial.id in out for trial in author.result.outcomes)
    assert f"winner: trial {author.result.winner.id} (learning_rate" in out
    assert main(["compare", "own", str(author.result.directory)]) == 0
    assert "learning_rate" in capsys.readouterr().out
    assert main(["runs"]) == 0
    assert capsys.readouterr().err == "no runs in runs: flaxvision sweep makes one\n"

    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["runs", "rm", "own"]) == 2
    assert "nothing is removed: add --yes" in capsys.readouterr().err
    assert received.exists()
    assert main(["runs", "rm", "own", "--yes"]) == 0
    assert not received.exists()
    assert author.result.directory.exists()


def test_a_run_without_some_of_its_files(author, received, capsys):
    """Of two copies one lacks a history, and then all that is large; the table needs neither."""
    shutil.copytree("own", "whole")
    shown = {}
    (received / "trials" / f"{author.result.winner.id}.npz").unlink()
    for name in ("whole", "own"):
        assert main(["runs", "show", name, "--trials"]) == 0
        shown[name] = capsys.readouterr().out.partition("\n\n")[2]
    assert shown["own"] == shown["whole"]
    assert f"winner: trial {author.result.winner.id}" in shown["own"]
    assert main(["compare", "own", "whole"]) == 0
    page = fv.runs.open("own")._repr_html_()
    assert f"No curves: cannot read own/trials/{author.result.winner.id}.npz" in page
    assert "flaxvision resume own trains that trial again" in page
    assert "No curves" not in fv.runs.open("whole")._repr_html_()
    shutil.rmtree(received / "trials")
    capsys.readouterr()
    assert main(["runs", "rm", "own", str(received.absolute()), "own", "--yes"]) == 0
    assert capsys.readouterr().out.count("removed") == 1
    assert not received.exists()


def test_a_running_run_is_not_removed(received, capsys):
    (received / ".holder").write_text("process 1 on mars\n")
    assert main(["runs", "rm", "own", "--yes"]) == 2
    assert "process 1 on mars is filling own: wait until it has ended; if it was killed" in capsys.readouterr().err
    assert received.exists()


def test_a_folder_that_holds_a_spec_alone_is_not_removed(received, capsys):
    (received.parent / "mine").mkdir()
    shutil.copy(received / "spec.toml", "mine")
    assert main(["runs", "rm", "own", "mine", "--yes"]) == 2
    assert "mine has a spec.toml but was not written by a sweep: remove it yourself" in capsys.readouterr().err
    assert received.exists()
    assert (received.parent / "mine").exists()


@pytest.mark.parametrize(
    ("size", "text"), [(12, "1 kB"), (999_400, "999 kB"), (1.24e6, "1.2 MB"), (5.2e7, "52 MB"), (3e12, "3000 GB")]
)
def test_sizes_in_words(size, text):
    assert size_text(size) == text
