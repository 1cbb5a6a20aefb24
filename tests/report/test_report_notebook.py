"""What objects show of themselves in a notebook, and how short they are elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import flaxvision as fv
from flaxvision.models import LayerRow, Summary
from flaxvision.report import notebook
from flaxvision.training import Timing
from tests.conftest import made_dataset
from tests.report import report_examples as examples

HOSTILE = "\x1b<img src=http://x onerror=alert(1)>&\u202e"


class Page(HTMLParser):
    """Every attribute and text of a fragment, whose tags must match."""

    def __init__(self, fragment: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(fragment)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += [data.strip()] if data.strip() else []

    @property
    def sources(self) -> list[str]:
        return [image["src"] for image in self.images]


def pixels(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def a_result() -> fv.training.Result:
    rng = np.random.default_rng(0)
    history = fv.History(examples.history(rng, 4, 0.4, 0.1, 10, splits=examples.ALL_SPLITS))
    history.arrays |= {f"{split}_balanced": np.full(4, np.nan) for split in examples.ALL_SPLITS}
    model = fv.models.create("linear", input_shape=(2, 2, 1), num_classes=10)
    return fv.Result(model, history, Timing(3.25, 1.0, 1.5, 1234.0), best_epoch=3, diverged=False)


def test_a_summary():
    summary = fv.models.summary(fv.models.create("mlp", hidden=(4,), input_shape=(2, 3, 1), num_classes=5))
    page = Page(summary._repr_html_())
    assert repr(summary) == "Summary(4 layers, 53 parameters, 44 multiply-adds)"
    for text in ("Linear", "(4,)", "28", "24", "53 parameters"):  # 6 * 4 + 4 parameters, 24 products
        assert any(text in each for each in page.text), text
    assert page.tags.count("tr") == 1 + 4


def test_a_long_table_is_cut_and_says_so():
    rows = tuple(LayerRow(f"layer{i}", "Linear", (4,), 2, 1, (None,)) for i in range(400))
    page = Page(Summary(rows, (4,))._repr_html_())
    assert page.tags.count("tr") == 1 + notebook.ROWS
    assert f"The first {notebook.ROWS} of 400 rows." in page.text


def test_a_result_and_its_history():
    result = a_result()
    assert repr(result).startswith("Result(linear, epoch 3 of 4: test_loss ")
    assert repr(result.history).startswith("History(4 epochs, the last one: train_loss ")
    page, short = Page(result._repr_html_()), Page(result.history._repr_html_())
    assert page.text[:2] == ["linear", "· 4 epochs · 3.2 s · 1,234 examples/s"]
    assert "Epoch 3, the one that is kept" in page.text
    assert "Epoch 4, the last one" in short.text
    shown = f"{100 * result.history['test_top1'][2]:.1f}"
    assert any(text.startswith(shown) for text in page.text)
    assert "balanced" not in page.text  # which it does not have
    for each in (page, short):
        (source,) = each.sources
        assert source.startswith("data:image/svg+xml;base64,")
        assert b"<svg" in base64.b64decode(source.partition(",")[2])


def test_a_recipe_says_what_is_given():
    recipe = fv.Recipe(learning_rate=0.5, augment=("flip",), epochs=3)
    assert repr(recipe) == "Recipe(learning_rate=0.5, epochs=3, augment=('flip',))"
    assert eval(repr(recipe), {"Recipe": fv.Recipe}) == recipe
    assert repr(fv.Recipe()) == "Recipe()"
    page = Page(recipe._repr_html_())
    assert page.text[4:7] == ["learning_rate", "0.5", "step size of the updates"]
    assert page.tags.count("tr") == 1 + 3


def test_a_data_set_shows_its_first_examples():
    data = made_dataset((6, 5, 3), 12, train=100)
    assert repr(data) == "Dataset('made': 12 classes, train 100, test 100 of 6 × 5 × 3)"
    assert repr(data.test) == "Split(100 examples of 6 × 5 × 3)"
    page = Page(data._repr_html_())
    assert len(page.images) == notebook.CLASSES
    assert "2 classes more" in page.text
    assert str(np.sum(data.train.labels == 3)) in page.text
    of_three = data.train.images[data.train.labels == 3][:6]
    np.testing.assert_array_equal(pixels(page.sources[3]), np.concatenate(list(of_three), axis=1))
    assert "pixelated" in page.images[3]["style"]
    noted = dataclasses.replace(data, loading_notes=(f"files have changed in {HOSTILE}",))
    assert "files have changed in" in Page(noted._repr_html_()).text[-1]
    points = Page(made_dataset((2,), 2, train=20)._repr_html_())
    assert len(points.images) == 1


def test_a_filled_table(tmp_path):
    result = examples.grid(tmp_path, seeds=1, epochs=2)
    assert len(repr(result)) < 200
    assert repr(result).startswith("SweepResult('grid': 12 cells, 12 trials, best ") or "12 trials" in repr(result)
    assert len(repr(result.cells)) < 12 * 100
    assert all(len(repr(outcome)) < 500 for outcome in result.outcomes)
    page = Page(result._repr_html_())
    assert page.tags.count("table") == 2  # two-way, and a row a cell
    assert all(source.startswith("data:image/") for source in page.sources)
    assert page.tags.count("strong") > 1  # the title and the best cell
    (tmp_path / "report.html").touch()
    assert f"More on the page {tmp_path / 'report.html'}" in Page(result._repr_html_()).text


def test_names_act_nowhere(tmp_path):
    data = made_dataset((4, 4, 1), 2, train=10)
    data = dataclasses.replace(data, name=HOSTILE, classes=(HOSTILE, "b"))
    result = dataclasses.replace(examples.single(tmp_path), title=HOSTILE)
    summary = Summary((LayerRow(HOSTILE, "Linear", (4,), 2, 1, (None,)),), (4,))
    for shown in (data, result, summary, fv.Recipe(warm_start=HOSTILE)):
        fragment = shown._repr_html_()
        page = Page(fragment)
        assert all(source.startswith("data:image/") for source in page.sources)
        assert not {"\x1b", "\u202e"} & set(fragment)
        assert any("\\x1b<img src=http://x" in text for text in page.text)


@pytest.mark.parametrize("split", ["train", "test"])
def test_curves_that_are_not_finite_are_left_out(split):
    result = a_result()
    result.history.arrays[f"{split}_loss"][:] = np.nan
    assert len(Page(result._repr_html_()).images) == 1
    for name in [*result.history]:
        result.history.arrays[name] = np.full_like(result.history[name], np.nan, dtype=float)
    assert len(Page(result._repr_html_()).images) == 0
