"""Batches of a search: who goes on after a rung, from which checkpoint, on which device."""

from __future__ import annotations

import collections
import math
from types import SimpleNamespace

import jax
import pytest

from flaxvision.sweep import devices, parse_spec
from flaxvision.sweep.files import DataFolders, RunFiles
from flaxvision.sweep.search.rungs import share_out, train_batch
from flaxvision.sweep.search.study import Study
from flaxvision.sweep.trials import SEARCH_SEEDS, drawn_trial
from tests.sweep.searches import ONE

pytest.importorskip("optuna")
pytestmark = pytest.mark.quick


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
