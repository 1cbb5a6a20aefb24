"""Searches: what they may be, what they ask for, who goes on, and that they go on to the same trials after a kill."""

from __future__ import annotations

import collections
import json
import math
import subprocess
import sys
import tomllib
from fractions import Fraction
from types import SimpleNamespace
from typing import ClassVar

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxvision as fv
import flaxvision.training
from flaxvision.errors import UserError
from flaxvision.sweep import Watcher, devices, load_spec, override, parse_spec, run
from flaxvision.sweep.files import DataFolders, RunFiles
from flaxvision.sweep.search.draw import probes
from flaxvision.sweep.search.found import next_batch
from flaxvision.sweep.search.records import SEARCHED
from flaxvision.sweep.search.rungs import share_out, train_batch
from flaxvision.sweep.search.study import JOURNAL, Study, _distribution
from flaxvision.sweep.spec import Choices, Range, Search
from flaxvision.sweep.spec_file import dump_spec
from flaxvision.sweep.trials import SEARCH_SEEDS, Trial, drawn_trial
from flaxvision.sweep.work import Cohort
from tests.conftest import slow, until

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.quick

RATES = {"low": 1e-4, "high": 1.0, "log": True}
SPACE = {
    "optimizer": ["sgd", "adam"],
    "learning_rate": RATES,
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
}

ONE = {"learning_rate": {"low": 1e-3, "high": 0.5, "log": True}}  # one program


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
    broken = False  # whether there is no memory

    def __init__(self, models, dataset, recipes, *, mode, devices, callbacks, checkpoint):
        type(self).stop -= 1
        if self.stop < 0:
            raise KeyboardInterrupt
        self.recipes, self.epoch, self.epochs = dict(enumerate(recipes)), 0, recipes[0].epochs
        self.begun.append(len(recipes))
        self.devices = devices

    @property
    def members(self):
        return tuple(self.recipes)

    def train(self, epochs):
        if self.broken:
            raise MemoryError
        for member in self.members:
            self.reached(self.recipes[member])
        self.epoch += epochs

    def scores(self, epoch, *, selected=False):
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
    """Stands for the real ones, which searches of other tests train."""
    fresh = type("Fresh", (Population,), {"begun": []})
    monkeypatch.setattr(flaxvision.training, "Population", fresh)
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
        ({"seed": 2**33}, "seed is 8589934592: give a whole number, 0 to 4294967295"),
        ({"factor": 1}, "factor is 1: give a whole number, 2 or more"),
        ({"space": {"lr": [1]}}, "unknown key of .search.space. 'lr': did you mean 'learning_rate'"),
        ({"space": {"momentum": 0.5}}, "'momentum' is 0.5: give { low = 1e-4"),
        ({"space": {"momentum": {"low": 0.5}}}, "momentum in .search.space. has no high"),
        ({"space": {"momentum": {"low": 0.5, "high": 0.5}}}, "from 0.5 to 0.5: give low below high"),
        ({"space": {"momentum": {"low": 0, "high": 0.5, "log": True}}}, "low is 0 with log = true"),
        ({"space": {"momentum": {"low": "a", "high": 0.5}}}, "momentum low is a: give a number"),
        ({"space": {"momentum": {"low": 0, "high": 1, "hihg": 2}}}, "unknown entry of momentum .*'hihg'"),
        ({"space": {"momentum": {**RATES, "step": 0.1}}}, "momentum has both log and step"),
        ({"space": {"momentum": {"low": 0.5, "high": 10**400}}}, "momentum high is a number of 1,329 bits"),
        ({"space": {"batch_size": {"low": 32, "high": 100, "step": 32}}}, "to 100: give high = 96, or 128"),
        ({"space": {"batch_size": {"low": 32, "high": 120, "step": 32}}}, "to 120: give high = 128, or 96"),
        ({"space": {"batch_size": {"low": 32, "high": 40, "step": 32}}}, "give high = 64, or a step of 8 at most"),
        ({"space": {"momentum": {"low": 0.1, "high": 0.55, "step": 0.2}}}, "to 0.55: give high = 0.5, or 0.7"),
        ({"space": {"momentum": {"low": 0.1, "high": 0.5, "step": 0.7}}}, "high = 0.8, or a step of 0.4 at most"),
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


@settings(max_examples=50, deadline=None)
@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 99), st.sampled_from([1, 10, 1000]))
def test_a_range_in_steps_has_both_of_its_ends(low, count, step, parts):
    """Of sums of floats, too, which Optuna would cut."""
    exact = [Fraction(number, parts) for number in (low, low + count * step, step)]
    ends = [[int(x) for x in exact]] if parts == 1 else [[float(x) for x in exact]]
    if parts > 1:
        low, high, step = ends[0]
        ends.append([low, low + sum([step] * count), step])
    for low, high, step in ends:
        space = {"dropout": {"low": low, "high": high, "step": step}}
        found = parse_spec({"dataset": "glyphs", "model": "mlp", "search": {"space": space}}).search
        each = found.space["dropout"]
        assert each.high == pytest.approx(high, rel=1e-12, abs=1e-12)
        distribution = _distribution(each)  # Optuna warns of what it cuts, which is an error here
        assert (distribution.low, distribution.high) == (each.low, each.high)
        assert (distribution.high - distribution.low) / distribution.step == pytest.approx(count)


def test_settings_in_place_of_the_search_s(searched):
    spec = parse_spec(searched())
    fixed = override(spec, settings=["learning_rate=0.1"], epochs=2)
    assert (fixed.base["learning_rate"], fixed.keys, fixed.search.halving) == (0.1, ("optimizer", "momentum"), (1,))
    varied = override(spec, settings=["learning_rate=0.1,0.2"])
    assert varied.search.choices["learning_rate"].labels == ["0.1", "0.2"]
    assert "learning_rate" in varied.changed
    durations = parse_spec(searched(search={"space": {**SPACE, "epochs": [6, 9]}}))
    assert override(durations, settings=["epochs=4,9"]).changes == "changed: epochs"
    for typed in ("optimizer=sgd", "optimizer=adam,rmsprop"):
        with pytest.raises(UserError, match="optimizer decides about momentum, which is given with sgd: keep that"):
            override(spec, settings=[typed])
    assert override(spec, settings=["optimizer=rmsprop,sgd"]).search.choices["optimizer"].labels == ["rmsprop", "sgd"]
    for typed in (["optimizer=sgd", "momentum=0.9"], ["momentum=0.9", "optimizer=sgd"]):
        assert override(spec, settings=typed).keys == ("learning_rate",)
    for changes in ({"epochs": 1}, {"settings": ["epochs=1"]}):
        search = override(parse_spec(searched(search={"factor": 2})), **changes).search
        assert (search.halving, search.factor) == ((), 4)
    with pytest.raises(UserError, match="nothing is left to search"):
        override(parse_spec(searched(search={"space": {"momentum": [0.5, 0.9]}})), settings=["momentum=0.5"])


def test_sobol_fills_the_space_of_all_keys_from_the_first_trial_on():
    """A scrambled sequence's first 16 points have one in each sixteenth of every key, given or not."""
    low, width = {"learning_rate": -4, "momentum": 0.0, "dropout": 0.0}, {"learning_rate": 4, "momentum": 0.8}
    space = {
        "optimizer": ["sgd", "adam"],
        "learning_rate": RATES,
        "momentum": {"low": 0.0, "high": 0.8, "when": {"optimizer": "sgd"}},
        "dropout": {"low": 0.0, "high": 0.8, "when": {"optimizer": "adam"}},
    }
    table = {"sampler": "sobol", "seed": 5, "space": space}
    study = Study(parse_spec({"dataset": "glyphs", "model": "mlp", "search": table}).search, lower_is_better=True)
    drawn = study.ask(16)
    assert [each["optimizer"].label for each in drawn].count("sgd") == 8
    for key, count in (("learning_rate", 16), ("momentum", 8), ("dropout", 8)):
        values = [each[key].settings[key] for each in drawn if key in each]
        values = [math.log10(value) if key == "learning_rate" else value for value in values]
        parts = {int(16 * (value - low[key]) / width.get(key, 0.8)) for value in values}
        assert len(values) == len(parts) == count
    assert study.asked[0].params.keys() == drawn[0].keys()


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
    reached = r"none .* 12 trials reached a finite val_loss \(\d+ \w+, \d+ \w+\): .*, such as lower learning rates"
    with pytest.raises(UserError, match=reached):
        run(searched(search={"space": rates}), tmp_path / "run", export=False, report=False)
    records = lines(tmp_path / "run")
    told = {(record["cell"]["optimizer"], record["status"], record.get("message")) for record in records}
    here = "RuntimeError: cannot be trained (test_sweep_search.py, line "
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


def batch_of(searched, directory, **changes):
    """The first trials of a search, shared out to be trained."""
    spec = parse_spec(searched(**changes))
    study = Study(spec.search, lower_is_better=True)
    trials = [drawn_trial(spec, drawn, SEARCH_SEEDS + k, "search") for k, drawn in enumerate(study.ask(8))]
    return share_out(trials, spec, RunFiles(directory, DataFolders()), "loop", math.inf), spec.search


def how_far(parts, search):
    reached = train_batch(parts, search, "loop", lambda cohort: [])
    return {each.trial.id: (each.status, each.rungs) for each in reached}


def test_trials_count_by_the_epoch_that_the_table_selects(searched, population, tmp_path, monkeypatch):
    """But for one that diverged after it, as in the table."""
    scores = population.scores
    rates = {}

    def of_best(self, epoch, *, selected=False):
        rates.update({recipe.seed: recipe.learning_rate for recipe in self.recipes.values()})
        found = scores(self, epoch)
        late = {member for member, recipe in self.recipes.items() if recipe.learning_rate > 0.1 and epoch > 1}
        if selected:
            return {member: {**row, "val_loss": -rates[self.recipes[member].seed]} for member, row in found.items()}
        return {member: {**row, "val_loss": math.nan} if member in late else row for member, row in found.items()}

    monkeypatch.setattr(population, "scores", of_best)
    parts, search = batch_of(searched, tmp_path, search={"space": ONE})
    ended = list(train_batch(parts, search, "loop", lambda cohort: []))
    for each in ended:
        assert each.rungs[0] == (1, -rates[each.trial.seed])
    best, second = sorted(ended, key=lambda each: each.rungs[0][1])[:2]
    assert rates[best.trial.seed] > 0.1
    assert (best.status, best.rungs[1:]) == ("diverged", [(3, None)])
    assert second.status == ("diverged" if rates[second.trial.seed] > 0.1 else "ok")
    assert {each.status for each in ended if each not in (best, second)} == {"pruned"}


def test_a_checkpoint_without_those_that_go_on_is_of_no_use(searched, population, tmp_path, monkeypatch):
    """As where other trials of the batch failed then: it begins anew, once, when such a one is to train."""
    expected = how_far(*batch_of(searched, tmp_path, search={"space": ONE}))
    best = next(id_ for id_, (status, _) in expected.items() if status == "ok")
    begins = population.__init__

    def goes_on(self, models, *arguments, **named):
        begins(self, models, *arguments, **named)
        if len(self.begun) == 1:
            worst = max(self.recipes, key=lambda member: self.reached(self.recipes[member])["val_loss"])
            self.everyone, self.recipes, self.epoch = self.recipes, {worst: self.recipes[worst]}, 3

    def scores(self, epoch, *, selected=False):
        known = getattr(self, "everyone", self.recipes) if epoch == 1 else self.recipes
        before, self.epoch = self.epoch, epoch
        found = {member: self.reached(recipe) for member, recipe in known.items()}
        self.epoch = before
        return found

    population.begun.clear()
    monkeypatch.setattr(population, "__init__", goes_on)
    monkeypatch.setattr(population, "scores", scores)
    found = how_far(*batch_of(searched, tmp_path, search={"space": ONE}))
    assert found == expected
    assert found[best][0] == "ok"
    assert population.begun == [8, 8]


def test_a_trial_alone_in_its_program_has_the_next_device_while_it_trains(searched, population, tmp_path, monkeypatch):
    there, trained = [SimpleNamespace(id=k, device_kind="gpu") for k in range(2)], []
    monkeypatch.setattr(jax, "local_devices", lambda: there)
    for name in ("_now", "_ever"):
        monkeypatch.setattr(devices, name, collections.Counter())

    def train(self, epochs):
        trained.append((self.devices[0].id, dict(devices._now)))
        self.epoch += epochs

    monkeypatch.setattr(population, "train", train)
    space = {"batch_size": {"low": 11, "high": 26}}
    parts, search = batch_of(searched, tmp_path, search={"space": space, "sampler": "sobol", "halving": []})
    assert [len(part.cohort.trials) for part in parts] == [1] * 8
    train_batch(parts, search, "loop", lambda cohort: [])
    assert [device for device, _ in trained] == [k % 2 for k in range(len(parts))]
    assert trained[0][1] == {0: 1}
    assert not any(devices._now.values())


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
    """Ends a search at an epoch's end, after so many of them."""

    def __init__(self, epochs):
        self.left, self.notes, self.trained = epochs, [], []

    def callbacks(self, cohort):
        return [*super().callbacks(cohort), self.see]

    def see(self, progress):
        self.notes += [progress.note] if progress.note else []
        self.left -= bool(progress.metrics)
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
        run(table, tmp_path / "cut", **options, watch=Ender(5), checkpoint_every=1e-9)
    watch = Ender(math.inf)
    run(table, tmp_path / "cut", **options, watch=watch, checkpoint_every=math.inf, resume=True)
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    assert sorted(record["rungs"][-1][0] for record in lines(tmp_path / "cut")) == [1] * 6 + [3, 6]
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
