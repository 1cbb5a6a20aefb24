"""Tables too long to be read: their best and worst rows, and the objective over each key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples

from flaxvision.report import report_html, results_csv, results_latex, results_markdown, terminal_table
from flaxvision.report.figures import draw_figures
from flaxvision.report.over_keys import draw_over_keys
from flaxvision.sweep.results import Outcome, Verdict

HERE = Path()


def search(cells=240, loss=lambda number: 0.3 + 0.01 * number, **changes):
    """Cells of a rate that falls by a tenth and an optimizer, one trial each; the first is the best."""
    random, made = np.random.default_rng(0), []
    for number in range(cells):
        where = {"learning_rate": f"{0.9**number:.4g}", "optimizer": ["sgd", "adam", "muon"][number % 3]}
        arrays = examples.history(random, 2, loss(number), 0.1, 3)
        for split in ("train", "test"):
            arrays[f"{split}_loss"][-1] = loss(number)
        made.append(examples.cell(where, [examples.outcome(where, 0, arrays)]))
    result = examples.result(HERE, made, ["learning_rate", "optimizer"])
    return dataclasses.replace(result, objective="test_loss", **changes)


def test_a_long_table_shows_its_best_and_its_worst_rows():
    result = search()
    published = Verdict("test_loss", 0.5, 0.1, "a paper", 0.8, "outside")
    cells = [*result.cells]
    cells[100] = dataclasses.replace(cells[100], verdicts=(published,))
    result = dataclasses.replace(result, cells=tuple(reversed(cells)))
    rates = [result.cells[-1 - number].where["learning_rate"] for number in (*range(20), 100, *range(230, 240))]
    (table,) = terminal_table(result).tables
    assert [row[0].text for row in table.rows] == rates  # the best first
    said = "The best 20 and the worst 10 of 240 cells by test loss: results.csv has all."
    assert table.notes[0] == said
    markdown = results_markdown(result)
    assert [line.split(" | ")[0].removeprefix("| ") for line in markdown.splitlines() if " | sgd | " in line] == [
        rate for rate, row in zip(rates, table.rows, strict=True) if row[1].text == "sgd"
    ]
    assert results_latex(result).count(r"\\") == len(rates) + 1
    assert said in results_latex(result)
    page = report_html(result, {})
    assert page.count("<code>") == len(rates)
    assert "The 31 trials of these cells, of 240: trials.jsonl has all" in page
    assert results_csv(result).count("\n") == 241
    whole = dataclasses.replace(result, cells=result.cells[:200])
    assert len(terminal_table(whole).tables[-1].rows) == 200


def test_a_page_lists_some_failures_and_counts_the_others():
    lost = [
        examples.cell({"a": str(n)}, [Outcome(f"{n:010}", "sweep", (("a", str(n)),), 0, "failed", {}, message="no")])
        for n in range(23)
    ]
    page = report_html(examples.result(HERE, lost, ["a"]), {})
    assert page.count("failed (a ") == 20
    assert "3 more trials failed: trials.jsonl says why." in page


def test_what_a_figure_of_the_table_leaves_out_is_drawn_over_each_key():
    result = search(60, lambda number: 0.3 + 0.001 * number if number < 50 else 10.0)
    figure = draw_figures(result)["keys"]
    over_rate, over_optimizer = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["learning rate", "optimizer"]
    shown, best = over_rate.collections
    means = [0.3 + 0.001 * number for number in range(50)]  # the others are far above the better half
    rates = [float(f"{0.9**number:.4g}") for number in range(50)]
    np.testing.assert_allclose(shown.get_offsets(), np.c_[rates, means], rtol=1e-5)
    np.testing.assert_allclose(np.sort(best.get_offsets()[:, 1]), means[:20], rtol=1e-5)
    assert over_rate.get_xscale() == "log"
    assert [label.get_text() for label in over_optimizer.get_xticklabels()] == ["sgd", "adam", "muon"]
    (median,) = over_optimizer.lines
    np.testing.assert_allclose(median.get_ydata(), [np.median(means[first::3]) for first in range(3)], rtol=1e-5)
    assert not over_rate.lines  # no two cells have the same rate
    (said,) = over_rate.texts
    assert said.get_text().startswith("50 cells; 10 more diverged, failed or are far above these\norange: the best 20")


@pytest.mark.parametrize("cells", [16, 20])
def test_a_table_whose_figure_shows_every_cell_needs_no_other(cells):
    assert draw_over_keys(search(cells)) is None


def test_curves_of_the_best_cells_share_a_panel():
    figure = draw_figures(search(60))["loss"]
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts if re.fullmatch(r"[\d.]+, \w+", text.get_text())]
    assert len(names) == 20
