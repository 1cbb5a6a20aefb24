"""Optimizers of one's own by the name of a function: as they are now, in any process, or one line that says why not."""

from __future__ import annotations

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.training import Recipe, train_cohort
from flaxvision.training.optimizers import code_of_optimizer
from flaxvision.training.updates import build_optimizer, check_own

SOURCE = """
import optax
import mine_beside

def make(learning_rate):
    return optax.chain(optax.scale_by_adam(), mine_beside.decay(), optax.scale_by_learning_rate(learning_rate))

def floats(learning_rate):
    return optax.sgd(float(learning_rate))

def branches(learning_rate):
    return optax.sgd(0.1 if learning_rate > 1 else learning_rate)

def number(learning_rate):
    return 3

def takes_nothing():
    return optax.sgd(0.1)

def raises(learning_rate):
    raise RuntimeError("two\\nlines")

def wants_the_loss(learning_rate):
    return optax.polyak_sgd(learning_rate)

def grows(learning_rate):
    def update(updates, state, params=None):
        return updates, (state, state)
    return optax.GradientTransformation(lambda params: (), update)

constant = 3
"""
BESIDE = """
import optax
RATE = 0.25
def decay():
    return optax.add_decayed_weights(RATE)
"""
POINTS = {"batch_size": 8, "steps": 5, "shuffle": False}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where one's files lie and Python runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "mine_beside.py").write_text(BESIDE)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    yield tmp_path
    for name in ("mine.py", "./mine.py", "broken.py", "mine", "mine_beside"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data():
    return fv.data.load("two_clusters", limit=48)


@pytest.fixture(scope="module")
def model():
    return fv.models.create("linear", input_shape=(2,), num_classes=2)


def by_name(rate, decay=0.25):
    """What the file's function is, as flaxvision has it."""
    return Recipe(optimizer="adamw", learning_rate=rate, weight_decay=decay, **POINTS)


def test_a_function_of_a_file_is_trained_with_and_taken_up_when_it_changes(folder, data, model):
    recipe = Recipe(optimizer="mine.py:make", learning_rate=0.1, **POINTS)
    ours = fv.fit(model, data, recipe, checkpoint=folder / "kept").history["step_loss"]
    theirs = fv.fit(model, data, by_name(0.1)).history["step_loss"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)

    (folder / "mine_beside.py").write_text(BESIDE.replace("0.25", "0.75"))  # of a module that it imports
    with pytest.raises(UserError, match=r"another run: code of the optimizer decay was .*, is"):
        fv.fit(model, data, recipe, checkpoint=folder / "kept")
    again = fv.fit(model, data, recipe).history["step_loss"]
    changed = fv.fit(model, data, by_name(0.1, 0.75)).history["step_loss"]
    np.testing.assert_allclose(again, changed, rtol=1e-6)
    assert (again[1:] != ours[1:]).all()


def test_rates_vary_within_a_program(folder, data, model):
    rates = (0.1, 0.02)
    recipes = [Recipe(optimizer="mine.py:make", learning_rate=rate, **POINTS) for rate in rates]
    for rate, found in zip(rates, train_cohort([model] * 2, data, recipes, mode="vmap"), strict=True):
        alone = fv.fit(model, data, by_name(rate)).history["step_loss"]
        np.testing.assert_allclose(found.history["step_loss"], alone, rtol=1e-5)


def test_schedule_and_clipping_hold_for_it(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "plain.py").write_text("import optax\nmake = optax.sgd\n")
    tx = build_optimizer(Recipe(optimizer="plain:make", learning_rate=0.5, schedule="linear", clip_norm=2.0), 4, 4)
    state, sizes = tx.init(jnp.ones(())), []
    for gradient in (1.0, 2.0, 4.0, 8.0):
        update, state = tx.update(jnp.float32(gradient), state, jnp.ones(()))
        sizes.append(-float(update))
    np.testing.assert_allclose(sizes, [0.5, 0.75, 0.5, 0.25], rtol=1e-5)
    sys.modules.pop("plain")


@pytest.mark.parametrize("name", ["optax:lamb", "optax:nadamw", "./mine.py:make"])
def test_whatever_can_update_is_taken(folder, name):
    check_own(Recipe(optimizer=name), {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    assert code_of_optimizer(name) == code_of_optimizer(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:floats", "needs its learning rate as a number, but it is an array"),
        ("mine.py:branches", "needs its learning rate as a number, but it is an array"),
        ("mine.py:number", r"gives a int: return an optax transformation, such as optax\.adam"),
        ("mine.py:takes_nothing", r"cannot be used \(TypeError: takes_nothing\(\) takes 0 positional"),
        ("mine.py:raises", r"cannot be used \(RuntimeError: two lines\): give a function of the learning rate"),
        ("mine.py:wants_the_loss", r"cannot be used \(TypeError: .*'value'\)"),
        ("mine.py:grows", "changes the shape or type of its state"),
        ("mine.py:constant", "optimizer 'mine.py:constant' is 3: give a function of the learning rate"),
        ("mine.py:absent", r"cannot be imported \(module 'mine.py' has no attribute 'absent'\)"),
        ("mine.py:", "cannot be imported"),
        ("gone.py:make", r"cannot be imported \(.*No such file or directory"),
        ("no_such_module:make", r"cannot be imported \(No module named 'no_such_module'\): give package.module:func"),
        ("broken.py:make", r"cannot be imported \(No module named 'no_such_package'\)"),
    ],
)
def test_what_cannot_be_used_is_one_line(folder, data, model, name, message):
    with pytest.raises(UserError, match=message) as caught:
        fv.fit(model, data, Recipe(optimizer=name, **POINTS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"weight_decay": 0.1}, {"beta1": 0.5}, {"centered": True}])
def test_nothing_stands_beside_it_that_it_does_not_take(settings):
    with pytest.raises(UserError, match="has no effect with optimizer 'a:b', a function of the"):
        Recipe(optimizer="a:b", **settings)


def test_a_network_of_a_file(folder):
    (folder / "mine.py").write_text("def grow(build, outputs, width=3):\n    build.linear('out', outputs)\n")
    assert fv.models.create("mine.py:grow", input_shape=(2,), num_classes=5).output_shape == (5,)


@pytest.mark.slow
def test_workers_and_a_resumed_table(folder):
    """In other processes; and a table whose optimizer has changed is not continued."""
    from flaxvision.sweep import load_spec, run
    from flaxvision.sweep.overrides import override

    settings = ["optimizer=mine.py:make", "learning_rate=0.1,0.02"]
    spec = override(load_spec("clusters"), limit=64, epochs=1, seeds=1, settings=settings)
    found = []
    for executor in ("processes", "loop"):
        run(spec, folder / executor, executor=executor, export=False, report=False)
        lines = map(json.loads, (folder / executor / "trials.jsonl").read_text().splitlines())
        found.append({line["id"]: line["final"] for line in lines if "final" in line})
    assert found[0] == found[1]
    assert len(found[0]) == 6
    (folder / "mine_beside.py").write_text(BESIDE.replace("0.25", "0.75"))
    with pytest.raises(UserError, match=r"code mine\.py:make decay was"):
        run(spec, folder / "loop", executor="loop", export=False, resume=True)
