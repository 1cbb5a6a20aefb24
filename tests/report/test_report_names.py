"""Names of any script in figures, page and terminal: drawn, or said in letters that there are; never boxes."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import report_examples as examples

from flaxvision.report import draw_figures, figure_files, fonts, report_html
from flaxvision.report.fonts import fallback_fonts, fonts_for, substitutes
from flaxvision.report.tables import _width, terminal_table

pytestmark = pytest.mark.filterwarnings("error")  # a missing glyph is a warning
HERE = Path("unused")
CHINESE = ("猫", "犬", "鳥", "魚", "牛", "馬", "羊", "豚", "鹿", "熊")


@pytest.fixture
def no_fonts(monkeypatch):
    """Only what matplotlib brings for Latin, Greek and Cyrillic is installed."""
    fallback_fonts.cache_clear()
    monkeypatch.setattr(fonts, "_installed", tuple)
    yield
    fallback_fonts.cache_clear()


def _texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def _named(*classes: str):
    return dataclasses.replace(examples.learning_rates(HERE, seeds=1, epochs=2), classes=classes)


def test_without_a_font_classes_are_numbers_that_the_page_explains(no_fonts):
    result = _named(*CHINESE)
    with fonts_for(result) as drawn:
        assert drawn.classes == tuple(f"class {number}" for number in range(10))
    files = figure_files(result)
    assert "class 9" in _texts(draw_figures(result)["confusion"])
    page = report_html(result, files)
    assert "“class 0” for 猫, “class 1” for 犬" in page
    assert "熊" in page.partition("Accuracy of each class")[2]  # tables keep the names


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (("café", "Ёж", "αβγ", "naïve €"), ("café", "Ёж", "αβγ", "naïve €")),  # DejaVu has them
        (("Ａ１", "cat"), ("A1", "cat")),  # full-width letters say the same in plain ones
        (("Ａ１", "A1"), ("class 0", "A1")),  # which another class has
        (("𝒜", "𝓐"), ("A", "class 1")),
        (("ไทย", "한국", "\U0001f9ff"), ("class 0", "class 1", "class 2")),
        (("猫 cat", "cat"), ("class 0", "cat")),
        (("caf\udce9", "cat"), ("class 0", "cat")),  # no UTF-8
    ],
)
def test_what_stands_for_a_name(no_fonts, names, drawn):
    with fonts_for(_named(*names)) as result:
        assert result.classes == drawn
    assert list(substitutes(_named(*names)).values()) == [a for a, b in zip(names, drawn, strict=True) if a != b]


def test_values_of_a_key_too(no_fonts):
    result = examples.learning_rates(HERE, seeds=1, epochs=2)
    cells = [
        dataclasses.replace(cell, where={**cell.where, result.keys[0]: name})
        for cell, name in zip(result.cells, CHINESE, strict=False)
    ]
    result = dataclasses.replace(result, cells=tuple(cells))
    for figure in draw_figures(result).values():
        assert not any(sign in text for text in _texts(figure) for sign in CHINESE)
    assert f"“{result.keys[0]} 1” for 猫" in report_html(result)


def test_an_installed_font_draws_what_the_main_one_has_not(caplog):
    fallback_fonts.cache_clear()
    sign = chr(min(fonts._charmap("STIXGeneral") - fonts._charmap("DejaVu Sans")))  # matplotlib brings both
    result = _named(f"a{sign}", *CHINESE[1:])
    assert f"a{sign}" not in substitutes(result).values()
    with caplog.at_level(logging.WARNING):
        confusion = draw_figures(result)["confusion"]
    assert f"a{sign}" in _texts(confusion)
    assert "font" not in caplog.text
    assert fallback_fonts(frozenset("abc éж±→")) == ()  # common names need no other font


def test_figures_of_common_names_are_the_same_bytes_beside_others():
    result = _named(*"0123456789")
    before = figure_files(result)
    figure_files(_named("𝒜", *"123456789"))
    assert figure_files(result) == before


def test_columns_are_as_wide_as_their_signs():
    table = terminal_table(_named(*CHINESE)).tables[0]
    first, *others = table.columns
    wide, narrow = (
        dataclasses.replace(table, columns=(dataclasses.replace(first, heading=sign * len(first.heading)), *others))
        for sign in "猫a"
    )
    assert _width(wide) > _width(narrow)
