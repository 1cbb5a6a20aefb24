"""Searches: what they may be, what they ask for, who goes on, and that they go on to the same trials after a kill."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
import tomllib
from typing import ClassVar

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxvision as fv
import flaxvision.training
from flaxvision.errors import UserError
from flaxvision.sweep import Watcher, load_spec, override, parse_spec, run
from flaxvision.sweep.search.draw import probes
from flaxvision.sweep.search.found import next_batch
from flaxvision.sweep.search.records import SEARCHED
from flaxvision.sweep.search.study import JOURNAL, Study
from flaxvision.sweep.spec import Choices, Range, Search
from flaxvision.sweep.spec_file import dump_spec
from flaxvision.sweep.trials import Trial

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.quick

RATES = {"low": 1e-4, "high": 1.0, "log": True}
SPACE = {
    "optimizer": ["sgd", "adam"],
    "learning_rate": RATES,
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
}


@pytest.fixture
def searched(tiny):
    """The table of a small search: 12 trials, 8 at a time, of 9 epochs, of which the best quarter goes on after 1."""

    def make(**changes):
        search = {"trials": 12, "batch": 8, "halving": [1, 3], "finalists": 2, "space": SPACE}
        search |= changes.pop("search", {})
        given = {"data": {"validation": 0.25}, "recipe": {"epochs": 9}, "seeds": 2, "objective": "val_loss"}
        return tiny(**given | changes, search=search)

    return make


class Population:
    """Stands for a population: it loses the less the nearer its learning rate is to 0.01, and the longer it trains."""

    begun: ClassVar[list[int]] = []  # members of each
    stop = math.inf  # so many populations, then Ctrl-C

    def __init__(self, models, dataset, recipes, *, mode, devices, callbacks, checkpoint):
        type(self).stop -= 1
        if self.stop < 0:
            raise KeyboardInterrupt
        self.recipes, self.epoch, self.epochs = dict(enumerate(recipes)), 0, recipes[0].epochs
        self.begun.append(len(recipes))

    @property
    def members(self):
        return tuple(self.recipes)

    def train(self, epochs):
        for member in self.members:
            self.reached(self.recipes[member])
        self.epoch += epochs

    def scores(self, epoch):
        assert epoch == self.epoch
        return {member: self.reached(recipe) for member, recipe in self.recipes.items()}

    def reached(self, recipe):
        if recipe.learning_rate > 0.6 and recipe.optimizer == "adam":
            raise RuntimeError("cannot be trained")
        if recipe.learning_rate > 0.6:
            return {"train_loss": math.nan, "val_loss": math.nan, "val_top1": 0.1}
        loss = abs(math.log10(recipe.learning_rate) + 2) + 1 / max(1, self.epoch)
        return {"train_loss": loss, "val_loss": loss, "val_top1": 1 / (1 + loss), "test_loss": 0.0}

    def keep(self, members):
        self.recipes = {member: self.recipes[member] for member in members}


@pytest.fixture
def population(monkeypatch):
    """Takes the place of the real one, which is tested below where somebody asks for slow tests."""
    fresh = type("Fresh", (Population,), {"begun": []})
    monkeypatch.setattr(flaxvision.training, "Population", fresh, raising=False)
    return fresh


def lines(directory):
    return [json.loads(line) for line in (directory / SEARCHED).read_text().splitlines()]


def without_times(directory):
    left_out = ("seconds", "elapsed", "checksums")
    return [{key: value for key, value in record.items() if key not in left_out} for record in lines(directory)]


def test_a_search_is_written_as_it_is_read(searched):
    space = {
        **SPACE,
        "hidden": {"low": 8, "high": 64, "step": 8},
        "batch_size": {"values": [16, 32], "when": {"optimizer": ["adam", "sgd"]}},
        "kind": [{"name": "plain"}, {"name": "smooth", "label_smoothing": 0.1, "clip_norm": 1}],
    }
    spec = parse_spec(searched(search={"space": space, "sampler": "sobol", "minutes": 2, "seed": 3}))
    assert spec.search == Search(
        {
            "optimizer": spec.search.choices["optimizer"],
            "learning_rate": Range(1e-4, 1.0, True),
            "momentum": Range(0.5, 0.99, when={"optimizer": ("sgd",)}),
            "hidden": Range(8, 64, step=8),
            "batch_size": Choices(spec.search.choices["batch_size"].points, {"optimizer": ("adam", "sgd")}),
            "kind": spec.search.choices["kind"],
        },
        sampler="sobol",
        trials=12,
        minutes=2,
        batch=8,
        halving=(1, 3),
        finalists=2,
        seed=3,
    )
    assert parse_spec(tomllib.loads(dump_spec(spec))) == spec
    assert spec.keys == tuple(space)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "bayes"}, "unknown sampler 'bayes'.*random, sobol, tpe"),
        ({"objective": "val_loss"}, "move it to the top"),
        ({"trails": 3}, "unknown key of .search. 'trails': did you mean 'trials'"),
        ({"space": {}}, "has no space: give .search.space."),
        ({"trials": 0}, "trials is 0: give a whole number, 1 or more"),
        ({"trials": 1}, "finalists is 2, but it tries 1"),
        ({"minutes": -1}, "minutes is -1: give a number above 0"),
        ({"halving": [3, 1]}, r"halving is \[3, 1\]: give epochs that rise"),
        ({"halving": [], "factor": 3}, "factor has no effect without halving"),
        ({"factor": 1}, "factor is 1: give a whole number, 2 or more"),
        ({"space": {"lr": [1]}}, "unknown key of .search.space. 'lr': did you mean 'learning_rate'"),
        ({"space": {"momentum": 0.5}}, "'momentum' is 0.5: give { low = 1e-4"),
        ({"space": {"momentum": {"low": 0.5}}}, "momentum in .search.space. has no high"),
        ({"space": {"momentum": {"low": 0.5, "high": 0.5}}}, "from 0.5 to 0.5: give low below high"),
        ({"space": {"momentum": {"low": 0, "high": 0.5, "log": True}}}, "low is 0 with log = true"),
        ({"space": {"momentum": {"low": "a", "high": 0.5}}}, "momentum low is a: give a number"),
        ({"space": {"momentum": {"low": 0, "high": 1, "hihg": 2}}}, "unknown entry of momentum .*'hihg'"),
        ({"space": {"momentum": {**RATES, "step": 0.1}}}, "momentum has both log and step"),
        ({"space": {"momentum": {**RATES, "when": {"optimizer": "sgd"}}, **SPACE}}, "give a key above it"),
        ({"space": {**SPACE, "beta1": {**RATES, "when": {"optimizer": "adm"}}}}, "unknown value of optimizer .*'adm'"),
        ({"space": {**SPACE, "beta1": {**RATES, "when": {"learning_rate": 1}}}}, r"list of values \(optimizer\)"),
        ({"space": {"batch_size": []}}, "'batch_size' is empty"),
    ],
)
def test_what_no_search_can_be_is_refused(searched, search, message):
    with pytest.raises(UserError, match=message) as error:
        parse_spec(searched(search=search))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"validation": 0}}, "no validation split: give validation=0.2"),
        ({"data": {"validation": 0}, "objective": "auto"}, "held out, and there are none: give validation = 0.2"),
        ({"objective": "test_top1"}, "would spoil it: give 'val_top1'"),
        ({"grid": {"batch_size": [16, 32]}}, r"\(batch_size\) are given: the search fills the table"),
        ({"seeds": [2**31]}, "seed 2147483648 is one of those that a search takes"),
        ({"recipe": {"epochs": 2}}, "halving has 3, but a trial ends after 2 epochs"),
        ({"search": {"space": {**SPACE, "momentum": [0.5, 0.9]}}}, "momentum is searched for optimizer 'adam' too"),
        ({"search": {"space": {"batch_size": {"low": 16, "high": 1000}}}}, "batch_size is 1000 but there are"),
    ],
)
def test_what_would_fail_later_is_found_before(searched, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(searched(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_in_place_of_the_search_s(searched):
    spec = parse_spec(searched())
    fixed = override(spec, settings=["learning_rate=0.1"], epochs=2)
    assert (fixed.base["learning_rate"], fixed.keys, fixed.search.halving) == (0.1, ("optimizer", "momentum"), (1,))
    varied = override(spec, settings=["learning_rate=0.1,0.2"])
    assert varied.search.choices["learning_rate"].labels == ["0.1", "0.2"]
    assert "learning_rate" in varied.changed
    with pytest.raises(UserError, match="optimizer decides about momentum"):
        override(spec, settings=["optimizer=sgd"])
    with pytest.raises(UserError, match="nothing is left to search"):
        override(parse_spec(searched(search={"space": {"momentum": [0.5, 0.9]}})), settings=["momentum=0.5"])


def test_probes_have_every_value_and_both_ends():
    space = load_spec("glyphs-search").search.space
    found = [{key: point.label for key, point in drawn.items()} for drawn in probes(space)]
    assert {drawn["optimizer"] for drawn in found} == {"sgd", "adam"}
    assert {float(drawn["learning_rate"]) for drawn in found} == {1e-4, 1.0}
    assert {drawn.get("momentum") for drawn in found if drawn["optimizer"] == "sgd"} == {"0.5", "0.99"}
    assert all("momentum" not in drawn for drawn in found if drawn["optimizer"] == "adam")


KINDS = st.sampled_from(["ok", "pruned", "diverged", "failed"])


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["random", "sobol", "tpe"]), st.lists(st.lists(KINDS, min_size=1, max_size=4), max_size=4))
def test_a_study_that_repeats_its_records_asks_for_the_same(sampler, kinds):
    space = parse_spec({"dataset": "glyphs", "model": "mlp", "search": {"space": SPACE}}).search.space
    search = Search(space, sampler=sampler)
    first, told, number = Study(search, lower_is_better=True), [], 0
    for statuses in kinds:
        batch = []
        for status, drawn in zip(statuses, first.ask(len(statuses)), strict=True):
            rate = drawn["learning_rate"].settings["learning_rate"]
            assert 1e-4 <= rate <= 1
            assert ("momentum" in drawn) == (drawn["optimizer"].label == "sgd")
            cell = {key: drawn[key].label if key in drawn else "–" for key in space}
            rungs = {"failed": [], "diverged": [(1, None)], "pruned": [(1, rate)], "ok": [(1, rate), (3, rate)]}[status]
            batch.append({"number": number, "cell": cell, "status": status, "rungs": rungs})
            number += 1
        first.tell(tuple(batch))
        told.append(tuple(batch))
    again = Study(search, lower_is_better=True)
    again.repeat(told)
    assert again.ask(3) == first.ask(3)
    if told:
        changed = ({**told[0][0], "cell": {**told[0][0]["cell"], "learning_rate": "0.5"}}, *told[0][1:])
        with pytest.raises(UserError, match="other settings for trial 0"):
            Study(search, lower_is_better=True).repeat([changed, *told[1:]])


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


def test_a_search_ends_with_its_trials_or_its_time():
    space = {"momentum": Range(0.1, 0.9)}
    records = [{"elapsed": 50.0}] * 16 + [{"elapsed": 130.0}] * 16
    for search, expected in (
        (Search(space), [16, 16, 16]),
        (Search(space, trials=20), [16, 4, 0]),
        (Search(space, minutes=2), [16, 16, 0]),
        (Search(space, trials=20, minutes=1, batch=30), [20, 4, 0]),
    ):
        assert [next_batch(search, records[:done]) for done in (0, 16, 32)] == expected
    assert next_batch(Search(space), records * 2) == 0  # 64 trials, if nothing is said


def test_a_search_that_reaches_nothing_says_so(searched, population, tmp_path):
    rates = {"optimizer": ["sgd", "adam"], "learning_rate": {"low": 0.7, "high": 1.0}}
    with pytest.raises(UserError, match="none of the search's 12 trials reached a finite val_loss"):
        run(searched(search={"space": rates}), tmp_path / "run", export=False, report=False)
    records = lines(tmp_path / "run")
    told = {(record["cell"]["optimizer"], record["status"], record.get("message")) for record in records}
    here = "RuntimeError: cannot be trained (test_sweep_search.py, line "
    assert {(name, status) for name, status, _ in told} == {("sgd", "diverged"), ("adam", "failed")}
    assert all(message.startswith(here) for name, _, message in told if name == "adam")
    assert all(record["rungs"] == [] for record in records if record["status"] == "failed")


def test_dry_run_says_what_would_be_searched(searched, spec_file, command):
    status, out, _ = command(spec_file(searched()), "--dry-run")
    assert status == 0
    assert "searches  learning_rate: 0.0001 to 1.0, evenly in its logarithm" in out
    assert "searches  momentum: 0.5 to 0.99, with optimizer sgd" in out
    assert "search    12 trials, 8 at a time, drawn by tpe" in out
    assert "halving   of each 8: 8 train for 1 epoch, 2 train for 3 epochs, 1 to the end" in out
    assert "trials    4 for the table (2 cells x 2 seeds), trained anew" in out


class Compilations(Watcher):
    """Counts what is compiled while each batch trains."""

    def __init__(self):
        self.compiled, self.batches = 0, []
        jax.monitoring.register_event_duration_secs_listener(self.note)

    def note(self, event, seconds, **_):
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
    """Ends a search at an epoch's end, after so many of them."""

    def __init__(self, epochs):
        self.left, self.notes = epochs, []

    def callbacks(self, cohort):
        return [*super().callbacks(cohort), self.see]

    def see(self, progress):
        self.notes += [progress.note] if progress.note else []
        self.left -= bool(progress.metrics)
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("executor", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_to_the_same_trials(searched, spec_file, tmp_path):
    """A process of its own ends by SIGKILL after its first batch; what is left is as if nobody had ended it."""
    path = spec_file(searched(search={"trials": 48}, recipe={"epochs": 20}))
    typed = [sys.executable, "-m", "flaxvision", "sweep", path, "--no-export", "--quiet", "--out"]
    with subprocess.Popen([*typed, tmp_path / "cut"]) as process:
        while not (tmp_path / "cut" / SEARCHED).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
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
