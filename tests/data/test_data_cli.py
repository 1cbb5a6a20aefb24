"""`python -m flaxvision.data`: what it prints and what stands in its page."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flaxvision import data
from flaxvision.data.__main__ import main
from flaxvision.data.look import look
from flaxvision.data.page import SAMPLES, data_page


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, and a terminal wide enough for everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def _words(text: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


def _images(page: str) -> dict[str, np.ndarray]:
    """The pictures of a page by their descriptions."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"[^>]* alt="([^"]+)"', page)
    return {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) for content, alt in found}


def test_numbers_are_those_of_the_arrays(here, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.integers(10, 200, (count, 6, 5, 3), dtype=np.uint8), np.arange(count) % 3)
        for name, count in (("train", 50), ("test", 20))
    }
    loaded = data.from_arrays(*arrays["train"], *arrays["test"])
    monkeypatch.setattr(data, "load", lambda *_, **__: loaded)
    assert main(["npz:own", "--out", "page.html"]) == 0
    rows = _words(capsys.readouterr().out)
    assert ["shape", "5 x 6 pixels, 3 channels"] in rows
    for name, (images, labels) in arrays.items():
        mean, std = (", ".join(f"{v:.4g}" for v in f(images.astype(float), (0, 1, 2))) for f in (np.mean, np.std))
        expected = [name, str(len(labels)), f"{images.min()} to {images.max()}", mean, std]
        assert [row for row in rows if row[0] == name] == [expected]
    counts = zip(*(np.bincount(labels).tolist() for _, labels in arrays.values()), strict=True)
    for number, (train, test) in enumerate(counts):
        assert [str(number), str(number), str(train), str(test)] in rows
    page = (here / "page.html").read_text(encoding="utf-8")
    for name, split in loaded.splits.items():
        for label in range(3):
            first = split.images[split.labels == label][:SAMPLES]
            assert np.array_equal(_images(page)[f"{label}, {name}"], np.concatenate(list(first), axis=1))
    assert loaded.source.checksum in page
    assert "http" not in page  # it loads nothing


def test_a_published_set(here, files, capsys):
    files.idx_set(here / "MNIST" / "raw")
    assert main(["mnist", "--raw-dir", ".", "--data-dir", "prepared", "--limit", "10", "--validation", "0.2"]) == 0
    out = capsys.readouterr().out
    rows = _words(out)
    assert ["examples", "8 train + 2 validation + 10 test"] in rows
    assert ["from", "raw folder, not the published files"] in rows
    assert "note: not the official files: 40 + 20 images, officially 60,000 + 10,000" in out
    assert out.endswith("samples of every class: data-mnist.html\n")


def test_an_image_folder_of_any_names(here, capsys):
    for split in ("train", "test"):
        for name, shade in (("<b>cat</b>", 200), ("猫", 90)):
            folder = here / "my pets" / split / name.replace("/", "∕")
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (300, 150), (shade, number, 0)).save(folder / f"{number}.png")
    (here / "my pets" / "train" / "猫" / "notes.txt").write_text("not an image")
    assert main(["images:my pets"]) == 0
    captured = capsys.readouterr()
    page = (here / "data-my-pets.html").read_text(encoding="utf-8")
    assert "notes.txt" in captured.out  # what was left out
    assert "notes.txt" in page
    assert "<b>cat" not in page
    assert _images(page)["猫, test"].shape == (48, 3 * 96, 3)  # reduced
    assert main(["images:my pets", "--size", "64x32", "--channels", "1", "--out", "small.html"]) == 0
    assert "64 x 32 pixels, 1 channel" in capsys.readouterr().out


def test_the_page_tells_neither_where_data_lie_nor_how_loading_went(here, capsys):
    for number in range(6):
        folder = here / "pets" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (40 * number, 0, 0)).save(folder / f"{number}.png")
    data.load(f"images:{here / 'pets'}")
    (here / "pets" / "notes.txt").write_text("none")
    assert main([f"images:{here / 'pets'}"]) == 0
    said = "files have changed since they were prepared"
    assert f"note: {said}" in capsys.readouterr().out
    page = (here / "data-pets.html").read_text(encoding="utf-8")
    assert "<h1>images:pets</h1>" in page
    assert str(here) not in page
    assert said not in page


def test_what_to_type_is_what_this_command_takes(here, capsys):
    for number in range(6):
        folder = here / "pets" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5 + number // 5, 4), (40 * number, 0, 0)).save(folder / f"{number}.png")
    (here / "pets" / "a" / "x.png").write_bytes(b"")
    assert main(["images:pets"]) == 2
    said = capsys.readouterr().err
    assert "add --fit crop, pad or stretch, and --channels 1, 3 or 4; and 1 of 7 files" in said
    assert "mend or remove them, or add --skip-damaged" in said
    assert main(["images:pets", "--size", "5x4", "--fit", "crop", "--channels", "1", "--skip-damaged"]) == 0
    assert main(["images:pets", "--raw-dir", "."]) == 2
    assert "--raw-dir is for published sets, and has no effect on images:pets" in capsys.readouterr().err


def test_points_are_drawn(here, capsys):
    assert main(["two_clusters", "--limit", "100"]) == 0
    assert "points of 2 numbers" in capsys.readouterr().out
    assert _images((here / "data-two_clusters.html").read_text(encoding="utf-8"))
    x = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    wide = data.from_arrays(x, np.arange(9) % 3, x[:3] + 1, np.arange(3))
    assert "… (7 numbers)" in data_page(wide, look(wide))


def test_what_is_doubtful_is_said():
    x = np.random.default_rng(0).integers(256, size=(40, 4, 4), dtype=np.uint8)
    y = np.arange(40) % 4
    seen = look(data.from_arrays(x[:30], y[:30], x[25:], y[25:], classes=["a", "b", "c", "d"]))
    assert "5 of 15 test examples are training examples, byte for byte" in seen.notes


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 2), (8, 8, 4), (8, 8, 5), (1, 300, 3)])
def test_any_shape_has_samples(shape):
    x = np.random.default_rng(0).integers(256, size=(12, *shape), dtype=np.uint8)
    made = data.from_arrays(x, np.arange(12) % 2, x[:4] ^ 1, np.arange(4) % 2)
    assert len(_images(data_page(made, look(made)))) == 4


def test_many_classes_are_few_lines_in_the_terminal(here, capsys):
    assert main(["glyphs47", "--examples", "100"]) == 0
    out = capsys.readouterr().out
    assert "and 7 classes more: see the page" in out
    assert len(out.splitlines()) < 70


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["imagenet"], "unknown data set 'imagenet'"),
        (["glyphs", "--limit", "0"], "give a whole number, 1 or more"),
        (["glyphs", "--validation", "2"], "give a fraction"),
        (["glyphs", "--siz", "3"], "did you mean --size?"),
        (["images:nowhere"], "there is no folder 'nowhere'"),
        (["glyphs", "--size", "big"], "size is big"),
        (["glyphs", "--examples", "20", "--out", "no/such/page.html"], "cannot write"),
        (["mnist", "--raw-dir", "."], "does not hold mnist"),
    ],
)
def test_mistakes_are_one_line(here, capsys, arguments, words):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_without_a_name_it_lists_them(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.split() == list(data.list_datasets())


def test_help_is_quick():
    code = (
        "import sys, contextlib\nfrom flaxvision.data.__main__ import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])\n"
        "print([name for name in ('jax', 'numpy', 'rich', 'tensorflow_datasets') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--skip-damaged" in out
    assert "jax" not in out.splitlines()[-1]
