"""What runs on a GPU, on a CPU that says that it is one: padded batches, loops of known length, whole cohorts."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.models.files import variables
from flaxvision.training import Recipe, train_cohort
from flaxvision.training.batches import take_batch
from flaxvision.training.engine import Engine, engine_for
from flaxvision.training.plan import Plan
from flaxvision.training.scoring import evaluation_for
from tests.conftest import slow

pytestmark = pytest.mark.quick

NETWORKS = {"mlp": {"hidden": (16,)}, "mnist_net": {}}  # the second with BatchNorm and dropout


@pytest.fixture
def data(make_dataset):
    """Of 150 examples the last batch of 32 has 22."""
    return make_dataset((12, 12, 1), 4, train=150, test=70)


@pytest.fixture
def gpu(monkeypatch):
    def forget():  # the platform is no part of a plan's equality
        engine_for.cache_clear()
        evaluation_for.cache_clear()

    def switch():
        forget()
        monkeypatch.setattr(Plan, "platform", "gpu")

    forget()
    yield switch
    forget()


def members(network, learning_rate=0.05, **settings):
    shape = {"input_shape": (12, 12, 1), "num_classes": 4}
    models = [fv.models.create(network, seed=k, **shape, **NETWORKS[network]) for k in range(3)]
    settings = {"momentum": 0.5, "batch_size": 32, "epochs": 3, "precision": "float64", **settings}
    return models, [Recipe(learning_rate=learning_rate / (k + 1), seed=k, **settings) for k in range(3)]


def assert_equal(ours, theirs):
    assert list(ours.history) == list(theirs.history)
    for name in theirs.history:
        np.testing.assert_allclose(ours.history[name], theirs.history[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert ours.best_epoch == theirs.best_epoch
    for name, value in variables(theirs.model).items():
        np.testing.assert_allclose(variables(ours.model)[name], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "settings"),
    [slow("mnist_net", {"select": "best"}), ("mlp", {"shuffle": False, "epochs": None, "steps": 12})],
)
def test_cohorts_and_single_runs_are_those_of_a_cpu(network, settings, data, gpu):
    with jax.enable_x64(True):
        models, recipes = members(network, **settings)
        expected = [fv.fit(model, data, recipe) for model, recipe in zip(models, recipes, strict=True)]
        gpu()
        together = train_cohort(models, data, recipes, mode="vmap")
        alone = [fv.fit(model, data, recipe) for model, recipe in zip(models, recipes, strict=True)]
        for theirs, one, cohort in zip(expected, alone, together, strict=True):
            assert_equal(one, theirs)
            assert_equal(cohort, theirs)


def test_an_epoch_is_one_program_of_known_length(data, gpu, monkeypatch):
    from flaxvision.training import engine

    sizes = []
    make_step = engine.make_step

    def counting(*arguments):
        step = make_step(*arguments)
        return lambda state, batch: sizes.append((len(batch.labels), batch.mask is None)) or step(state, batch)

    monkeypatch.setattr(engine, "make_step", counting)
    gpu()
    models, recipes = members("mlp", precision="default")
    train_cohort(models, data, recipes, mode="vmap")
    assert sizes == [(32, False)]
    sizes.clear()
    train_cohort(models, data, [dataclasses.replace(recipe, batch_size=30) for recipe in recipes], mode="vmap")
    assert sizes == [(30, True)]  # nothing to pad


@pytest.mark.parametrize("mode", ["vmap", slow("loop")])
def test_every_program_is_compiled_once_and_before_the_first_epoch(mode, data, gpu, caplog, monkeypatch):
    begun = []

    def compiled():
        lines = [record.getMessage() for record in caplog.records if "XLA compilation" in record.getMessage()]
        return [sum(f"jit({name})" in line for line in lines) for name in ("_epoch_orders", "_train_many", "_evaluate")]

    epoch = Engine.epoch
    monkeypatch.setattr(Engine, "epoch", lambda *arguments: begun.append(compiled()) or epoch(*arguments))
    gpu()
    models, recipes = members("mlp", precision="default")
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)  # in all threads, unlike jax.log_compiles
    try:
        train_cohort(models[:2], data, recipes[:2], mode=mode)
    finally:
        jax.config.update("jax_log_compiles", False)
    assert begun[0][:2] == [1, 1]  # the evaluation may still be at it
    assert begun[-1] == compiled() == [1, 1, 1]


@pytest.mark.parametrize(
    ("network", "settings", "tuned"),
    [
        ("mlp", {}, False),
        slow("emnist_cnn", {}, False),  # few channels: products
        slow("wide_cnn", {}, True),  # one alone keeps XLA's convolution from 32 to 64 channels
        slow("emnist_cnn", {"conv": "native"}, True),
    ],
)
def test_kernels_are_timed_for_xlas_own_convolutions_only(network, settings, tuned, make_dataset, gpu, monkeypatch):
    from flaxvision.training import plan

    seen = []
    options_for = plan.options_for
    monkeypatch.setattr(plan, "options_for", lambda plan: seen.append(options_for(plan)))
    gpu()
    images = make_dataset((28, 28, 1), 4, train=8, test=4)
    model = fv.models.create(network, input_shape=(28, 28, 1), num_classes=4)
    train_cohort([model], images, [Recipe(epochs=1, batch_size=8, **settings)])
    assert seen == [None if tuned else {"xla_gpu_autotune_level": 0}] * 2  # the train step and the evaluation


@pytest.mark.slow
def test_early_stopping_keeps_each_members_own_epoch(data, gpu):
    with jax.enable_x64(True):
        models, recipes = members("mlp", epochs=12, early_stopping=2, select="best", select_on="test_top1")
        expected = [fv.fit(model, data, recipe) for model, recipe in zip(models, recipes, strict=True)]
        gpu()
        together = train_cohort(models, data, recipes, mode="vmap")
        assert len({one.history.epochs for one in expected}) > 1
        for theirs, ours in zip(expected, together, strict=True):
            assert_equal(ours, theirs)


@pytest.mark.slow
def test_a_checkpoint_of_a_single_vmapped_member(data, tmp_path):
    models, recipes = members("mlp", precision="default")
    short, long = (dataclasses.replace(recipes[0], epochs=epochs) for epochs in (2, 4))
    expected = train_cohort(models[:1], data, [long], mode="vmap")[0]
    train_cohort(models[:1], data, [short], mode="vmap", checkpoint=tmp_path / "run")
    resumed = train_cohort(models[:1], data, [long], mode="vmap", checkpoint=tmp_path / "run")[0]
    for name in expected.history:
        np.testing.assert_array_equal(resumed.history[name], expected.history[name])


@pytest.mark.parametrize("ordered", [False, True])
def test_a_short_batch_is_padded(ordered):
    images, labels = np.arange(10, dtype=np.float32)[:, None], np.arange(10, dtype=np.int32)
    order = np.arange(10)[::-1].copy() if ordered else None
    batch = take_batch(images, labels, order, np.int32(8), 4, padded=True)
    assert batch.mask.tolist() == [True, True, False, False]
    assert batch.labels[:2].tolist() == ([1, 0] if ordered else [8, 9])
    assert batch.images[:2, 0].tolist() == batch.labels[:2].tolist()
    assert take_batch(images, labels, order, np.int32(4), 4, padded=True).mask.all()
