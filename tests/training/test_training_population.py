"""Populations that are steered between epochs, against runs that are not."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxvision as fv
import flaxvision.training.checkpoint
from flaxvision.errors import UserError
from flaxvision.models.files import variables
from flaxvision.training import Population, Recipe
from flaxvision.training.checkpoint import Keep
from flaxvision.training.members import Separate, Stacked
from flaxvision.training.run import Run
from tests.conftest import made_dataset, slow

pytestmark = pytest.mark.quick

NOW = 1e-9  # seconds between checkpoints: after every compiled call
RECIPE = Recipe(batch_size=16, epochs=4, momentum=0.5, schedule="cosine", select="best", select_on="test_loss")
MEMBERS = 5


@pytest.fixture(scope="module")
def data():
    return made_dataset((4, 4, 1), 3, train=32, test=20)


def cohort(**changes):
    sizes = {"input_shape": (4, 4, 1), "num_classes": 3, "hidden": (6,), "dropout": 0.2}
    recipe = dataclasses.replace(RECIPE, **changes)
    rates = [0.02 * (k + 1) for k in range(MEMBERS)]
    models = [fv.models.create("mlp", seed=k, **sizes) for k in range(MEMBERS)]
    return models, [dataclasses.replace(recipe, seed=k, learning_rate=rate) for k, rate in enumerate(rates)]


def population(data, mode="loop", *, callbacks=(), checkpoint=None, **changes):
    models, recipes = cohort(**changes)
    return Population(models, data, recipes, mode=mode, callbacks=callbacks, checkpoint=checkpoint)


class Killed(BaseException):
    pass


def kill_at(step):
    def callback(progress):
        if progress.step >= step:
            raise Killed

    return callback


def numbers(result):
    return {**variables(result.model), **{f"history {name}": result.history[name] for name in result.history}}


def equal(one, other, atol=0.0):
    ours, theirs = numbers(one), numbers(other)
    assert ours.keys() == theirs.keys()
    assert one.history.steps == other.history.steps
    return all(np.allclose(ours[name], theirs[name], rtol=0, atol=atol) for name in ours)


@pytest.fixture(scope="module")
def straight(data):
    """What each member gives in a run of its own."""
    return [fv.fit(model, data, recipe) for model, recipe in zip(*cohort(), strict=True)]


@pytest.mark.parametrize(("mode", "sizes", "atol"), [("loop", [5, 3, 1, 1], 0.0), ("vmap", [5, 4, 1, 1], 1e-5)])
def test_those_that_are_kept_are_as_if_alone(data, straight, mode, sizes, atol):
    """To the bit by programs for one; vmapped ones have rows of few numbers."""
    seen = population(data, mode)
    rows = []
    for kept in ((4, 0, 2), (4,), (4,), ()):
        scores = seen.train(1)
        assert list(scores) == list(seen.members)
        rows.append(len(seen._run.states))
        for k in seen.members:
            row = straight[k].history.row(seen.epoch)
            assert scores[k].keys() == row.keys()
            assert scores[k]["test_loss"] == pytest.approx(row["test_loss"], abs=atol)
        if kept:
            seen.keep(kept)
            assert seen.members == tuple(sorted(kept))
    assert rows == sizes
    assert seen.epoch == seen.epochs == 4
    assert list(seen.results()) == [4]
    assert equal(seen.results()[4], straight[4], atol)
    for epoch, known in ((None, {0: 2, 1: 1, 2: 2, 3: 1, 4: 4}), (1, dict.fromkeys(range(5), 1))):
        losses = {k: row["test_loss"] for k, row in seen.scores(epoch).items()}
        expected = {k: straight[k].history["test_loss"][last - 1] for k, last in known.items()}
        assert losses == pytest.approx(expected, abs=max(atol, 1e-12))
    assert seen.scores(2).keys() == {0, 2, 4}  # others were dropped before
    for k, row in seen.scores(3, selected=True).items():
        assert row["test_loss"] == pytest.approx(min(straight[k].history["test_loss"][:3]), abs=atol)
    with pytest.raises(UserError, match=r"scores\(5\) asks for an epoch that is not over: 4 of 4 are"):
        seen.scores(5)


def test_nothing_is_compiled_when_members_are_dropped(data, straight, caplog):
    with jax.log_compiles():
        seen = population(data)
        seen.train(1)
        assert not [record for record in caplog.records if "jit(_train_many)" in record.getMessage()]
        seen.keep([1, 3])
        seen.train()
    assert not [record for record in caplog.records if "Compiling jit(_" in record.getMessage()]


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_number_counts_from_then_on_and_for_one_member(data, mode):
    """Without a rate the parameters stay."""
    seen = population(data, mode)
    seen.train(2)
    before = jax.device_get(seen._run.states)
    seen.set(1, learning_rate=1e-30, momentum=0.9)
    seen.train(1)
    after = jax.device_get(seen._run.states)
    for k, stays in ((1, True), (2, False)):
        leaves = [jax.tree.leaves(states.member(k).params) for states in (before, after)]
        assert all(map(np.array_equal, *leaves)) == stays
        momentum = after.member(k).opt.hyperparams["momentum"]
        assert momentum == np.float32(0.9 if stays else 0.5)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_copy_is_its_source_but_for_the_seed(data, straight, mode):
    seen = population(data, mode)
    seen.train(2)
    seen.copy(3, 0)
    one, other = seen.results([0, 3]).values()
    assert equal(one, other)
    seen.train()
    one, other = seen.results([0, 3]).values()
    assert one.history.epochs == 4
    assert not equal(one, other)  # other examples, and units dropped, in each step
    assert equal(other, straight[3], 0.0 if mode == "loop" else 1e-5)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_members_that_stop_early_compute_no_more(data, mode, monkeypatch):
    """Vmapped ones are given up together, where a quarter of the rows is enough."""
    changes = {"early_stopping": 1, "select_on": "test_top1", "epochs": 9}
    expected = [fv.fit(model, data, recipe) for model, recipe in zip(*cohort(**changes), strict=True)]
    ends, rows = [result.history.epochs for result in expected], []
    steps = Run._steps
    monkeypatch.setattr(Run, "_steps", lambda self, members: rows.append(len(self.states)) or steps(self, members))
    seen = population(data, mode, **changes)
    seen.train()
    assert len(set(ends)) > 2
    assert sorted(ends)[-2] < max(ends)
    running = [sum(end >= epoch for end in ends) for epoch in range(1, max(ends) + 1)]
    assert rows == (running if mode == "loop" else [5 if each > 1 else 1 for each in running])
    for ours, theirs in zip(seen.results().values(), expected, strict=True):
        assert equal(ours, theirs, 0.0 if mode == "loop" else 1e-4)
    assert seen.running == ()
    assert seen.epoch == max(ends)
    last = ends.index(max(ends))
    with pytest.raises(UserError, match=f"member {last} stopped early: those that go on are none"):
        seen.copy(last, 0)


def test_the_selected_epoch_is_that_of_a_run_that_ends_there(data):
    """With a rate at which losses rise and fall; also of members that were dropped."""
    models, recipes = cohort(epochs=6, schedule="constant")
    recipes = [dataclasses.replace(recipe, learning_rate=4.0) for recipe in recipes]
    seen = Population(models, data, recipes, mode="loop")
    best = []
    for epoch in range(1, 7):
        seen.train(1)
        best.append({member: result.best_epoch for member, result in seen.results().items()})
        for member, at in best[-1].items():
            assert seen.scores(epoch, selected=True)[member] == seen.scores(at)[member]
    seen.keep([0])
    assert len({*best[-1].values()}) > 1
    for epoch, known in enumerate(best, 1):
        scores = seen.scores(epoch, selected=True)
        assert scores == {member: seen.scores(at)[member] for member, at in known.items()}


def test_a_fit_that_stopped_early_is_kept(data, tmp_path):
    model = cohort()[0][0]
    recipe = Recipe(epochs=8, batch_size=16, learning_rate=1e-30, early_stopping=2)
    once = fv.fit(model, data, recipe, checkpoint=tmp_path / "kept")
    assert once.history.epochs == 3
    longer, seen = dataclasses.replace(recipe, epochs=9), []
    again = fv.fit(model, data, longer, callbacks=[seen.append], checkpoint=tmp_path / "kept")
    assert equal(once, again)
    assert not any(progress.metrics for progress in seen)  # nothing was trained again


@pytest.mark.parametrize("mode", ["loop", slow("vmap")])
def test_early_stopping_goes_on_from_a_checkpoint(data, tmp_path, mode):
    """Killed when some have stopped, when all have, and after the end."""
    changes = {"early_stopping": 1, "select_on": "test_top1", "epochs": 9}
    expected = population(data, mode, **changes)
    expected.train()
    ends = sorted(result.history.epochs for result in expected.results().values())
    assert ends[0] < ends[-1] < 9
    for epoch in (ends[0] + 1, ends[-1]):
        with pytest.raises(Killed):
            population(data, mode, callbacks=[kill_at(2 * epoch)], checkpoint=tmp_path / "kept", **changes).train()
    for _ in range(2):
        seen = population(data, mode, checkpoint=tmp_path / "kept", **changes)
        seen.train()
        assert (seen.running, seen.epoch) == ((), ends[-1])
        assert all(equal(result, expected.results()[k]) for k, result in seen.results().items())


def test_a_checkpoint_that_cannot_be_taken_up_changes_nothing(data, straight, tmp_path, monkeypatch):
    """Found when its shapes, of fewer members, were asked for already."""
    keep, notes = Keep(tmp_path / "kept", NOW, {"trials": ["a"]}), []
    seen = population(data, checkpoint=keep)
    seen.train(1)
    seen.keep([4])
    seen.train(1)

    def damaged(about, arrays, like):
        assert len(like(1)["states"]) == 1
        raise ValueError("damaged")

    monkeypatch.setattr(flaxvision.training.checkpoint, "_kept", damaged)
    seen = population(data, checkpoint=keep, callbacks=[lambda progress: notes.append(progress.note)])
    seen.train()
    assert notes[0] == "begins anew: ValueError: damaged"
    assert all(equal(result, straight[k]) for k, result in seen.results().items())


def test_a_number_of_a_recipe_whose_optimizer_is_an_object(data):
    models, _ = cohort()
    recipe = Recipe(batch_size=16, epochs=1, optimizer=optax.sgd(0.1), label_smoothing=0.1)
    seen = Population(models[:1], data, [recipe])
    seen.set(0, label_smoothing=0.2)
    assert seen._run.states.member(0).numbers["label_smoothing"] == np.float32(0.2)
    with pytest.raises(UserError, match="learning_rate is a part of the program: label_smoothing may be set"):
        seen.set(0, learning_rate=0.2)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_one_that_had_stopped_goes_on_as_a_copy(data, mode):
    seen = population(data, mode, early_stopping=1, select_on="test_top1", epochs=9)
    while len(seen.running) > 1:
        seen.train(1)
    (last,) = seen.running
    other = (last + 1) % MEMBERS
    seen.copy(last, other)
    assert seen.running == (last, other)
    assert seen.train(1).keys() == set(range(MEMBERS))
    one, copy = seen.results([last, other]).values()
    assert one.history.epochs == copy.history.epochs


def story(seen):
    """What a program does with a population, from wherever it is."""
    if seen.epoch < 2:
        seen.train(2 - seen.epoch)
    seen.keep([0, 1, 3])
    seen.set(3, learning_rate=0.3)
    seen.train()
    return seen.results()


@pytest.mark.parametrize("mode", ["loop", slow("vmap")])
def test_a_story_that_is_killed_goes_on(data, tmp_path, mode):
    """Before members were dropped, when fewer had begun an epoch, and after its end."""
    keep = Keep(tmp_path / "kept", NOW, {"trials": ["a"]})
    for step in (3, 5, 7):
        with pytest.raises(Killed):
            story(population(data, mode, callbacks=[kill_at(step)], checkpoint=keep))
    seen = population(data, mode, checkpoint=keep)
    assert seen.members == (0, 1, 3)
    resumed, expected = story(seen), story(population(data, mode))
    assert resumed.keys() == expected.keys() == {0, 1, 3}
    assert all(equal(resumed[k], expected[k]) for k in expected)


def test_a_population_goes_on_after_an_interrupt(data, straight):
    """In the same process, from within the epoch."""
    left = [3]

    def once(progress):
        if left and progress.step >= left[0]:
            left.clear()
            raise Killed

    seen = population(data, callbacks=[once])
    with pytest.raises(Killed):
        seen.train()
    assert seen.epoch == 1
    seen.keep([2, 4])
    seen.train()
    assert all(equal(result, straight[k]) for k, result in seen.results().items())


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda seen: seen.train(5), r"train\(5\) goes beyond the recipes' duration: 0 epochs of 4 are over; give at"),
        (lambda seen: seen.train(0), "epochs is 0: give 1 or more, a whole number"),
        (lambda seen: seen.keep([]), "would drop all"),
        (lambda seen: seen.keep([0, 7]), "there is no member 7: there are 0, 1, 2, 3, 4"),
        (lambda seen: seen.keep(1), r"members are 1: give several, or \[1\]"),
        (lambda seen: seen.results(1), r"members are 1: give several, or \[1\]"),
        (lambda seen: seen.copy(0, -1), "there is no member -1"),
        (lambda seen: seen.results(), "no results before its first epoch"),
        (lambda seen: seen.set(0, lr=0.1), "unknown number 'lr': did you mean 'learning_rate'?"),
        (lambda seen: seen.set(0, seed=1), "unknown number 'seed'"),
        (lambda seen: seen.set(0, ema=0.1), "ema is in none of the recipes: learning_rate, momentum may be set"),
        (lambda seen: seen.set(0, momentum=0.0), "momentum=0.0 is its default"),
        (lambda seen: seen.set(0, momentum=1.5), "momentum"),
        (lambda seen: seen.set(0, learning_rate=-1.0), "learning_rate"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(untrained, do, message):
    with pytest.raises(UserError, match=message) as raised:
        do(untrained)
    assert "\n" not in str(raised.value)


def test_seconds_of_those_that_are_dropped_end_there(data):
    """Also of one that never trained."""
    seen = population(data)
    seen.keep([0, 1])
    assert seen.seconds == dict.fromkeys(range(MEMBERS), 0.0)
    seen.train(2)
    seen.keep([1])
    seen.train(1)
    assert [seen.seconds[member] for member in (2, 3, 4)] == [0.0] * 3
    assert 0 <= seen.seconds[0] < seen.seconds[1]


@pytest.fixture(scope="module")
def untrained(data):
    return population(data)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.data())
def test_both_forms_of_members_do_the_same(positions, draw):
    random = np.random.default_rng(0)
    trees = [{"a": jax.device_put(random.normal(size=2)), "b": jax.device_put(np.int32(k))} for k in range(3)]
    row, other = draw.draw(st.integers(0, len(positions) - 1)), {"a": np.zeros(2), "b": np.int32(9)}
    forms = [Separate(tuple(trees)), Stacked(jax.tree.map(lambda *x: np.stack(x), *trees))]
    taken = [form.take(positions).edit(row, lambda tree: {**other, "b": tree["b"]}) for form in forms]
    for k, position in enumerate(positions):
        expected = {**(other if k == row else trees[position]), "b": trees[position]["b"]}
        for form in taken:
            assert jax.tree.all(jax.tree.map(np.array_equal, form.member(k), expected))
    separate = forms[0].take(positions)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(separate)]
    assert len(buffers) == len(dict.fromkeys(buffers))  # a program takes the memory of each
