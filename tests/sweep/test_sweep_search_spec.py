"""What searches may be, and what they ask for."""

from __future__ import annotations

import math
import tomllib
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxvision.errors import UserError
from flaxvision.sweep import load_spec, override, parse_spec, run
from flaxvision.sweep.search.draw import probes
from flaxvision.sweep.search.found import next_batch
from flaxvision.sweep.search.study import Study, _distribution
from flaxvision.sweep.spec import Choices, Range, Search
from flaxvision.sweep.spec_file import dump_spec
from tests.sweep.searches import RATES, SPACE

pytest.importorskip("optuna")
pytestmark = pytest.mark.quick


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


def test_dry_run_says_what_would_be_searched(searched, spec_file, command):
    status, out, _ = command(spec_file(searched()), "--dry-run")
    assert status == 0
    assert "searches  learning_rate: 0.0001 to 1.0, evenly in its logarithm" in out
    assert "searches  momentum: 0.5 to 0.99, with optimizer sgd" in out
    assert "search    12 trials, 8 at a time, drawn by tpe" in out
    assert "halving   of each 8: 8 train for 1 epoch, 2 train for 3 epochs, 1 to the end" in out
    assert "trials    4 for the table (2 cells x 2 seeds), trained anew" in out
