"""The figures: which there are, their sizes, and what they do with awkward histories."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxvision.report import draw_figures, figure_files
from flaxvision.report import style as style_module
from flaxvision.report.confusion import confused_pairs
from flaxvision.report.curves import draw_curves
from flaxvision.report.plots import Curve
from flaxvision.report.style import DPI, spread
from flaxvision.training.confusion import confusion_pairs

pytestmark = pytest.mark.filterwarnings("error")
HERE = Path("unused")
ALL = ["accuracy", "confusion", "loss", "table"]
INCHES = {
    ("learning_rates", "loss"): 3.4, ("learning_rates", "confusion"): 3.4, ("learning_rates", "table"): 3.4,
    ("holdout", "loss"): 7, ("holdout", "confusion"): 7, ("holdout", "table"): 7, ("grid", "table"): 3.4,
    ("grid", "accuracy"): 7, ("single", "loss"): 3.4, ("autoencoder", "loss"): 3.4, ("clusters", "loss"): 3.4,
}  # fmt: skip


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_files(written, name):
    result, _ = written(name)
    wanted = ["loss", "table"] if name == "autoencoder" else ALL  # without classes: no accuracy, no confusion
    assert sorted(p.name for p in result.directory.glob("*.svg")) == [f"{figure}.svg" for figure in wanted]
    for figure in wanted:
        root = xml.etree.ElementTree.parse(result.directory / f"{figure}.svg").getroot()
        with Image.open(result.directory / f"{figure}.png") as image:
            inches = image.width / DPI, image.height / DPI
            pixels = np.asarray(image.convert("L"))
        assert float(root.get("width")[:-2]) / 72 == pytest.approx(inches[0], abs=0.01)
        assert inches[0] in (pytest.approx(3.4), pytest.approx(7.0))
        assert inches[0] == pytest.approx(INCHES.get((name, figure), inches[0]))
        assert inches[1] < 9.5
        assert pixels.min() < 100
        frame = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert frame.min() > 250, f"{figure} is cut off"


def names_of(figure) -> list[list[str]]:
    """What is written in each panel, without ticks."""
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


def test_lines_are_named_at_their_ends_without_overlap():
    figure = draw_curves(examples.learning_rates(HERE), "loss")
    [texts] = names_of(figure)
    assert texts[:4] == ["1 (diverged)", "0.1", "0.01", "0.001"]
    assert texts[4] == "learning rate"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "test", "train", "± std over seeds", "diverged",
    ]  # fmt: skip


def test_many_cells_become_small_multiples():
    figure = draw_curves(examples.holdout(HERE), "top1")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["hidden 32", "hidden 64"]
    assert [len(texts) for texts in names_of(figure)] == [6 + 1, 7 + 1]
    assert "final, Adam 0.001, scratch" in names_of(figure)[1]


def test_curve_is_mean_and_sample_deviation_as_far_as_all_seeds_went():
    rows = [np.array([3.0, 2.0, 1.0]), np.array([5.0, 4.0])]
    trials = [examples.outcome({}, seed, {"train_loss": row}) for seed, row in enumerate(rows)]
    bad = examples.outcome({}, 2, {"train_loss": np.array([9.0, np.inf, 1.0])})
    curve = Curve.of([*trials, bad], "train_loss")
    np.testing.assert_array_equal(curve.mean, [4, 3])
    np.testing.assert_allclose(curve.std, [np.sqrt(2), np.sqrt(2)])
    assert [list(row) for row in curve.single] == [[9.0], [pytest.approx(np.nan, nan_ok=True), 2.0, 1.0]]
    assert curve.end == (2, 3.0)
    assert not len(Curve.of([bad], "test_loss").values)


def drawn_limits(figure) -> tuple[float, float]:
    return figure.axes[0].get_ylim()


def test_a_seed_on_its_way_to_infinity_does_not_squeeze_the_others():
    result = examples.learning_rates(HERE)
    low = drawn_limits(draw_curves(result, "loss"))[0]
    result.cells[0].outcomes[0].history["test_loss"][:3] = [6, 3e38, np.inf]
    figure = draw_curves(result, "loss")
    assert drawn_limits(figure)[1] < 30
    assert drawn_limits(figure)[0] > low / 2 > 0
    assert figure_files(result)["loss.png"]


@pytest.mark.parametrize("fail_at", [1, 2])
def test_nothing_but_divergence(fail_at):
    where = [{"lr": str(i)} for i in range(2)]
    rng = np.random.default_rng(0)
    trials = [[examples.outcome(w, s, examples.history(rng, 3, 1, 0.5, 3, fail_at)) for s in range(2)] for w in where]
    result = examples.result(HERE, [examples.cell(w, t) for w, t in zip(where, trials, strict=True)], ["lr"])
    assert ("loss" in draw_figures(result)) == (fail_at == 2)
    nothing = [[dataclasses.replace(o, final={}) for o in cell] for cell in trials]
    cells = [examples.cell(w, t) for w, t in zip(where, nothing, strict=True)]
    assert {"table.png", "table.svg"} <= set(figure_files(dataclasses.replace(result, cells=tuple(cells))))


def test_a_first_epoch_that_is_not_finite():
    result = examples.single(HERE, epochs=2)
    for name in ("train_loss", "test_loss"):
        result.winner.history[name][0] = np.nan
    assert "loss" not in draw_figures(result)


def test_single_epoch_has_dots():
    figure = draw_curves(examples.single(HERE), "loss")
    assert {line.get_marker() for line in figure.axes[0].lines} == {"o"}
    assert names_of(figure) == [[]]


def test_confusion_colours_errors_and_names_the_worst_pair():
    result = examples.learning_rates(HERE)
    matrix = np.diag([50, 40, 30])
    matrix[0, 2], matrix[1, 0] = 7, 3
    result.winner.history["test_pairs"] = confusion_pairs(matrix)
    result.winner.history["test_per_class"] = np.ones((1, 3))
    result = dataclasses.replace(
        result, winner=dataclasses.replace(result.winner, best_epoch=1), classes=("4", "$9$", "x")
    )
    figure = draw_figures(result)["confusion"]
    [axes] = figure.axes
    assert figure.get_suptitle() == "most often: 4 taken for x, 7 of 57"
    assert sorted(text.get_text() for text in axes.texts) == ["3", "30", "40", "50", "7"]
    assert axes.collections[0].norm.vmax == 7
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top
    assert confused_pairs(confusion_pairs(matrix)) == [(0, 2, 7), (1, 0, 3)]


@pytest.mark.parametrize("rows", [1, 3])
def test_heatmap_and_dots_by_the_number_of_keys(rows):
    [axes] = draw_figures(examples.grid(HERE, rows=rows))["table"].axes
    assert len([text for text in axes.texts if "±" in text.get_text()]) == 4 * rows
    assert axes.get_xlabel() == "width"
    [axes] = draw_figures(examples.learning_rates(HERE))["table"].axes
    assert axes.get_xlabel() == "test top-1 (%)"
    diamonds = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(diamonds, [10, 87, 83.5, 71.9])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_spread(targets):
    gap, high = 5.0, 100.0
    positions = spread(targets, gap, 0, high)
    order = np.argsort(targets, kind="stable")
    assert (np.diff(positions[order]) >= gap - 1e-9).all()
    assert positions.min() >= -1e-9
    assert positions.max() <= high + 1e-9
    if len(targets) > 1 and (np.diff(np.sort(targets)) >= gap).all():
        np.testing.assert_allclose(positions, targets)


def test_same_bytes_whatever_the_users_settings(written):
    import matplotlib

    result, _ = written("clusters")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none", "axes.grid": True, "figure.dpi": 50}):
        again = figure_files(result)
        assert matplotlib.rcParams["font.size"] == 30
    assert again == {name: (result.directory / name).read_bytes() for name in again}


def test_drawing_needs_no_pyplot():
    code = (
        "import sys, flaxvision.report; assert not {'matplotlib', 'jinja2', 'rich', 'jax'} & set(sys.modules);"
        "import report_examples as e, pathlib; flaxvision.report.figure_files(e.single(pathlib.Path('x')));"
        "assert 'matplotlib.pyplot' not in sys.modules and 'jax' not in sys.modules"
    )
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script = f"import sys; sys.path[:0] = {path!r}; {code}"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_doctests():
    with np.printoptions(legacy=False):
        assert doctest.testmod(style_module).failed == 0
