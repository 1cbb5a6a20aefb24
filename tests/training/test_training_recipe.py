"""Recipes: durations, structure, and what is refused."""

from __future__ import annotations

import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxvision.errors import UserError
from flaxvision.sweep.spec import Typed
from flaxvision.training import Recipe
from flaxvision.training.recipe import field_names, from_dict


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ({}, 10 * 469),  # 60,000 / 128 = 468.75: the short last batch is a step
        ({"epochs": 4}, 4 * 469),
        ({"epochs": 0.5}, 234),
        ({"steps": 7}, 7),
        ({"examples": 60_000}, 469),
        ({"examples": 1}, 1),
    ],
)
def test_durations_in_steps(duration, steps):
    assert Recipe(batch_size=128, **duration).total_steps(60_000) == steps


@given(st.integers(1, 500), st.integers(1, 5000), st.integers(1, 20))
def test_epochs_are_whole_passes(batch, examples, epochs):
    recipe = Recipe(batch_size=batch, epochs=epochs)
    if batch > examples:
        with pytest.raises(UserError, match=f"give a batch_size of at most {examples}"):
            recipe.total_steps(examples)
    else:
        steps = recipe.total_steps(examples)
        assert steps % epochs == 0
        assert (steps // epochs - 1) * batch < examples <= (steps // epochs) * batch


def test_structure_leaves_out_what_may_differ_between_trials():
    a = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, seed=1, warm_start="x")
    b = Recipe(learning_rate=3, momentum=0.5, weight_decay=1e-2, seed=2)
    assert a.structure() == b.structure()
    for different in ({"momentum": 0.0}, {"batch_size": 1}, {"nesterov": True}, {"frozen": ("a",)}):
        assert Recipe(**{"momentum": 0.9, **different}).structure() != Recipe(momentum=0.9).structure()
    assert hash(a) != hash(b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate is -0.1: give a number above 0"),
        ({"learning_rate": 0}, "give a number above 0"),
        ({"learning_rate": float("nan")}, "give a number above 0"),
        ({"learning_rate": float("inf")}, "give a number above 0"),
        ({"learning_rate": "0.1"}, "give a number"),
        ({"learning_rate": True}, "give a number"),
        ({"learning_rate": [0.1]}, "give a number"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm': did you mean 'adam'"),
        ({"optimizer": 3}, "optimizer is 3"),
        ({"optimizer": ["sgd"]}, "optimizer is"),
        ({"momentum": 1}, "from 0 up to but without 1"),
        ({"momentum": float("nan")}, "from 0 up to but without 1"),
        ({"weight_decay": -1}, "give 0 or more"),
        ({"weight_decay": float("nan")}, "give 0 or more"),
        ({"batch_size": 0}, "give a whole number, 1 or more examples"),
        ({"batch_size": 1.5}, "give a whole number"),
        ({"batch_size": True}, "give a whole number"),
        ({"epochs": 0}, "give more than 0"),
        ({"epochs": float("nan")}, "give more than 0"),
        ({"epochs": float("inf")}, "give more than 0"),
        ({"epochs": 1e308}, "less than 1e9"),
        ({"epochs": 1, "steps": 2}, r"the duration is given 2 times \(epochs=1, steps=2\)"),
        ({"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
        ({"pixels": "units"}, "did you mean 'unit'"),
        ({"augment": ("flop",)}, "did you mean 'flip'"),
        ({"augment": (1,)}, "give strings"),
        ({"augment": 1}, "give strings"),
        ({"frozen": [["a"]]}, "give strings"),
        ({"select": "best_epoch"}, "unknown select"),
        ({"select_on": "train_loss"}, "unknown select_on 'train_loss'"),
        ({"shuffle": 1}, "shuffle is 1: give true or false"),
        ({"seed": -1}, "0 or more"),
        ({"seed": 2**32}, "seed"),
        ({"early_stopping": -1}, "0 or more"),
        ({"precision": "fp16"}, "unknown precision"),
        ({"nesterov": True}, "nesterov needs momentum"),
    ],
)
def test_a_wrong_value_is_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Recipe(**settings)
    assert "\n" not in str(caught.value)


def test_unknown_keys_name_the_nearest():
    with pytest.raises(UserError, match="unknown recipe key 'learning_rat': did you mean 'learning_rate'"):
        from_dict({"learning_rat": 0.1})
    assert from_dict({"learning_rate": 0.5}).learning_rate == 0.5
    assert "momentum" in field_names()


def test_schedules_and_optax_transformations_are_taken_as_they_are():
    schedule = optax.constant_schedule(0.1)
    own = optax.lion(1e-3)
    assert Recipe(learning_rate=schedule).structure().learning_rate is schedule
    assert Recipe(optimizer=own).structure().optimizer is own


def test_selection_metric():
    assert Recipe().selection(has_validation=True) == "val_loss"
    assert Recipe().selection(has_validation=False) == "test_loss"
    with pytest.raises(UserError, match=r"give validation=0\.2"):
        Recipe(select="best", select_on="val_top1").selection(has_validation=False)


def test_numbers_of_a_spec_become_plain_floats():
    recipe = from_dict({"learning_rate": Typed("5e-2"), "batch_size": 16})
    assert type(recipe.learning_rate) is float
    assert recipe == Recipe(learning_rate=0.05, batch_size=16)
