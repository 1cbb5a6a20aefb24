"""The page: complete, self-contained, well-formed, and safe against what names contain."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
import report_examples as examples

from flaxvision import report
from flaxvision.errors import UserError
from flaxvision.report import report_html, results_csv, results_latex, results_markdown, write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest; collects links, sources, headings, tables and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            self.links.append(attributes["href"])
        if "src" in attributes:
            self.sources.append(attributes["src"])
            assert attributes["alt"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            assert "url(" not in data
            assert "@import" not in data
            return
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
            return
        self.text += f"{data} "
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def assert_only_our_scripts(page: Page) -> list:
    """The page has no script but ours, and their data; these are returned."""
    data, script = page.scripts
    assert script.strip() == (Path(report.__file__).parent / "page.js").read_text(encoding="utf-8").strip()
    assert "<" not in data
    return json.loads(data)


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_page_is_well_formed_and_loads_nothing(written, name):
    result, paths = written(name)
    assert sorted(paths) == sorted(result.directory.iterdir())
    text = (result.directory / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "iframe", "object"} & page.tags
    assert_only_our_scripts(page)
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for source in page.sources)
    assert len(page.sources) == len(list(result.directory.glob("*.svg")))
    assert all((result.directory / link).is_file() for link in page.links)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert page.headings[0] == result.title
    assert {"Results", "Curves", "Files", "Provenance"} <= set(page.headings)
    assert ("Where the winner errs" in page.headings) == (name != "autoencoder")
    assert result.provenance["command"] in page.text
    for cell in result.cells:
        assert all(outcome.id in page.text for outcome in cell.outcomes)


def test_page_has_the_table_with_published_numbers_and_verdicts(written):
    result, _ = written("learning_rates")
    page = Page((result.directory / "report.html").read_text(encoding="utf-8"))
    header, *rows = page.rows[:5]
    assert header[:5] == ["learning_rate", "n", "test top-1 (%)", "published", "verdict"]
    values = [100 * o.history["test_top1"][-1] for o in result.cells[1].outcomes]
    assert rows[1][:4] == ["0.1", "3", f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}", "87"]
    assert [row[4].split()[0] for row in rows] == [cell.verdicts[0].verdict for cell in result.cells]
    assert "Winner, chosen by test top-1" in page.text
    assert f"test top-1 {100 * result.winner.final['test_top1']:.2f} %" in page.text
    assert "2f1c7a…" in page.text
    worst = np.argmin(result.winner.history["test_per_class"][-1])
    assert page.text.partition("worst first")[2].split()[0] == examples.FASHION[worst].split()[0]


def test_two_way_page(written):
    result, _ = written("grid")
    page = Page((result.directory / "report.html").read_text(encoding="utf-8"))
    assert page.rows[0] == ["learning_rate", "width"]
    assert page.rows[1] == ["32", "64", "128", "256"]
    assert page.rows[2][0] == "0.1"


def test_a_winner_without_the_objective_shows_what_it_has(written):
    result, _ = written("holdout")
    page = Page((result.directory / "report.html").read_text(encoding="utf-8"))
    assert "chosen by val loss" in page.text
    assert f"test top-1 {100 * result.winner.final['test_top1']:.2f} %" in page.text


def test_names_cannot_break_the_page(tmp_path):
    nasty = "</title><script>alert('1')</script> & \"$x$\" {{ 7*7 }}"
    result = examples.clusters(tmp_path)
    where = {"variant": nasty}
    cells = [dataclasses.replace(result.cells[0], where=where), *result.cells[1:]]
    result = dataclasses.replace(
        result, title=nasty, description=f"{nasty}\n\n{nasty}", classes=(nasty, "b"), cells=tuple(cells),
        provenance={"command": nasty, nasty: {nasty: [nasty, None, True, {"a": 1}]}},
        winner=dataclasses.replace(result.winner, cell=tuple(where.items())),
    )  # fmt: skip
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "model.onnx").write_bytes(b"x")
    (tmp_path / "trials.jsonl").write_bytes(b"x")
    paths = write_report(result, extra_sections=[("Parity <1>", "<p>all <b>equal</b></p>")])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert_only_our_scripts(page)
    assert page.headings[0] == nasty
    assert "Parity <1>" in page.headings
    assert "<p>all <b>equal</b></p>" in text
    assert {"winner/model.onnx", "trials.jsonl", "results.csv", "loss.svg"} <= set(page.links)
    before = [path.read_bytes() for path in paths]
    write_report(result, extra_sections=[("Parity <1>", "<p>all <b>equal</b></p>")])
    assert [path.read_bytes() for path in paths] == before


def test_same_bytes_twice(written, tmp_path):
    result, paths = written("learning_rates")
    again = examples.learning_rates(tmp_path)
    assert [p.read_bytes() for p in write_report(again)] == [p.read_bytes() for p in paths]
    assert (tmp_path / "results.csv").read_text(encoding="utf-8") == results_csv(result)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == results_markdown(result)
    assert (tmp_path / "results.tex").read_text(encoding="utf-8") == results_latex(result)


def test_page_without_figures_of_its_own(tmp_path):
    result = examples.single(tmp_path)
    assert Page(report_html(result)).sources
    assert not Page(report_html(result, {})).sources


def test_a_missing_folder_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        write_report(examples.autoencoder(tmp_path / "missing"))


def test_results_keep_to_their_folder(written):
    result, paths = written("single")
    assert {path.parent for path in paths} == {Path(result.directory)}
