"""status.json and the page of a sweep that runs: there from the start, right at the end, also of one that is ended."""

from __future__ import annotations

import json
import os

import pytest

from flaxvision.sweep import live, parse_spec, run
from flaxvision.sweep.progress import Watcher

OPTIONS = {"executor": "loop", "export": False}


class Looker(Watcher):
    """Reads the folder as each trial ends, and may then end the sweep."""

    def __init__(self, ends_after: int = 9):
        self.left, self.seen = ends_after, []

    def end(self, cohort, records) -> None:
        super().end(cohort, records)
        status, page = (self.directory / name for name in ("status.json", "report.html"))
        self.seen.append((json.loads(status.read_text()), page.read_text(encoding="utf-8") if page.exists() else ""))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def spec(tiny):
    return parse_spec(tiny(grid={"learning_rate": [0.1, 0.01]}, title="<b>Rates</b>"))


def test_a_sweep_has_a_page_and_a_status_while_it_runs(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "STATUS_EVERY", 1e6)  # so that the first ones stay
    watch = Looker()
    result = run(spec, tmp_path / "run", watch=watch, **OPTIONS)
    (status, page), *_ = watch.seen
    assert (status["state"], status["doing"], status["trials"], status["ended"]) == ("running", "training", 2, 0)
    assert (status["share"], status["best"], status["process"]) == (0, None, os.getpid())
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "&lt;b&gt;Rates&lt;/b&gt;" in page
    assert "0/2 trials · 0 %" in page
    assert "<figure" not in page
    done = json.loads((tmp_path / "run" / "status.json").read_text())
    value = max(cell.mean("test_top1") for cell in result.cells)
    best = {"metric": "test_top1", "value": value, "cell": dict(result.winner.cell)}
    assert {key: done[key] for key in ("state", "doing", "trials", "ended", "failed", "share", "best")} == {
        "state": "done", "doing": "", "trials": 2, "ended": 2, "failed": 0, "share": 1.0, "best": best,
    }  # fmt: skip
    final = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "http-equiv" not in final
    assert "<h3>Most confident mistakes</h3>" in final


def test_the_page_of_a_sweep_that_was_ended_says_so_and_shows_what_there_is(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "STATUS_EVERY", 0.01)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "run", watch=Looker(ends_after=1), **OPTIONS)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["trials"]) == ("interrupted", 2)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "http-equiv" not in page
    assert "Interrupted" in page
    assert "2 trials · " in page
    assert "<code>flaxvision resume</code> with this folder continues" in page
    resumed = Looker()
    run(spec, tmp_path / "run", resume=True, watch=resumed, **OPTIONS)
    (status, page), *_ = resumed.seen
    assert (status["trials"], status["ended"]) == (2, 1)
    assert "Results so far" in page
    assert page.count('<td class="label">0.1</td>') == 1


def test_without_a_report_there_is_no_page(spec, tmp_path):
    watch = Looker()
    run(spec, tmp_path / "run", watch=watch, report=False, **OPTIONS)
    assert [page for _, page in watch.seen] == ["", ""]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


def test_a_page_that_cannot_be_made_is_said_once_and_costs_nothing(spec, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no page")

    monkeypatch.setattr("flaxvision.report.page.report_html", broken)
    monkeypatch.setattr("flaxvision.report.report_html", broken, raising=False)
    said = []
    watch = Watcher()
    watch.note = said.append
    run(spec, tmp_path / "run", watch=watch, report=True, **OPTIONS)
    assert said == ["the page of the running sweep is not kept up: no page"]
