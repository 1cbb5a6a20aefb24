"""Whole searches: the tables they fill, and that they go on to the same trials after a kill."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import jax
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.sweep import Watcher, run
from flaxvision.sweep.search.records import SEARCHED
from flaxvision.sweep.search.study import JOURNAL
from flaxvision.sweep.trials import Trial
from flaxvision.sweep.work import Cohort
from tests.conftest import slow, until
from tests.sweep.searches import ONE, lines, without_times

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.quick


def test_a_search_finds_the_cells_of_its_table(searched, population, tmp_path):
    """Of each batch a quarter goes on; the two best settings are trained anew with the sweep's own seeds."""
    result = run(searched(), tmp_path / "run", export=False, report=False, executor="loop")
    records = lines(tmp_path / "run")
    assert [record["number"] for record in records] == list(range(12))
    assert [record["size"] for record in records] == [8] * 8 + [4] * 4
    assert len({record["seed"] for record in records}) == 12
    for batch in (records[:8], records[8:]):
        alive = [record for record in batch if record["status"] in ("ok", "pruned")]
        alive.sort(key=lambda record: abs(math.log10(record["config"]["learning_rate"]) + 2))
        assert [record["status"] for record in alive] == ["ok"] + ["pruned"] * (len(alive) - 1)
        reached = [record["rungs"][-1][0] for record in alive]
        assert reached == ([9, 3] if len(batch) == 8 else [9]) + [1] * (len(alive) - (2 if len(batch) == 8 else 1))
    assert {r["status"] for r in records if r["config"]["learning_rate"] > 0.6} <= {"diverged", "failed"}
    best = sorted((r for r in records if r["status"] == "ok"), key=lambda record: record["rungs"][-1][1])
    assert [cell.where for cell in result.cells] == [record["cell"] for record in best]
    assert [[outcome.seed for outcome in cell.outcomes] for cell in result.cells] == [[0, 1], [0, 1]]
    assert {outcome.stage for outcome in result.outcomes} == {"sweep"}
    study = optuna.load_study(
        study_name="tiny",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / JOURNAL))
        ),
    )
    assert study.best_value == best[0]["rungs"][-1][1]
    opened = fv.runs.open(tmp_path / "run")
    assert (opened.state, opened.expected) == ("complete", 4)
    frame = opened.search.to_frame()
    assert list(frame["learning_rate"]) == [record["config"]["learning_rate"] for record in records]
    assert list(frame["status"]) == [record["status"] for record in records]


def test_an_interrupted_search_goes_on_to_the_same_trials(searched, population, tmp_path):
    """Also after a kill in the middle of a batch's lines, and with more trials; but not to another search."""
    table = searched(search={"trials": 20})
    quick = {"export": False, "report": False, "executor": "loop"}
    run(table, tmp_path / "whole", **quick)
    population.stop = len({(r["batch"], r["cell"]["optimizer"]) for r in lines(tmp_path / "whole")}) - 1
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path / "cut", **quick)
    assert len(lines(tmp_path / "cut")) == 16
    with open(tmp_path / "cut" / SEARCHED, "ab") as file:
        file.write((tmp_path / "whole" / SEARCHED).read_bytes().splitlines(keepends=True)[16] + b'{"id": "ab')
    population.stop = math.inf
    population.begun.clear()
    fv.sweep.resume(tmp_path / "cut", **quick)
    assert sum(population.begun) == 4
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    cut, whole = (fv.runs.open(tmp_path / name).table for name in ("cut", "whole"))
    assert [cell.values("test_loss") for cell in cut] == [cell.values("test_loss") for cell in whole]
    with pytest.raises(UserError, match="search batch was 8, is 4"):
        run(searched(search={"batch": 4}), tmp_path / "cut", resume=True, **quick)
    run(searched(search={"trials": 24}), tmp_path / "cut", resume=True, **quick)
    assert without_times(tmp_path / "cut")[:20] == without_times(tmp_path / "whole")
    assert len(lines(tmp_path / "cut")) == 24


def test_a_search_that_reaches_nothing_says_so(searched, population, tmp_path):
    rates = {"optimizer": ["sgd", "adam"], "learning_rate": {"low": 0.7, "high": 1.0}}
    reached = r"none .* 12 trials reached a finite val_loss \(\d+ \w+, \d+ \w+\): .*, such as lower learning rates"
    with pytest.raises(UserError, match=reached):
        run(searched(search={"space": rates}), tmp_path / "run", export=False, report=False)
    records = lines(tmp_path / "run")
    told = {(record["cell"]["optimizer"], record["status"], record.get("message")) for record in records}
    here = "RuntimeError: cannot be trained (searches.py, line "
    assert {(name, status) for name, status, _ in told} == {("sgd", "diverged"), ("adam", "failed")}
    assert all(message.startswith(here) for name, _, message in told if name == "adam")
    assert all(record["rungs"] == [] for record in records if record["status"] == "failed")


def test_a_batch_that_cannot_be_trained_is_tried_again(searched, population, tmp_path):
    quick = {"export": False, "report": False, "executor": "loop"}
    table = searched(search={"trials": 8, "finalists": 1}, seeds=1)
    population.broken = True
    with pytest.raises(UserError, match=r"batch 1 of the search .* all 8 trials of it failed: out of memory.*resume"):
        run(table, tmp_path / "cut", **quick)
    assert not (tmp_path / "cut" / SEARCHED).exists()
    population.broken = False
    fv.sweep.resume(tmp_path / "cut", **quick)
    assert len(lines(tmp_path / "cut")) == 8
    assert "ok" in {record["status"] for record in lines(tmp_path / "cut")}


def test_no_search_begins_from_a_pretraining_that_failed(searched, population, tmp_path, monkeypatch):
    def fails(cohort, callbacks):
        raise MemoryError

    monkeypatch.setattr(Cohort, "run", fails)
    table = searched(pretrain={"recipe": {"epochs": 1}}, recipe={"warm_start": "pretrain", "epochs": 9})
    with pytest.raises(UserError, match=r"search has not begun, as the pretraining .* failed: out of memory.*resume"):
        run(table, tmp_path / "run", export=False, report=False, executor="loop")
    assert not population.begun
    assert not (tmp_path / "run" / SEARCHED).exists()


def test_a_network_that_has_changed_since_the_search_began_is_taken_from_the_run(
    searched, population, tmp_path, monkeypatch
):
    """Also before the table's first trial has ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "net_searched.py", None)  # gone when the test is over
    code = "def small(build, outputs, width={}):\n    build.flatten('flat')\n    build.linear('out', outputs)\n"
    (tmp_path / "net_searched.py").write_text(code.format(8))
    quick = {"export": False, "report": False, "executor": "loop"}
    search = {"trials": 8, "batch": 4, "finalists": 1, "space": ONE}
    population.stop = 1
    with pytest.raises(KeyboardInterrupt):
        run(searched(model="net_searched.py:small", sizes=None, seeds=1, search=search), tmp_path / "run", **quick)
    assert len(lines(tmp_path / "run")) == 4
    (tmp_path / "net_searched.py").write_text(code.format(9))
    del sys.modules["net_searched.py"]  # as in another process
    population.stop, watch, notes = math.inf, Watcher(), []
    monkeypatch.setattr(watch, "note", notes.append)
    fv.sweep.resume(tmp_path / "run", watch=watch, **quick)
    assert "the code of net_searched.py:small has changed: the run's own copy is taken" in notes
    assert len(lines(tmp_path / "run")) == 8


class Compilations(Watcher):
    """Counts what is compiled while each batch trains."""

    def __init__(self):
        self.compiled, self.batches = 0, []

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self.hear)
        return super().__enter__()

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self.hear)

    def hear(self, event, seconds, **_):
        self.compiled += event == "/jax/core/compile/backend_compile_duration"

    def begin(self, cohorts, objective, kept=()):
        super().begin(cohorts, objective, kept)
        self.begun, self.stage_begun = self.compiled, cohorts[0].trials[0].stage

    def end(self, cohort, records):
        super().end(cohort, records)
        if self.stage_begun == "search":
            self.batches.append(self.compiled - self.begun)


def test_a_batch_trains_as_its_trials_would_alone_and_compiles_nothing_new(tiny, tmp_path):
    space = {"learning_rate": {"low": 0.01, "high": 0.5}, "momentum": {"low": 0.1, "high": 0.9}}
    search = {"trials": 8, "batch": 4, "halving": [1], "factor": 2, "finalists": 1, "space": space}
    table = tiny(data={"validation": 0.25}, recipe={"epochs": 3}, objective="val_loss", search=search)
    watch = Compilations()
    run(table, tmp_path / "run", export=False, report=False, executor="loop", watch=watch)
    first, second = watch.batches
    assert first > 0
    assert second == 0
    records = lines(tmp_path / "run")
    assert sorted(record["status"] for record in records[:4]) == ["ok", "ok", "pruned", "pruned"]
    record = next(record for record in records if record["status"] == "ok")
    data = fv.data.load("glyphs", limit=128, size=8, validation=0.25)
    settings = Trial.of_record(record).config.recipe
    model = fv.models.create("mlp", hidden=(8,), input_shape=data.input_shape, seed=record["seed"])
    alone = fv.fit(model, data, fv.Recipe(**settings, seed=record["seed"])).history["val_loss"]
    assert record["rungs"] == [[1, alone[0]], [3, alone[2]]]


class Ender(Watcher):
    """Ends a search at an epoch's end, after so many of them, each of which takes some seconds more."""

    def __init__(self, epochs, seconds=0.0):
        self.left, self.seconds, self.notes, self.trained = epochs, seconds, [], []

    def callbacks(self, cohort):
        return [*super().callbacks(cohort), self.see]

    def see(self, progress):
        self.notes += [progress.note] if progress.note else []
        self.left -= bool(progress.metrics)
        time.sleep(self.seconds if progress.metrics else 0.0)
        self.trained += [progress.epoch] if progress.metrics else []
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("executor", ["loop", slow("vmap")])
def test_a_batch_that_was_ended_goes_on_where_it_was(searched, tmp_path, executor):
    """Within epochs, at rungs and after them, some members dropped: the same trials reach the same to the bit."""
    table, cut, notes = searched(search={"trials": 8}, recipe={"epochs": 6}), tmp_path / "cut", []
    options = {"export": False, "report": False, "executor": executor}
    run(table, tmp_path / "whole", **options, checkpoint_every=math.inf)
    for epochs in (3, 3, 3):
        watch = Ender(epochs)
        with pytest.raises(KeyboardInterrupt):
            run(table, cut, **options, watch=watch, checkpoint_every=1e-9, resume=cut.exists())
        assert not (cut / SEARCHED).exists()
        notes += watch.notes
    run(table, cut, **options, checkpoint_every=1e-9, resume=True)
    assert set(notes) == {"goes on from epoch 2", "goes on from epoch 4"}
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_batch_that_was_ended_after_its_last_rung_trains_nothing_twice(searched, tmp_path):
    options = {"export": False, "report": False, "executor": "loop"}
    table = searched(search={"trials": 8, "space": ONE, "finalists": 1}, recipe={"epochs": 6}, seeds=1)
    run(table, tmp_path / "whole", **options, checkpoint_every=math.inf)
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path / "cut", **options, watch=Ender(5, seconds=0.5), checkpoint_every=1e-9)
    watch = Ender(math.inf)
    run(table, tmp_path / "cut", **options, watch=watch, checkpoint_every=math.inf, resume=True)
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    records = sorted(lines(tmp_path / "cut"), key=lambda record: record["rungs"][-1][0])
    assert [record["rungs"][-1][0] for record in records] == [1] * 6 + [3, 6]
    second, best = 0.5 / 8 + 0.5 / 2, 0.5 / 8 + 2 * 0.5 / 2 + 0.5  # least seconds of the epochs before the end
    assert records[-2]["seconds"] >= second
    assert records[-1]["seconds"] >= best
    assert watch.notes == ["goes on from epoch 5"]
    assert watch.trained == [5, 6, *range(1, 7)]  # those of the search, and the table's trial


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_to_the_same_trials(searched, spec_file, tmp_path):
    """A process of its own ends by SIGKILL after its first batch; what is left is as if nobody had ended it."""
    path = spec_file(searched(search={"trials": 48}, recipe={"epochs": 20}))
    typed = [sys.executable, "-m", "flaxvision", "sweep", path, "--no-export", "--quiet", "--out"]
    searched_file = tmp_path / "cut" / SEARCHED

    def batch_is_kept():
        return searched_file.exists() and searched_file.read_bytes().count(b"\n") >= 8

    with subprocess.Popen([*typed, tmp_path / "cut"]) as process:
        try:
            assert until(lambda: batch_is_kept() or process.poll() is not None)
            assert process.poll() is None
        finally:
            process.kill()
    assert 8 <= len(lines(tmp_path / "cut")) < 48
    assert not (tmp_path / "cut" / "trials.jsonl").exists() or not (tmp_path / "cut" / "trials.jsonl").read_text()
    for words in ([*typed, tmp_path / "cut", "--resume"], [*typed, tmp_path / "whole"]):
        subprocess.run(words, check=True)
    assert len(lines(tmp_path / "whole")) == 48
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    cut, whole = (fv.runs.open(tmp_path / name) for name in ("cut", "whole"))
    assert [(cell.where, cell.values("test_loss")) for cell in cut.table] == [
        (cell.where, cell.values("test_loss")) for cell in whole.table
    ]
