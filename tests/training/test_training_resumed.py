"""Runs and cohorts that were ended at any moment go on to what a run never ended gives, to the bit."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import variables
from flaxvision.training import Recipe, train_cohort
from flaxvision.training.checkpoint import CHECKSUM, Checkpoints, Keep

pytestmark = pytest.mark.quick

NOW = 1e-9  # seconds between checkpoints: after every compiled call
RECIPE = Recipe(batch_size=16, epochs=4, optimizer="adam", learning_rate=0.01, select="best", record_gradients=True)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (130, 4, 4, 1), np.uint8)  # the last batch of an epoch is short
    labels = images.reshape(130, 16)[:, :3].argmax(1)
    return fv.data.from_arrays(images[:90], labels[:90], images[90:], labels[90:])


def cohort(members, **changes):
    models = [fv.models.create("mlp", input_shape=(4, 4, 1), num_classes=3, hidden=(8,), dropout=0.2, seed=k)
              for k in range(members)]  # fmt: skip
    recipe = dataclasses.replace(RECIPE, **changes)
    return models, [dataclasses.replace(recipe, seed=k, learning_rate=0.01 * (k + 1)) for k in range(members)]


def kill_at(step):
    def callback(progress):
        if progress.step >= step:
            raise Killed

    return callback


def notes():
    said = []

    def callback(progress):
        if progress.note:
            said.append(progress.note)

    return said, callback


def same(results, others):
    for one, other in zip(results, others, strict=True):
        assert one.best_epoch == other.best_epoch
        assert sorted(one.history) == sorted(other.history)
        for name in one.history:
            np.testing.assert_array_equal(one.history[name], other.history[name], err_msg=name)
        weights = variables(one.model), variables(other.model)
        for name in weights[0]:
            np.testing.assert_array_equal(weights[0][name], weights[1][name], err_msg=name)
    return True


@pytest.fixture(scope="module")
def straight(data):
    """What is trained without an end, by mode and number of members."""
    return {
        key: train_cohort(cohort(key[1])[0], data, cohort(key[1])[1], mode=key[0])
        for key in (("loop", 1), ("loop", 2), ("vmap", 2))
    }


@pytest.mark.parametrize(("mode", "members"), [("loop", 1), ("loop", 2), ("vmap", 2)])
def test_a_cohort_killed_again_and_again(data, tmp_path, straight, mode, members):
    """Within epochs, and at their ends; six updates an epoch."""
    keep = Keep(tmp_path / "kept", NOW, {"trials": ["a"]})
    for step in (3, 9, 12, 17, 24):
        with pytest.raises(Killed):
            train_cohort(*with_data(cohort(members), data), mode=mode, callbacks=[kill_at(step)], checkpoint=keep)
    said, callback = notes()
    results = train_cohort(*with_data(cohort(members), data), mode=mode, callbacks=[callback], checkpoint=keep)
    assert len(said) == 1
    assert said[0].startswith("goes on from epoch ")
    assert int(said[0].split()[4].strip(",")) >= 3
    assert same(results, straight[mode, members])


def with_data(pair, data):
    models, recipes = pair
    return models, data, recipes


def test_fit_keeps_the_end_and_goes_on_longer(data, tmp_path, straight):
    """Also from within an epoch that was to be the last."""
    (model,), (recipe,) = cohort(1)
    shorter = dataclasses.replace(recipe, epochs=None, steps=14)
    with pytest.raises(Killed):
        fv.fit(model, data, shorter, checkpoint=tmp_path, checkpoint_every=NOW, callbacks=[kill_at(14)])
    longer = fv.fit(model, data, recipe, checkpoint=tmp_path, checkpoint_every=1e9)
    assert same([longer], straight["loop", 1])
    again = fv.fit(model, data, recipe, checkpoint=tmp_path)
    assert same([again], [longer])
    assert again.timing.total > 0  # that of the training which was kept


def test_nothing_is_made_where_a_run_is_shorter_than_the_interval(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_open", lambda self: pytest.fail("orbax is not needed"))
    models, recipes = cohort(1)
    train_cohort(models, data, recipes, checkpoint=Keep(tmp_path / "kept", 1e9, {"trials": ["a"]}))
    assert not (tmp_path / "kept").exists()


@pytest.fixture(scope="module")
def ended(data, tmp_path_factory):
    """A folder of checkpoints of a run that was killed in its third epoch."""
    folder = tmp_path_factory.mktemp("ended") / "kept"
    models, recipes = cohort(1)
    with pytest.raises(Killed):
        train_cohort(models, data, recipes, callbacks=[kill_at(15)], checkpoint=Keep(folder, NOW, {"trials": ["a"]}))
    assert len([path for path in folder.iterdir() if path.name.isdigit()]) == 2
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "of", "note"),
    [
        (flip, "newest", "goes on from epoch"),
        (cut, "newest", "goes on from epoch"),
        (flip, "both", "begins anew: the checkpoint is damaged"),
        (cut, "both", "begins anew: the checkpoint is damaged"),
        (zeros, "both", "begins anew: the checkpoint is damaged"),
        (lambda path: path.unlink(), "both", "begins anew: the checkpoint is damaged"),
        (None, "folder", "begins anew: cannot keep checkpoints in "),
    ],
)
def test_damage_is_said_and_costs_no_more(data, tmp_path, ended, straight, damage, of, note):
    folder = tmp_path / "kept"
    if damage is None:
        folder.write_text("a file")
    else:
        shutil.copytree(ended, folder)
        steps = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        for step in steps[-1:] if of == "newest" else steps:
            for path in step.rglob("*"):
                if path.is_file() and path.stat().st_size > 1:
                    damage(path)
    said, callback = notes()
    models, recipes = cohort(1)
    keep = Keep(folder, 1e9, {"trials": ["a"]})
    results = train_cohort(models, data, recipes, callbacks=[callback], checkpoint=keep)
    assert [line[: len(note)] for line in said] == [note]
    assert same(results, straight["loop", 1])


def test_of_something_else_it_begins_anew_or_is_an_error(data, tmp_path, ended, straight):
    said, callback = notes()
    models, recipes = cohort(1)
    shutil.copytree(ended, tmp_path / "kept")
    keep = Keep(tmp_path / "kept", 1e9, {"trials": ["b"]})
    results = train_cohort(models, data, recipes, callbacks=[callback], checkpoint=keep)
    assert said == ["begins anew: the checkpoint is of something else: trials was [a], is [b]"]
    assert not (tmp_path / "kept").exists()
    assert same(results, straight["loop", 1])
    two = tmp_path / "two"
    with pytest.raises(Killed):
        train_cohort(*with_data(cohort(2), data), callbacks=[kill_at(8)], checkpoint=two)
    with pytest.raises(UserError, match=r"another run: .*members was 2, is not given"):
        fv.fit(models[0], data, recipes[0], checkpoint=two)
    models, recipes = cohort(2)
    recipes[1] = dataclasses.replace(recipes[1], learning_rate=0.5)
    with pytest.raises(UserError, match=r"another run: member 1 learning_rate was 0.02, is 0.5"):
        train_cohort(models, data, recipes, checkpoint=two)
    with pytest.raises(UserError, match=r"another run: vmapped was false, is true"):
        train_cohort(*with_data(cohort(2), data), mode="vmap", checkpoint=two)
    for path in two.rglob("*"):
        if path.name == CHECKSUM:
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"the checkpoints in .* are damaged: delete that folder to begin anew"):
        train_cohort(*with_data(cohort(2), data), checkpoint=two)


def test_a_full_disk_ends_no_run(data, tmp_path, straight, monkeypatch):
    def full(self, kept):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_save", full)
    said, callback = notes()
    models, recipes = cohort(1)
    keep = Keep(tmp_path / "kept", NOW, {"trials": ["a"]})
    results = train_cohort(models, data, recipes, callbacks=[callback], checkpoint=keep)
    assert said == ["keeps no checkpoint: OSError: [Errno 28] No space left on device"]
    assert same(results, straight["loop", 1])
    with pytest.raises(OSError, match="No space"):
        fv.fit(models[0], data, recipes[0], checkpoint=tmp_path / "own")


def test_a_state_is_kept_before_the_interval_is_over(tmp_path, monkeypatch):
    """No state is older than the interval when the next is on disk, although a call takes twice as long."""
    clock = [0.0]
    monkeypatch.setattr("flaxvision.training.checkpoint.time.monotonic", lambda: clock[0])
    checkpoints = Checkpoints(Keep(tmp_path, 4.0), {}, print)
    on_disk = [0.0]

    def save(state: None) -> None:
        clock[0] += 0.2
        on_disk.append(clock[0])

    monkeypatch.setattr(checkpoints, "_save", save)
    for call in range(60):
        clock[0] += 0.4 if call % 3 else 0.8
        if checkpoints.wanted(over=False):
            checkpoints.save(None)
    between = np.diff(on_disk)
    assert between.max() <= 4.0
    assert between.min() >= 2.0  # not after every call


@pytest.mark.parametrize(("every", "most"), [(4.0, 15), (1.0, 30), (0.0, 300)])
def test_a_state_that_takes_long_to_keep_is_not_kept_after_every_call(tmp_path, monkeypatch, every, most):
    """Two seconds each, of 30 in which it trains: no more than trained between two, unless that is asked for."""
    clock, kept = [0.0], [0]
    monkeypatch.setattr("flaxvision.training.checkpoint.time.monotonic", lambda: clock[0])
    checkpoints = Checkpoints(Keep(tmp_path, every), {}, print)

    def save(state: None) -> None:
        clock[0] += 2.0
        kept[0] += 1

    monkeypatch.setattr(checkpoints, "_save", save)
    for _ in range(300):
        clock[0] += 0.1
        if checkpoints.wanted(over=False):
            checkpoints.save(None)
    assert 0.8 * most < kept[0] <= most
