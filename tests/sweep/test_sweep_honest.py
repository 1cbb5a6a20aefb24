"""One small run over a lopsided folder: what it chooses by, what it says of its data, and what it measures."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import flaxvision as fv
from flaxvision.sweep.__main__ import main
from flaxvision.sweep.provenance import data_sources

pytestmark = pytest.mark.quick

CLASSES = {"common": (36, 18), "rare": (4, 2)}  # training and test images


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """A run over 9 images of one class for each of the other, with a file that is none; its streams and folder."""
    root = tmp_path_factory.mktemp("lopsided")
    random = np.random.default_rng(0)
    for name, counts in CLASSES.items():
        for split, count in zip(("train", "test"), counts, strict=True):
            folder = root / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (6, 6), np.uint8)).save(folder / f"{number}.png")
    (root / "pets" / "train" / "rare" / "notes.docx").write_bytes(b"no image")
    arguments = ["demo", "--dataset", f"images:{root / 'pets'}", "--epochs", "2", "--seeds", "1", "--out", root / "run"]
    settings = ["--set", "hidden=[4]", "batch_size=10", "learning_rate=1,0.001", "validation=0.25", "--no-export"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in [*arguments, *settings]])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue(), run=root / "run", data=root / "pets")


def test_what_was_left_out_is_said_before_the_training_and_in_the_report(lopsided):
    assert lopsided.status == 0, lopsided.err
    assert f"images:{lopsided.data}: train 30, validation 10, test 20; 6 x 6 x 1 pixels, 2 classes" in lopsided.err
    page = (lopsided.run / "report.html").read_text(encoding="utf-8")
    section = page.partition("<h2>The data</h2>")[2].partition("</section>")[0]
    for text in (lopsided.err, section, (lopsided.run / "results.md").read_text(encoding="utf-8")):
        assert "notes.docx" in text
    assert "train 30, validation 10, test 20" in section


def test_the_title_is_of_what_ran_and_the_winner_of_validation(lopsided):
    page = (lopsided.run / "report.html").read_text(encoding="utf-8")
    title = "demo on images:pets (2 epochs, changed: hidden, batch_size, learning_rate, validation)"
    assert f"<h1>{title}</h1>" in page
    assert "drawn from fonts" not in page
    assert "Winner, chosen by val top-1" in page
    assert "optimistic" not in page + lopsided.out
    assert title.replace("_", r"\_") in (lopsided.run / "results.tex").read_text(encoding="utf-8")
    assert 'objective = "val_top1"' in (lopsided.run / "spec.toml").read_text(encoding="utf-8")


def test_mean_accuracy_over_classes_is_that_of_the_predictions(lopsided):
    """Recomputed from the winner's weights by NumPy: the mean over classes of the share that is found."""
    model = fv.load_model(lopsided.run / "winner" / "flaxvision.safetensors")
    test = fv.data.load(f"images:{lopsided.data}", validation=0.25).test
    found = fv.predict(model, test.images).argmax(axis=1)
    expected = np.mean([(found[test.labels == label] == label).mean() for label in (0, 1)])
    records = [json.loads(line) for line in (lopsided.run / "trials.jsonl").read_text().splitlines()]
    finals = [record["final"]["test_balanced"] for record in records]
    assert expected in [pytest.approx(value) for value in finals]
    assert fv.evaluate(model, test).balanced == pytest.approx(expected)


def test_data_sets_of_one_name_are_kept_apart_in_the_provenance():
    short, longer = (fv.data.load("two_clusters", limit=limit) for limit in (10, 20))
    sources = data_sources([short, longer, short])
    assert [source["counts"]["train"] for source in sources.values()] == [10, 20]
    assert list(sources) == ["two_clusters", "two_clusters (2)"]
    noted = dataclasses.replace(short, source=dataclasses.replace(short.source, notes=("one line", "another")))
    assert data_sources([noted])["two_clusters"]["notes"] == ("one line", "another")
