"""The search in the report: the best so far, each key against what was reached, the best settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flaxvision.report import encode, report_html
from flaxvision.report.search import best_table, draw_search, draw_space, search_words
from flaxvision.sweep.results import Searched
from tests.report.report_examples import single


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A table of two cells that a search of six trials found; the fifth diverged, the last is no number."""
    rates, momenta = ["0.1", "0.02", "0.3", "0.04", "0.5", "0.006"], ["0.9", "–", "0.5", "–", "0.7", "0.8"]
    reached = [[(1, 0.9), (9, 0.5)], [(1, 1.9)], [(1, 0.8), (9, 0.25)], [(1, 5.0)], [(1, None)], []]
    status = ["ok", "pruned", "ok", "pruned", "diverged", "failed"]
    trials = tuple(
        {
            "number": k,
            "batch": k // 3,
            "cell": {"learning rate": rate, "momentum": momentum, "optimizer": "adam" if momentum == "–" else "sgd"},
            "rungs": rungs,
            "status": ended,
            "elapsed": 1.5 + k // 3,
        }
        for k, (rate, momentum, rungs, ended) in enumerate(zip(rates, momenta, reached, status, strict=True))
    )
    keys = ("learning rate", "momentum", "optimizer")
    return dataclasses.replace(
        single(tmp_path_factory.mktemp("run")),
        search=Searched(keys, "val_loss", trials, (2, 0), {"learning rate": 0.75, "optimizer": 0.25}),
    )


def test_the_best_so_far(result):
    trials, epochs, seconds = draw_search(result).axes
    for axes, expected in ((trials, range(1, 7)), (epochs, [9, 10, 19, 20, 21, 21]), (seconds, [1.5] * 3 + [2.5] * 3)):
        line = axes.lines[0]
        assert list(line.get_xdata()) == list(expected)
        assert np.allclose(line.get_ydata(), [0.5, 0.5, 0.25, 0.25, 0.25, 0.25])


def test_a_panel_for_each_key(result):
    rate, momentum, optimizer = draw_space(result).axes
    assert [axes.get_xlabel() for axes in (rate, momentum, optimizer)] == list(result.search.keys)
    assert encode(rate.figure, "png")  # which lays it out
    assert [text.get_text() for text in rate.texts] == ["importance 75 %"]
    assert list(momentum.texts) == []
    assert [label.get_text() for label in optimizer.get_xticklabels()] == ["sgd", "adam"]
    assert [label.get_text() for label in rate.get_xticklabels()] == ["0.1", "0.02", "0.3", "0.04"]
    assert [label.get_text() for label in momentum.get_xticklabels()] == ["0.9", "0.5"]  # the others have none


def test_the_best_settings_stand_in_the_page(result):
    table = best_table(result.search)
    assert table.header == ("learning rate", "momentum", "optimizer", "val loss", "epochs", "trial", "in the table")
    assert [[entry.text for entry in row] for row in table.rows] == [
        ["0.3", "0.5", "sgd", "0.2500", "9", "3", "yes"],
        ["0.1", "0.9", "sgd", "0.5000", "9", "1", "yes"],
        ["0.02", "–", "adam", "1.900", "1", "2", ""],
        ["0.04", "–", "adam", "5.000", "1", "4", ""],
    ]
    words = search_words(result.search)
    assert words.startswith("6 trials in 2 batches: 2 trained to the end, 2 ended early, 1 diverged, 1 failed.")
    page = report_html(result, {})
    assert words in page
    assert "What the search has tried, the best 4 of 6 trials" in page


def test_without_a_search_there_is_none_of_it(result):
    without = dataclasses.replace(result, search=None)
    assert draw_search(without) is None
    assert draw_space(without) is None
    assert "The search" not in report_html(without, {})
