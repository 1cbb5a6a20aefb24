"""Training loops: against a loop in PyTorch, and their own promises."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import variables
from flaxvision.training import Progress, Recipe, train_cohort
from flaxvision.training.batches import Shard, epoch_order, take_batch, take_range
from flaxvision.training.engine import engine_for
from flaxvision.training.metrics import METRICS
from flaxvision.training.scoring import evaluation_for

pytestmark = pytest.mark.quick

MLP = {"input_shape": (6, 6, 1), "num_classes": 4, "hidden": (12,)}


@pytest.fixture(scope="module")
def data():
    from tests.conftest import made_dataset

    return made_dataset((6, 6, 1), 4, train=150, test=70)


@pytest.fixture
def traced(monkeypatch):
    """The batch sizes of the train steps that are traced."""
    from flaxvision.training import engine

    sizes = []
    make_step = engine.make_step

    def counting(*arguments):
        step = make_step(*arguments)
        return lambda state, batch: sizes.append(len(batch.labels)) or step(state, batch)

    monkeypatch.setattr(engine, "make_step", counting)
    engine_for.cache_clear()
    yield sizes
    engine_for.cache_clear()


def same(a, b):
    """Two models have the same variables, bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(variables(a).values(), variables(b).values(), strict=True))


def test_two_epochs_equal_a_torch_loop(torch, data):
    model = fv.models.create("mlp", **MLP)
    result = fv.fit(model, data, Recipe(learning_rate=0.2, batch_size=32, shuffle=False, epochs=2))

    theirs = torch.nn.Sequential(torch.nn.Linear(36, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4))
    with torch.no_grad():
        for position, name in ((0, "linear_relu_stack.0"), (2, "linear_relu_stack.2")):
            theirs[position].weight.copy_(torch.tensor(variables(model)[f"{name}.kernel"].T))
            theirs[position].bias.copy_(torch.tensor(variables(model)[f"{name}.bias"]))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.2)
    x = torch.tensor(data.train.images.reshape(150, 36)).float() / 255
    y = torch.tensor(data.train.labels).long()
    losses, sums, correct = [], [0.0, 0.0], [0, 0]
    for epoch in range(2):
        for start in range(0, 150, 32):  # four batches of 32 and one of 22
            optimizer.zero_grad()
            logits = theirs(x[start : start + 32])
            loss = torch.nn.functional.cross_entropy(logits, y[start : start + 32])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            sums[epoch] += loss.item() * len(logits)
            correct[epoch] += int((logits.argmax(1) == y[start : start + 32]).sum())
    np.testing.assert_allclose(result.history["step_loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(result.history["train_loss"], np.array(sums) / 150, rtol=1e-4)
    np.testing.assert_allclose(result.history["train_top1"], np.array(correct) / 150)
    logits = theirs(torch.tensor(data.test.images.reshape(70, 36)).float() / 255).detach()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(data.test.labels).long()).item()
    assert result.history["test_loss"][-1] == pytest.approx(expected, rel=1e-4)
    assert fv.evaluate(result.model, data.test).loss == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(fv.predict(result.model, data.test.images), torch.softmax(logits, 1).numpy(), atol=1e-5)


def test_the_given_model_is_not_changed(data):
    model = fv.models.create("mlp", **MLP)
    before = variables(model)
    fv.fit(model, data, Recipe(epochs=1))
    assert all(np.array_equal(before[name], value) for name, value in variables(model).items())
    assert model.classes == ()


def test_history_has_every_split_metric_and_class(data):
    held = data.hold_out(0.2)
    history = fv.fit(fv.models.create("mlp", **MLP), held, Recipe(epochs=3, batch_size=50)).history
    assert history.epochs == 3
    for split, examples in (("train", 120), ("val", 30), ("test", 70)):
        assert history[f"{split}_loss"].shape == (3,)
        assert history[f"{split}_per_class"].shape == (3, 4)
        labels = held.splits[{"val": "validation"}.get(split, split)].labels
        shares = np.bincount(labels, minlength=4) / examples  # every example counts once
        np.testing.assert_allclose(history[f"{split}_top1"], history[f"{split}_per_class"] @ shares)
        if split != "train":  # of the selected epoch, the last one
            matrix = history.confusion(split)
            np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels, minlength=4))
            np.testing.assert_allclose(np.diag(matrix) / matrix.sum(axis=1), history[f"{split}_per_class"][-1])
    assert history["step_loss"].shape == (9,)
    assert set(history.row(3)) == {f"{s}_{m}" for s in ("train", "val", "test") for m in METRICS}


def test_gradients_on_request(data):
    recipe = Recipe(steps=1, batch_size=150, shuffle=False, record_gradients=True)
    model = fv.models.create("mlp", **MLP)
    history = fv.fit(model, data, recipe).history
    graphdef, params = nnx.split(model)
    x = jnp.asarray(data.train.images, jnp.float32) / 255

    def loss(params):
        logits = nnx.merge(graphdef, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(data.train.labels)).mean()

    grads = [np.asarray(g) for g in jax.tree.leaves(jax.grad(loss)(params))]
    assert history.layers == ("linear_relu_stack.0", "linear_relu_stack.2")
    norms = [np.sqrt(sum((g**2).sum() for g in grads[i : i + 2])) for i in (0, 2)]
    np.testing.assert_allclose(history["gradient_norm"], [norms], rtol=1e-4)
    np.testing.assert_allclose(history["gradient_mean"], [sum(g.mean() for g in grads)], rtol=1e-3, atol=1e-7)


def test_nothing_recompiles_between_epochs_seeds_and_rates(data, caplog):
    def compiled(**settings):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            seed = settings.get("seed", 0)
            fv.fit(fv.models.create("mlp", seed=seed, **MLP), data, Recipe(epochs=3, batch_size=29, **settings))
        return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]

    evaluation_for.cache_clear()
    engine_for.cache_clear()
    first = compiled()
    # Whole batches and the short last one; evaluation. Nothing else of the loop.
    names = [name for message in first for name in ("_train_many", "_evaluate") if name in message]
    assert sorted(names) == ["_evaluate", "_train_many", "_train_many"]
    assert compiled(seed=1, learning_rate=0.01) == []
    assert compiled(seed=2, learning_rate=0.7) == []


def test_frozen_layers_stay_and_run_in_evaluation_mode(make_dataset):
    data = make_dataset((12, 12, 1), 4)
    model = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=4)
    trained = fv.fit(model, data, Recipe(epochs=1, batch_size=64, frozen=("conv0", "conv0_bn"))).model
    before, after = variables(model), variables(trained)
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"conv1", "conv1_bn", "fc", "fc1"}


def test_warm_start_takes_what_it_is_told(tmp_path, data):
    source = fv.models.create("mlp", seed=7, **MLP)
    path = str(fv.save_model(source, tmp_path / "source.safetensors"))
    model = fv.models.create("mlp", seed=1, **MLP)
    recipe = Recipe(steps=1, learning_rate=1e-30, warm_start=path, warm_start_only=("linear_relu_stack.0",))
    started = variables(fv.fit(model, data, recipe).model)
    for name, value in started.items():
        expected = variables(source if name.startswith("linear_relu_stack.0") else model)[name]
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-25)
    with pytest.raises(
        UserError, match=r"does not fit mlp: linear_relu_stack\.0\.bias has shape .*; linear_relu_stack\.0\.kernel"
    ):
        fv.fit(fv.models.create("mlp", **MLP | {"hidden": (13,)}), data, Recipe(warm_start=path))
    with pytest.raises(UserError, match="no variable of mlp lies under head"):
        fv.fit(model, data, Recipe(warm_start=path, warm_start_only=("head",)))


def test_best_epoch_and_early_stopping(data):
    held = data.hold_out(0.3)
    # A rate so high that the loss jumps about: the best epoch is not the last.
    recipe = Recipe(learning_rate=4.0, epochs=12, batch_size=16, select="best", seed=3)
    result = fv.fit(fv.models.create("mlp", **MLP), held, recipe)
    losses = result.history["val_loss"]
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert fv.evaluate(result.model, held.validation).loss == pytest.approx(losses.min(), rel=1e-5)

    early = fv.fit(fv.models.create("mlp", **MLP), held, dataclasses.replace(recipe, early_stopping=2))
    first = next(
        e for e in range(2, 13) if e - (int(np.argmin(losses[:e])) + 1) >= 2
    )  # two epochs without a smaller loss
    assert early.history.epochs == first
    np.testing.assert_array_equal(early.history["val_loss"], losses[:first])


def test_a_callback_sees_every_epoch_and_may_stop(data):
    seen: list[Progress] = []

    def stop_after_two(progress):
        seen.append(progress)
        return progress.epoch == 2

    result = fv.fit(fv.models.create("mlp", **MLP), data, Recipe(epochs=5, batch_size=50), callbacks=[stop_after_two])
    assert result.history.epochs == 2
    assert [p.epoch for p in seen if p.metrics] == [1, 2]
    assert sum(p.examples for p in seen) == 300
    assert seen[-1].step == 6
    assert seen[-1].metrics[0]["test_loss"] == result.history["test_loss"][-1]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, data):
    def recipe(epochs):
        return Recipe(epochs=epochs, batch_size=32, optimizer="adam", learning_rate=1e-2, select="best")

    model = fv.models.create("mlp", **MLP | {"dropout": 0.2})
    straight = fv.fit(model, data, recipe(4))
    fv.fit(model, data, recipe(2), checkpoint=tmp_path / "run")
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):  # no draw depends on what JAX is set to
        resumed = fv.fit(model, data, recipe(4), checkpoint=tmp_path / "run")
    assert same(straight.model, resumed.model)
    for key in straight.history:
        np.testing.assert_array_equal(straight.history[key], resumed.history[key])
    assert resumed.best_epoch == straight.best_epoch
    with pytest.raises(UserError, match=r"holds checkpoints of another run: learning_rate was 0.01, is 0.5"):
        fv.fit(model, data, dataclasses.replace(recipe(4), learning_rate=0.5), checkpoint=tmp_path / "run")


def test_steps_and_part_epochs(data):
    history = fv.fit(fv.models.create("mlp", **MLP), data, Recipe(steps=7, batch_size=32)).history
    assert history["step_loss"].shape == (7,)
    assert [round(top1 * seen, 9) % 1 for top1, seen in zip(history["train_top1"], (150, 64), strict=True)] == [0, 0]


def test_a_run_that_diverges_says_so(data):
    result = fv.fit(fv.models.create("mlp", **MLP), data, Recipe(epochs=2, batch_size=16, learning_rate=1e38))
    assert result.diverged
    assert 0 <= result.history["test_top1"][-1] <= 1


def test_augmentation_and_bfloat16_learn(make_dataset):
    data = make_dataset((16, 16, 3), 4, train=256)
    model = fv.models.create("mlp", input_shape=(16, 16, 3), num_classes=4, hidden=(32,))
    for settings in ({"precision": "bfloat16"}, {"augment": ("crop", "flip")}, {"precision": "highest"}):
        result = fv.fit(model, data, Recipe(epochs=4, batch_size=32, **settings))
        assert result.history["train_loss"][-1] < result.history["train_loss"][0]
        assert variables(result.model)["linear_relu_stack.0.kernel"].dtype == np.float32


def test_points_binary_loss_and_reconstruction(make_dataset):
    points = make_dataset((2,), 2)
    model = fv.models.create("mlp", input_shape=(2,), num_classes=1, hidden=(16,))
    recipe = Recipe(epochs=5, batch_size=8, optimizer="adam", learning_rate=1e-2, loss="binary_cross_entropy")
    result = fv.fit(model, points, recipe)
    assert result.history["test_top1"][-1] == 1.0
    probabilities = fv.predict(result.model, points.test.images)
    assert probabilities.shape == (100, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)

    images = make_dataset((28, 28, 1), 4, train=64, test=10)
    autoencoder = fv.models.create("emnist_autoencoder")
    result = fv.fit(autoencoder, images, Recipe(epochs=2, batch_size=16, loss="squared_error", learning_rate=1e-4))
    assert result.history["test_loss"][1] < result.history["test_loss"][0]
    assert np.isnan(result.history["test_top1"]).all()
    assert fv.predict(result.model, images.test.images).shape == (10, 28, 28, 1)
    expected = ((images.test.images / 255.0 - fv.predict(result.model, images.test.images)) ** 2).sum() / 10
    assert result.history["test_loss"][-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        (MLP | {"input_shape": (5, 5, 1)}, {}, r"takes examples of shape \(5, 5, 1\) but made has \(6, 6, 1\)"),
        (MLP | {"num_classes": 5}, {}, "has 5 outputs but made has 4 classes: create it with num_classes=4"),
        (MLP, {"loss": "binary_cross_entropy"}, "use loss 'cross_entropy'"),
        (MLP | {"num_classes": 1}, {"loss": "binary_cross_entropy"}, "takes 2 classes, made has 4"),
        (MLP, {"batch_size": 151}, "give a batch_size of at most 150"),
        (MLP, {"frozen": ("linear_relu_stack",)}, "nothing to learn with frozen"),
        (MLP, {"frozen": ("encoder",)}, "unknown layer of mlp 'encoder'"),
        (MLP, {"precision": "float64"}, "JAX_ENABLE_X64=1"),
        (MLP, {"warm_start": "missing.safetensors"}, "no weights file missing.safetensors"),
        (MLP, {"select": "best", "select_on": "val_loss"}, "there is no validation split"),
    ],
)
def test_what_does_not_fit_is_one_line(data, model, recipe, message):
    with pytest.raises(UserError, match=message) as caught:
        fv.fit(fv.models.create("mlp", **model), data, Recipe(**recipe))
    assert "\n" not in str(caught.value)


def test_cohorts_of_different_structure_are_refused(data):
    models = [fv.models.create("mlp", **MLP), fv.models.create("mlp", **MLP | {"hidden": (5,)})]
    with pytest.raises(UserError, match="differ in structure"):
        train_cohort(models, data, [Recipe(), Recipe()])
    with pytest.raises(UserError, match="may differ in learning_rate"):
        train_cohort(models[:1] * 2, data, [Recipe(), Recipe(batch_size=64)])
    with pytest.raises(UserError, match="give one recipe a model"):
        train_cohort(models, data, [Recipe()])
    with pytest.raises(UserError, match="devices is 99"):
        fv.fit(models[0], data, Recipe(), devices=99)


def test_evaluate_and_predict_check_their_input(data):
    model = fv.models.create("mlp", **MLP)
    with pytest.raises(UserError, match=r"give an array \(N, 6, 6, 1\)"):
        fv.predict(model, np.zeros((3, 5, 5, 1), np.uint8))
    assert fv.predict(model, np.zeros((0, 6, 6, 1), np.uint8)).shape == (0, 4)


def test_an_epochs_order_is_a_permutation_of_its_own():
    orders = [
        np.asarray(epoch_order(jnp.uint32(seed), np.uint32(epoch), 50)) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


@pytest.mark.parametrize(("size", "devices"), [(64, 8), (30, 8), (5, 8), (3, 2)])
def test_shards_hold_every_example_once(size, devices):
    images, labels = np.arange(100.0)[:, None].astype(np.float32), np.arange(100, dtype=np.int32)
    seen = []
    for rank in range(devices):
        batch = take_batch(jnp.asarray(images), jnp.asarray(labels), None, jnp.int32(10), size, Shard(rank, devices))
        mask = np.ones(len(batch.labels), bool) if batch.mask is None else np.asarray(batch.mask)
        seen += np.asarray(batch.labels)[mask].tolist()
        np.testing.assert_array_equal(np.asarray(batch.indices)[mask] + 10, np.asarray(batch.labels)[mask])
    assert seen == list(range(10, 10 + size))


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize(("start", "stop", "size"), [(0, 100, 100), (0, 37, 20), (37, 100, 20), (95, 100, 40)])
def test_batches_of_a_range_hold_each_example_once(devices, start, stop, size):
    images, labels = np.arange(100.0)[:, None].astype(np.float32), np.arange(100, dtype=np.int32)
    seen = []
    for first in range(start, stop, size):
        for rank in range(devices):
            shard = Shard(rank, devices)
            batch = take_range(jnp.asarray(images), jnp.asarray(labels), np.int32(first), np.int32(stop), size, shard)
            seen += np.asarray(batch.labels)[np.asarray(batch.mask)].tolist()
            np.testing.assert_array_equal(batch.images[:, 0], batch.labels)
    assert sorted(seen) == list(range(start, stop))


def test_one_evaluation_program_serves_splits_optimizers_and_frozen_layers(make_dataset, monkeypatch):
    from flaxvision.training import scoring

    traced = []
    sum_batch = scoring.sum_batch
    monkeypatch.setattr(scoring, "sum_batch", lambda *arguments: traced.append(1) or sum_batch(*arguments))
    monkeypatch.setattr(scoring, "EVALUATED", 32)
    evaluation_for.cache_clear()
    engine_for.cache_clear()
    data = make_dataset((6, 6, 1), 4, train=150, test=70).hold_out(0.3, seed=0)
    for settings in ({}, {"optimizer": "adam"}, {"frozen": ("linear_relu_stack.0",)}):
        recipe = Recipe(learning_rate=0.01, batch_size=32, epochs=2, **settings)
        result = fv.fit(fv.models.create("mlp", **MLP), data, recipe)
        for name, split in (("val", data.validation), ("test", data.test)):
            logits = np.asarray(result.model(result.model.preprocess(split.images, jnp.float32)), np.float64)
            losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(split)), split.labels]
            correct = logits.argmax(1) == split.labels
            assert result.history[f"{name}_loss"][-1] == pytest.approx(losses.mean(), rel=1e-5)
            assert result.history[f"{name}_top1"][-1] == pytest.approx(correct.mean(), abs=1e-7)
    assert traced == [1]
    evaluation_for.cache_clear()
    engine_for.cache_clear()


def test_a_convolutional_network_is_not_traced_again_for_epochs_rates_or_seeds(make_dataset, traced):
    data = make_dataset((28, 28, 1), 10, train=70, test=10)
    for rate, seed in ((0.1, 0), (0.01, 1), (1e-3, 2)):
        model = fv.models.create("tiny_cnn", num_classes=10, seed=seed)
        fv.fit(model, data, fv.Recipe(learning_rate=rate, seed=seed, epochs=3, batch_size=20))
    assert sorted(traced) == [10, 20]  # the short last batch, and all others


def test_threads_share_what_is_compiled(data, traced):
    def train(seed):
        return fv.fit(fv.models.create("mlp", seed=seed, **MLP), data, Recipe(seed=seed, batch_size=50, epochs=2))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, range(4)))
    assert traced == [50]
    for seed, result in enumerate(together):
        alone = train(seed)
        assert same(alone.model, result.model)
        np.testing.assert_array_equal(alone.history["test_loss"], result.history["test_loss"])


def test_weights_are_updated_in_place(monkeypatch, data):
    from flaxvision.training import engine

    programs = []
    compile_for = engine.compile_for

    def watched(plan, function, **settings):
        jitted = compile_for(plan, function, **settings)

        def call(*arguments, **settings):
            if "call" in settings and settings["call"].looped:
                programs.append(jitted.lower(*arguments, **settings).compile().as_text())
            return jitted(*arguments, **settings)

        return call

    monkeypatch.setattr(engine, "compile_for", watched)
    engine.engine_for.cache_clear()
    fv.fit(fv.models.create("mlp", **MLP | {"hidden": (24, 20)}), data, Recipe(batch_size=32))
    engine.engine_for.cache_clear()
    assert "f32[24,20]" in programs[0]
    assert "f32[24,20]{1,0} copy(" not in programs[0]  # the second layer's kernel, which the first's gradient reads


def test_an_option_that_xla_does_not_know_is_left_out():
    from flaxvision.training import plan

    assert plan._known(*plan.IN_PLACE) == dict([plan.IN_PLACE])
    assert plan._known("xla_cpu_no_such_option", True) is None
