"""Curves as data: axes that what diverges does not flatten, colors that encode keys, panels, and the page's JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples
from matplotlib.colors import rgb_to_hsv, to_rgb

from flaxvision.report.interactive import plots_json
from flaxvision.report.overview import draw_overview
from flaxvision.report.plots import plot_of

HERE = Path()


def cells(keys, wheres, loss=lambda where: 0.3, epochs=4):
    """A result of two seeds each, whose losses fall to `loss`."""
    random, made = np.random.default_rng(0), []
    for where in wheres:
        outcomes = [examples.outcome(where, s, examples.history(random, epochs, loss(where), 0.1, 10)) for s in (0, 1)]
        made.append(examples.cell(where, outcomes))
    return examples.result(HERE, made, keys)


def test_a_loss_that_explodes_flattens_no_other():
    wheres = [{"rate": rate} for rate in ("0.1", "0.2", "9")]
    result = cells(["rate"], wheres, lambda where: 1e5 if where["rate"] == "9" else 0.3)
    plot, tame = (plot_of(each, "loss") for each in (result, cells(["rate"], wheres[:2])))
    assert plot.scene.limits[1] < 2 * tame.scene.limits[1]
    assert not plot.scene.log
    assert plot.lines[2].name(plot.scene.limits) == "9 (off the scale)"


def test_colors_encode_keys_in_every_panel():
    grid = [{"size": s, "rate": r, "width": w} for s in "ab" for r in ("1", "2", "3") for w in "xyz"]
    plot = plot_of(cells(["size", "rate", "width"], grid), "loss")
    assert list(plot.panels) == [f"size {s}, rate {r}" for s in "ab" for r in ("1", "2", "3")]
    assert plot.across == 3
    for lines in plot.panels.values():
        assert [line.label for line in lines] == ["x", "y", "z"]
    assert len({tuple(line.color for line in lines) for lines in plot.panels.values()}) == 1
    grid = [{"optimizer": o, "rate": r} for o in ("sgd", "adam") for r in ("1", "2", "3")]
    (lines,) = plot_of(cells(["optimizer", "rate"], grid), "loss").panels.values()
    hues = [rgb_to_hsv(to_rgb(line.color)) for line in lines]
    assert np.ptp([h for h, *_ in hues[:3]]) < 0.01
    assert np.ptp([h for h, *_ in hues[3:]]) < 0.01
    assert abs(hues[0][0] - hues[3][0]) > 0.2
    assert hues[0][1] > hues[1][1] > hues[2][1]  # paler and paler


def test_of_many_cells_the_best_are_drawn():
    grid = [{"a": str(a), "b": str(b)} for a in range(7) for b in range(7)]
    result = cells(["a", "b"], grid)
    plot = plot_of(result, "top1")
    assert plot.note == "the best 20 of 49 cells"
    best = sorted(result.cells, key=lambda cell: -cell.mean("test_top1"))[:20]
    assert {id(line.cell) for line in plot.lines} == set(map(id, best))


def test_the_page_has_the_numbers_of_the_histories():
    result = examples.learning_rates(HERE)
    text, kinds = plots_json(result)
    assert kinds == ("loss", "top1")
    _, accuracy = json.loads(text)
    (panel,) = accuracy["panels"]
    for line, cell in zip(panel["lines"][1:], result.cells[1:], strict=True):
        rows = 100 * np.array([outcome.history["test_top1"] for outcome in cell.outcomes])
        assert line["shown"] == pytest.approx(rows.mean(axis=0), rel=1e-4)
        assert line["std"] == pytest.approx(rows.std(axis=0, ddof=1), rel=1e-4)
    assert "</script>" not in plots_json(cells(["key"], [{"key": "</script>"}, {"key": "b"}]))[0]


def test_three_keys_are_heat_maps_side_by_side():
    grid = [{"size": s, "rate": r, "width": w} for s in "ab" for r in ("1", "2", "3") for w in "xyz"]
    result = cells(["size", "rate", "width"], grid)
    figure = draw_overview(result)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["size a", "size b"]
    shown = [text.get_text().partition(" ±")[0] for axes in figure.axes for text in axes.texts]
    for cell in result.cells:
        assert f"{100 * cell.mean('test_top1'):.2f}" in shown
