"""Cohorts against the runs of their members alone, all compiled as users' are."""

from __future__ import annotations

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.models.files import variables
from flaxvision.training import Recipe, train_cohort
from tests.conftest import made_dataset, slow

MLP = {"input_shape": (6, 6, 1), "num_classes": 4, "hidden": (12,)}


def same(a, b):
    """Two models have the same variables, bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(variables(a).values(), variables(b).values(), strict=True))


@pytest.mark.parametrize(
    ("name", "sizes", "recipe"),
    [
        ("mlp", MLP | {"dropout": 0.3}, {"momentum": 0.9, "shuffle": True}),
        slow("mnist_net", {"input_shape": (12, 12, 1), "num_classes": 4}, {"optimizer": "adam", "learning_rate": 1e-3}),
    ],
)
def test_a_cohort_equals_single_runs_bit_for_bit_on_a_cpu(name, sizes, recipe):
    data = made_dataset(sizes["input_shape"], 4, train=70 if name == "mlp" else 64, test=30)
    models = [fv.models.create(name, seed=seed, **sizes) for seed in range(3)]
    rate = recipe.pop("learning_rate", 0.1)
    recipes = [Recipe(epochs=2, batch_size=32, seed=k, learning_rate=rate / (k + 1), **recipe) for k in range(3)]
    together = train_cohort(models, data, recipes)
    for model, one, cohort in zip(models, recipes, together, strict=True):
        alone = fv.fit(model, data, one)
        assert same(alone.model, cohort.model)
        for key in alone.history:
            np.testing.assert_array_equal(alone.history[key], cohort.history[key])
    assert not same(together[0].model, together[1].model)


def bits(result):
    """All that a training gave, byte for byte."""
    arrays = {**variables(result.model), **{f"history {name}": result.history[name] for name in result.history}}
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("mode", "name", "sizes", "recipe"),
    [
        slow("loop", "mlp", MLP | {"dropout": 0.3}, {"momentum": 0.9, "clip_norm": 1.0}),
        ("vmap", "mlp", MLP, {"momentum": 0.9}),
        slow("vmap", "mlp", MLP | {"dropout": 0.3}, {"momentum": 0.9, "clip_norm": 1.0}),
        slow("vmap", "mnist_net", {"input_shape": (12, 12, 1), "num_classes": 4}, {"ema": 0.9, "select": "best"}),
    ],
)
def test_a_member_that_diverges_and_the_order_change_no_bit_of_the_others(mode, name, sizes, recipe):
    data = made_dataset(sizes["input_shape"], 4, train=64, test=32)

    def trained(rates, order=(0, 1, 2)):
        models = [fv.models.create(name, seed=seed, **sizes) for seed in order]
        recipes = [Recipe(epochs=2, batch_size=32, seed=k, learning_rate=rates[k], **recipe) for k in order]
        return dict(zip(order, train_cohort(models, data, recipes, mode=mode), strict=True))

    sound, beside = trained([0.1, 0.05, 0.02]), trained([0.1, 1e30, 0.02])
    assert [beside[k].diverged for k in range(3)] == [False, True, False]
    assert [bits(beside[k]) == bits(sound[k]) for k in range(3)] == [True, False, True]
    turned = trained([0.1, 0.05, 0.02], (2, 0, 1))
    assert all(bits(turned[k]) == bits(sound[k]) for k in range(3))


def test_a_vmapped_cohort_is_close_to_single_runs():
    data = made_dataset((6, 6, 1), 4, train=150, test=70)
    models = [fv.models.create("mlp", seed=seed, **MLP) for seed in range(3)]
    recipes = [Recipe(epochs=2, batch_size=32, seed=k, learning_rate=0.1 * (k + 1)) for k in range(3)]
    for model, recipe, cohort in zip(models, recipes, train_cohort(models, data, recipes, mode="vmap"), strict=True):
        alone = fv.fit(model, data, recipe)
        np.testing.assert_allclose(cohort.history["test_loss"], alone.history["test_loss"], rtol=1e-4)
        for name, value in variables(alone.model).items():
            np.testing.assert_allclose(variables(cohort.model)[name], value, atol=1e-4)
