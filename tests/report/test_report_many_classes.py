"""What a report shows where a matrix of all classes could not be read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples
from test_report_page import Page

from flaxvision.report import draw_figures, report_html
from flaxvision.report.confusion import MATRIX, confused_pairs
from flaxvision.training.confusion import confusion_pairs


def many(classes, *, errors=True):
    """A result whose winner takes class i for class i + 1, i % 4 times of 10."""
    result = examples.learning_rates(Path("x"))
    wrong = np.arange(classes) % 4 * errors
    matrix = np.diag(10 - wrong)
    matrix[np.arange(classes), (np.arange(classes) + 1) % classes] += wrong
    for split in ("val", "test"):
        result.winner.history[f"{split}_pairs"] = confusion_pairs(matrix)
        result.winner.history[f"{split}_per_class"] = np.tile(1 - wrong / 10, (result.winner.best_epoch, 1))
    return dataclasses.replace(result, classes=tuple(f"kind {i}" for i in range(classes)))


@pytest.mark.parametrize("classes", [200, 1000])
def test_a_figure_of_many_classes_shows_the_most_confused(classes):
    figure = draw_figures(many(classes))["confusion"]
    bars, spread = figure.axes
    assert len(bars.patches) == len(bars.get_yticklabels()) == 20
    assert bars.get_yticklabels()[0].get_text() == "kind 3 → kind 4"
    assert {patch.get_width() for patch in bars.patches} == {3}
    assert bars.get_xlabel() == f"errors: the 20 most frequent of {classes * 3 // 4} kinds"
    assert sum(patch.get_height() for patch in spread.patches) == classes
    assert figure.get_suptitle() == "most often: kind 3 taken for kind 4, 3 of 10"
    assert max(figure.get_size_inches()) <= 8


def test_few_enough_classes_stand_in_a_matrix():
    assert draw_figures(many(MATRIX))["confusion"].axes[0].get_ylabel() == "true"
    assert draw_figures(many(MATRIX + 1))["confusion"].axes[0].get_ylabel() == ""


def test_many_classes_without_an_error_are_drawn_too():
    figure = draw_figures(many(100, errors=False))["confusion"]
    assert figure.get_suptitle() == "no errors"
    assert not figure.axes[0].patches


def test_the_page_folds_the_better_classes():
    result = many(1000)
    text = report_html(result, files={})
    page = Page(text)
    assert "Where the winner errs" not in page.headings  # goes with its figure
    text = report_html(result, files={"confusion.svg": b"<svg/>", "confusion.png": bytes(24)})
    page = Page(text)
    open_part, _, folded = text.partition("<summary>The other 936 classes</summary>")
    assert open_part.count('<li><span class="name">') == 64
    assert folded.partition("</details>")[0].count('<li><span class="name">') == 936
    assert len(text) < 400_000
    assert page.text.partition("worst first")[2].split()[:2] == ["kind", "3"]


def test_pairs_are_ordered_by_count_then_class():
    pairs = np.array([[0, 0, 50], [0, 2, 7], [1, 0, 3], [2, 1, 7]], np.int32)
    assert confused_pairs(pairs) == [(0, 2, 7), (2, 1, 7), (1, 0, 3)]
    assert confused_pairs(pairs, 1) == [(0, 2, 7)]
    assert confused_pairs(pairs[:1]) == []
