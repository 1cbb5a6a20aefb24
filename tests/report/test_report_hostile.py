"""Text from outside acts nowhere: no formula in CSV, no control character or turned direction on terminal or page."""

from __future__ import annotations

import csv
import dataclasses
import io
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

import flaxvision as fv
from export import Parity, ParityTable
from flaxvision._text import visible
from flaxvision.cli.ending import exit_status
from flaxvision.errors import UserError
from flaxvision.report import results_csv, write_report
from flaxvision.sweep import parse_spec
from flaxvision.sweep.executors import reason
from flaxvision.sweep.progress import Failures
from tests.report import report_examples as examples

ACTS = "\x00\x07\x1b\x7f\x85\x9b\u061c\u200f\u2028\u202e\u2066\ufffe"
HOSTILE = f"a{ACTS}<img src=x onerror=alert(1)>"


def acts(text: str) -> set[str]:
    return set(ACTS) & set(text)


def test_what_is_seen():
    assert not acts(visible(HOSTILE))
    assert visible("\x1b[2J\u202e") == "\\x1b[2J\\u202e"
    assert visible("two\nlines", keep="\n") == "two\nlines"
    plain = "Größe × 猫 \U0001f469\u200d\U0001f680 \u3000\u00a0 e\u0301 שלום عربي"
    assert visible(plain) == plain
    assert visible(visible(HOSTILE)) == visible(HOSTILE)


def test_where_text_enters():
    published = {"metric": "test_top1", "value": 0, "tolerance": 0, "source": HOSTILE, "where": {"momentum": HOSTILE}}
    spec = parse_spec(
        {"name": "a", "dataset": "glyphs", "model": "linear", "title": HOSTILE, "description": f"{HOSTILE}\n\nmore"}
        | {"grid": {"momentum": [{"name": HOSTILE, "momentum": 0.5}]}}
        | {"published": [published]}
    )
    assert "\n\n" in spec.description
    named = (spec.heading, spec.description, spec.axes[0].points[0].label, *spec.published[0].where.values())
    assert not acts("".join((*named, spec.published[0].source)))
    on = dataclasses.replace(spec, base={**spec.base, "dataset": f"npz:{HOSTILE}"}, changed=("dataset",))
    assert not acts(on.heading)
    data = fv.data.from_arrays(np.zeros((2, 3)), [HOSTILE, "b"], np.zeros((2, 3)), ["b", HOSTILE], name=HOSTILE)
    assert not acts("".join((data.name, *data.classes, *data.source.notes)))
    assert not acts(reason(ValueError(HOSTILE)))


def test_what_terminals_get(capsys):
    def fails() -> int:
        raise UserError(HOSTILE)

    assert exit_status(fails) == 2
    Failures().say(HOSTILE)
    assert not acts(capsys.readouterr().err.replace("\n", ""))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("@SUM(A1)", "'@SUM(A1)"), ("-2+3", "'-2+3"), ("+x", "'+x"),
        ("-2", "-2"), ("+1e-3", "+1e-3"), ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_no_formula_in_csv(label, expected):
    result = examples.learning_rates(Path())
    key = result.keys[0]
    cells = [dataclasses.replace(cell, where={**cell.where, key: label}) for cell in result.cells]
    rows = list(csv.reader(io.StringIO(results_csv(dataclasses.replace(result, cells=tuple(cells))))))
    assert {row[0] for row in rows[1:]} == {expected}


def test_the_parity_table_in_markdown():
    table = ParityTable("a|b", "<img src=x> `c`", 10, 0, (Parity("Flax|x", 0, 0, 10, 1, 0, 0, 0),))
    assert "| Flax\\|x |" in table.markdown()
    assert "a\\|b on 10 test images of \\<img src=x\\> \\`c\\`" in table.markdown()


@pytest.mark.slow
def test_figures_of_hostile_names_are_xml(tmp_path):
    result = examples.learning_rates(tmp_path)
    classes = tuple(visible(f"{name}{HOSTILE}") for name in result.classes)
    for path in write_report(dataclasses.replace(result, title=visible(HOSTILE), classes=classes)):
        if path.suffix == ".svg":
            xml.etree.ElementTree.parse(path)
        elif path.suffix in (".html", ".md", ".tex", ".csv"):
            text = path.read_text()
            assert not acts(text)
            assert path.suffix == ".md" or "<img src=x" not in text
