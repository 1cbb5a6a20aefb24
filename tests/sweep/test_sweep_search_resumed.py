"""Searches that met a fault, or were ended, and go on."""

from __future__ import annotations

import json

import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.sweep import Watcher, parse_spec, run
from flaxvision.sweep.arrange import asked_before
from flaxvision.sweep.records import line_of
from flaxvision.sweep.search.records import SEARCHED
from flaxvision.sweep.search.study import Study

pytest.importorskip("optuna")
pytestmark = pytest.mark.quick

QUICK = {"export": False, "report": False, "executor": "loop"}


@pytest.fixture
def searched(tiny):
    """The table of a small search, of one program and one epoch."""

    def make(**search):
        space = {"learning_rate": {"low": 1e-3, "high": 0.5, "log": True}}
        search = {"trials": 8, "batch": 1, "finalists": 1, "space": space} | search
        return tiny(data={"validation": 0.25}, seeds=1, objective="val_loss", search=search)

    return make


@pytest.fixture
def failing(monkeypatch):
    """The numbers of trials that fail, one after the other; others reach their learning rate, and nothing trains."""
    numbers, count = set(), [0]

    def train(parts, *_):
        reached = [each for part in parts for each in part.going.values()]
        for each in reached:
            if count[0] in numbers:
                each.status, each.message = "failed", "out of memory"
            else:
                each.rungs.append((1, each.trial.config.recipe["learning_rate"]))
            count[0] += 1
        return reached

    monkeypatch.setattr("flaxvision.sweep.search._search.train_batch", train)
    return numbers


def statuses(directory):
    return [json.loads(line)["status"] for line in (directory / SEARCHED).read_text().splitlines()]


def test_a_setting_that_cannot_be_trained_does_not_end_the_search(searched, failing, tmp_path):
    """As the only trial of its batch, the first, the last, or one of a few in a row."""
    failing |= {0, 1, 2, 5, 7}
    run(searched(), tmp_path / "run", **QUICK)
    assert statuses(tmp_path / "run") == ["failed"] * 3 + ["ok"] * 2 + ["failed", "ok", "failed"]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_search_ends_where_its_last_trials_all_failed(searched, failing, tmp_path, batch):
    failing |= {2, 3, 4, 5}
    with pytest.raises(UserError, match=r"the last 4 trials failed: out of memory; it is not on record.*resume"):
        run(searched(batch=batch), tmp_path / "run", **QUICK)
    assert len(statuses(tmp_path / "run")) == 6 - batch
    failing.clear()
    fv.sweep.resume(tmp_path / "run", **QUICK)
    assert statuses(tmp_path / "run") == ["ok"] * 2 + ["failed"] * (4 - batch) + ["ok"] * (2 + batch)


class Notes(Watcher):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_search_goes_on_by_the_executor_that_was_asked_for_last(searched, failing, tmp_path):
    run(searched(), tmp_path / "run", **QUICK)
    run(searched(trials=9), tmp_path / "run", resume=True, **QUICK | {"executor": "threads"})
    assert asked_before(tmp_path / "run") == "threads"


def test_a_damaged_arrangement_is_told_of_a_search_too(searched, failing, tmp_path):
    run(searched(), tmp_path / "run", **QUICK)
    (tmp_path / "run" / "arrangement.json").write_text("{")
    watch = Notes()
    run(searched(trials=9), tmp_path / "run", resume=True, watch=watch, **QUICK)
    assert [note.partition(",")[0] for note in watch.notes] == ["arrangement.json is damaged"]


@pytest.mark.parametrize(("low", "high", "step"), [(0, 1, 1e-30), (0.0, 1e300, 1.0)])
def test_more_steps_than_can_be_counted_are_one_line(searched, low, high, step):
    space = {"momentum": {"low": low, "high": high, "step": step}}
    with pytest.raises(UserError, match=r"momentum goes from .* are too many to be counted: give a larger step"):
        parse_spec(searched(space=space))


def test_trials_of_other_versions_name_both(searched):
    study = Study(parse_spec(searched()).search, lower_is_better=True)
    record = {"number": 0, "cell": {"learning_rate": "0.5"}}
    with pytest.raises(UserError, match=r"asks for, by flaxvision \S+ and Optuna \S+: install the versions that began"):
        study.repeat([(record,)])


def test_a_dry_run_refuses_what_the_run_would(searched, spec_file, failing, command, tmp_path):
    """Where the search alone has begun, under another setting of JAX."""
    out = tmp_path / "run"
    run(searched(), out, **QUICK)
    (out / "trials.jsonl").write_text("")
    records = [json.loads(line) for line in (out / SEARCHED).read_text().splitlines()]
    records[0]["identity"]["jax_enable_x64"] = True
    (out / SEARCHED).write_text("".join(map(line_of, records)))
    words = spec_file(searched()), "--out", out, "--resume"
    refused, dry = command(*words), command(*words, "--dry-run")
    assert dry[0] == refused[0] == 2
    assert dry[2] == refused[2].removeprefix(f"run folder: {out}\n")
    assert "jax_enable_x64 was true, is false" in dry[2]
