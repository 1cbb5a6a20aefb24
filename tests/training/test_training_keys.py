"""Keys of recipes as PyTorch has them: alone, varying within one program, killed and resumed, from TOML and `--set`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w
from flax import nnx

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import assign, variables
from flaxvision.sweep.overrides import override
from flaxvision.sweep.parse import load_spec, parse_spec
from flaxvision.sweep.trials import expand
from flaxvision.training import Recipe, train_cohort
from flaxvision.training.batches import Partners
from flaxvision.training.losses import example_losses
from flaxvision.training.mixing import draw_mix
from flaxvision.training.optimizers import OPTIMIZERS
from flaxvision.training.preparing import standard, with_weights
from flaxvision.training.recipe import from_dict
from flaxvision.training.selection import Best
from tests.conftest import made_dataset, slow

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
WEIGHTS = (0.5, 2.0, 1.5)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_class_weights_are_pytorchs(torch, share):
    outputs, labels = RNG.normal(size=(7, 3)).astype(np.float32) * 3, RNG.integers(0, 3, 7).astype(np.int32)
    ours = example_losses(
        "cross_entropy", jnp.asarray(outputs), jnp.asarray(labels), None, jnp.float32(share) if share else None,
        np.asarray(WEIGHTS),
    )  # fmt: skip
    loss = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=share)
    wanted = loss(torch.tensor(outputs), torch.tensor(labels).long())
    np.testing.assert_allclose(ours.sum() / np.asarray(WEIGHTS)[labels].sum(), wanted, rtol=1e-5)


def test_class_weights_of_a_single_logit(torch):
    logits, labels = RNG.normal(size=(6, 1)).astype(np.float32), np.array([0, 1, 1, 0, 1, 0], np.int32)
    both = torch.tensor(np.concatenate([np.zeros_like(logits), logits], 1))
    wanted = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS[:2]), reduction="none")(both, torch.tensor(labels).long())
    ours = example_losses("binary_cross_entropy", logits, labels, None, None, np.asarray(WEIGHTS[:2]))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


def images_of(counts, shape=(5, 5, 1)):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    images = RNG.integers(0, 256, (len(labels), *shape), np.uint8)
    return fv.data.from_arrays(images, labels, images[:2], labels[:2], classes=[f"c{i}" for i in range(len(counts))])


def test_balanced_is_scikit_learns():
    """n_samples / (n_classes * np.bincount(y)); a class without examples has no weight."""
    recipe = Recipe(class_weights="balanced")
    assert with_weights(recipe, images_of([10, 2, 4])).class_weights == pytest.approx((16 / 30, 16 / 6, 16 / 12))
    assert with_weights(Recipe(class_weights=[1, 2, 1]), images_of([1, 1, 1])).class_weights == (1, 2, 1)
    with pytest.raises(
        UserError, match=r"class_weights is 'balanced' but .* has no training example of c1: give numbers"
    ):
        with_weights(recipe, images_of([3, 0, 2]))


def test_standard_pixels_have_mean_0_and_deviation_1():
    images = RNG.integers(0, 256, (2100, 3, 4, 3)).astype(np.uint8)
    images[..., 1] //= 3
    images[..., 2] = 7
    preprocess = standard(images)
    assert standard(images) is preprocess  # trials share it
    found = np.asarray(preprocess(jnp.asarray(images), jnp.dtype("float32")))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(found.std((0, 1, 2)), [1, 1, 0], atol=1e-4)
    wanted = images[..., :2].reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(preprocess.scale[:2], 1 / wanted.std(0), rtol=1e-9)
    np.testing.assert_allclose(preprocess.offset[:2], -wanted.mean(0) / wanted.std(0), rtol=1e-9)


def twin_of(torch, layer):
    twin = torch.nn.Linear(*layer.kernel[...].shape)
    weights = {"weight": np.array(layer.kernel[...]).T, "bias": np.array(layer.bias[...])}
    twin.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return twin


@pytest.mark.parametrize(("mode", "mixed"), [("loop", False), slow("loop", True), slow("vmap", True)])
def test_what_varies_within_a_program_is_pytorchs(torch, mode, mixed):
    """Averages, class weights, decay without biases, milestones and standard pixels, and the share of mixup that was
    drawn, in PyTorch; the numbers that can differ do."""
    data = made_dataset((3, 3, 1), 3, 24, 20)
    shared = {
        "batch_size": 8, "epochs": 4, "shuffle": False, "schedule": "step", "milestones": [1, 2.5],
        "pixels": "standard", "class_weights": WEIGHTS, "decay_biases": False, "learning_rate": 0.3,
    }  # fmt: skip
    numbers = [{"ema": 0.9, "weight_decay": 0.1}, {"ema": 0.5, "weight_decay": 0.3}]
    alphas = [{"mixup": 0.5}, {"mixup": 2.0}] if mixed else [{}, {}]
    numbers = [{**each, **alpha} for each, alpha in zip(numbers, alphas, strict=True)]
    model = fv.models.create("linear", input_shape=(3, 3, 1), num_classes=3)
    recipes = [Recipe(**shared, **each, seed=seed) for seed, each in enumerate(numbers)]
    assert recipes[0].structure() == recipes[1].structure()
    images = data.train.images.astype(np.float64)
    images = ((images - images.mean()) / images.std()).reshape(24, 9).astype(np.float32)
    results = train_cohort([model, model], data, recipes, mode=mode)
    for seed, (found, each) in enumerate(zip(results, numbers, strict=True)):
        twin = twin_of(torch, model.layers[-1])
        groups = [
            {"params": [twin.weight], "weight_decay": each["weight_decay"]},
            {"params": [twin.bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, 0.3)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 8])
        average = torch.optim.swa_utils.AveragedModel(
            twin, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(each["ema"])
        )
        losses = []
        weights = torch.tensor(WEIGHTS)
        for step in range(12):
            chosen = np.arange(step % 3 * 8, step % 3 * 8 + 8)
            x, y = torch.tensor(images[chosen]), torch.tensor(data.train.labels[chosen]).long()
            share = float(share_of(np.uint32(seed), np.int32(step), np.float32(each["mixup"]))) if mixed else 1.0
            optimizer.zero_grad()
            output = twin(share * x + (1 - share) * x.roll(1, 0))
            sides = [torch.nn.functional.cross_entropy(output, t, weights, reduction="sum") for t in (y, y.roll(1, 0))]
            loss = (share * sides[0] + (1 - share) * sides[1]) / weights[y].sum()  # the same for the labels rolled
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(twin)
            losses.append(loss.item())
        np.testing.assert_allclose(found.history["step_loss"], losses, rtol=1e-4)
        ours = variables(found.model)
        kernel, bias = (
            next(value for name, value in ours.items() if name.endswith(part)) for part in ("kernel", "bias")
        )
        np.testing.assert_allclose(kernel.T, average.module.weight.detach(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(bias, average.module.bias.detach(), rtol=1e-3, atol=1e-5)
        plain = fv.evaluate(found.model, data.test).loss  # of the average, and without weights
        assert found.history["test_loss"][-1] == pytest.approx(plain, rel=1e-5)


@jax.jit
def share_of(seed, step, alpha):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), step)
    nobody = Partners(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1))
    return draw_mix({"mixup": alpha}, key, nobody, (3, 3, 1)).share


def test_an_image_and_its_mirror_image(tmp_path):
    data = made_dataset((4, 4, 3), 3, 40, 30)
    model = fv.models.create("linear", input_shape=(4, 4, 3), num_classes=3)
    recipe = Recipe(batch_size=20, epochs=1, test_time_flip=True, learning_rate=0.5, pixels="standard")
    found = fv.fit(model, data, recipe)
    assert found.history["test_loss"][-1] == pytest.approx(
        fv.evaluate(found.model, data.test, test_time_flip=True).loss, rel=1e-5
    )
    images = data.test.images
    logits = [np.asarray(found.model(found.model.preprocess(jnp.asarray(x), jnp.dtype("float32"))))
              for x in (images, images[:, :, ::-1])]  # fmt: skip
    mean = np.exp(sum(logits) / 2)
    wanted = mean / mean.sum(1, keepdims=True)
    np.testing.assert_allclose(fv.predict(found.model, images, test_time_flip=True), wanted, rtol=1e-4)
    loaded = fv.load_model(fv.save_model(found.model, tmp_path / "standard.safetensors"))  # the pixels' numbers, too
    assert loaded.preprocess == standard(data.train.images)
    assert len(loaded.preprocess.scale) == 3
    np.testing.assert_array_equal(fv.predict(loaded, images), fv.predict(found.model, images))
    points = fv.models.create("linear", input_shape=(2,), num_classes=2)
    with pytest.raises(UserError, match="test_time_flip is for images with classes, not for linear"):
        fv.predict(points, np.zeros((3, 2), np.float32), test_time_flip=True)


@pytest.mark.parametrize(("growth", "rate"), [(3.0, 0.25), slow(0.0, 0.5)])
def test_slow_weights_are_those_of_jordans_code(growth, rate):
    """Lookahead with the growing share of airbench94's code, and with the constant one of its own paper: parameters and
    batch statistics that NumPy makes of plain updates from one of the slow weights to the next."""
    data = made_dataset((4, 4, 1), 3, 32, 20)
    settings = {"batch_size": 8, "learning_rate": 0.1, "shuffle": False}
    model = fv.models.create("mlp", input_shape=(4, 4, 1), num_classes=3, hidden=(5,), batch_norm=True)

    second = dataclasses.replace(data, train=data.train[np.roll(np.arange(32), -16)])  # begins with the third batch

    def trained(start, data, steps, **changes):
        return fv.fit(start, data, Recipe(steps=steps, **settings, **changes)).model

    ours = variables(trained(model, data, 4, lookahead=2, lookahead_rate=rate, lookahead_growth=growth))
    mean = variables(model)
    for step, examples in ((2, data), (4, second)):
        fast = variables(trained(model, examples, 2))
        kept = (1 - rate) * (step / 4) ** growth
        mean = {name: kept * value + (1 - kept) * fast[name] for name, value in mean.items()}
        model = nnx.clone(model)
        assign(model, mean, "the test")
    for name, value in mean.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_averages_hold_batch_statistics():
    """What is evaluated is the mean that NumPy makes of the parameters and statistics after each update."""
    data = made_dataset((4, 4, 1), 3, 32, 20)
    settings = {"batch_size": 8, "learning_rate": 0.1, "momentum": 0.9}

    def trained(steps, **changes):
        model = fv.models.create("mlp", input_shape=(4, 4, 1), num_classes=3, hidden=(5,), batch_norm=True)
        return variables(fv.fit(model, data, Recipe(steps=steps, **settings, **changes)).model)

    after = [trained(steps) for steps in range(1, 5)]
    mean = after[0]
    for each in after[1:]:
        mean = {name: 0.7 * mean[name] + 0.3 * each[name] for name in mean}
    ours = trained(4, ema=0.7)
    assert any(name.endswith("var") for name in ours)
    for name, value in mean.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


KEYS = {
    "schedule": "step",
    "milestones": [1.5],
    "optimizer": "nadam",
    "momentum_decay": 0.01,
    "weight_decay": 0.1,
    "decay_biases": False,
    "class_weights": "balanced",
    "ema": 0.9,
    "pixels": "standard",
    "augment": ["crop", "flip"],
    "crop_padding": 2,
    "crop_padding_mode": "reflect",
    "rotation": 20,
    "translation": 0.25,
    "brightness": 0.2,
    "contrast": 0.3,
    "cutout": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
    "test_time_flip": True,
    "drop_last": True,
    "warmup_epochs": 0.5,
    "start_factor": 0.2,
}
# What cannot stand beside some of these.
OTHER_KEYS = {"lookahead": 2, "lookahead_rate": 0.3, "lookahead_growth": 2.0, "augment": ["alternating_flip"],
              "schedule": "linear", "end_factor": 0.1, "mixup": 0.2, "drop_last": True}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["loop", "vmap"])
@pytest.mark.parametrize("keys", [{**KEYS, "rotation": 5.0}, OTHER_KEYS])
def test_all_together_killed_and_resumed(tmp_path, mode, keys):
    data = made_dataset((6, 6, 1), 3, 50, 20)
    models = [fv.models.create("mlp", input_shape=(6, 6, 1), num_classes=3, hidden=(4,), seed=k) for k in range(2)]
    number = "rotation" if "rotation" in keys else "lookahead_rate"
    recipes = [from_dict({**keys, "batch_size": 16, "epochs": 3, "seed": k, number: keys[number] / (1 + k)})
               for k in range(2)]  # fmt: skip
    straight = train_cohort(models, data, recipes, mode=mode)

    def stop(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cohort(models, data, recipes, mode=mode, checkpoint=tmp_path / "run", callbacks=[stop])
    resumed = train_cohort(models, data, recipes, mode=mode, checkpoint=tmp_path / "run")
    for one, other in zip(straight, resumed, strict=True):
        for name in one.history:
            np.testing.assert_array_equal(one.history[name], other.history[name], err_msg=name)
        for name, value in variables(one.model).items():
            np.testing.assert_array_equal(variables(other.model)[name], value, err_msg=name)


def test_keys_of_a_spec_and_of_the_command_line():
    table = {"name": "keys", "dataset": "glyphs", "model": "mlp", "recipe": {**KEYS, "epochs": 2}}
    varied = {
        "ema": [0.9, 0.99],
        "rotation": [5, 10],
        "mixup": [0.1, 1],
        "cutout": [0.4, 0.5],
        "brightness": [0.1, 0.2],
    }
    spec = parse_spec({**table, "grid": varied})
    trials = expand(spec)
    assert len(trials) == 32
    assert len({trial.program for trial in trials}) == 1
    recipes = [from_dict(trial.config.recipe) for trial in trials]
    assert len({recipe.structure() for recipe in recipes}) == 1
    assert recipes[-1].ema == 0.99
    assert recipes[0].class_weights == ("balanced",)
    settings = ["milestones=[0.5,1.5]", "class_weights=[1,2.5],balanced", "cutmix=0.5", "ema=0.5,0.75"]
    recipes = [from_dict(trial.config.recipe) for trial in expand(override(parse_spec(table), settings=settings))]
    assert {recipe.class_weights for recipe in recipes} == {(1, 2.5), ("balanced",)}
    assert {recipe.milestones for recipe in recipes} == {(0.5, 1.5)}
    assert all(type(number) is float for recipe in recipes for number in recipe.milestones)
    assert len({recipe.structure() for recipe in recipes}) == 2  # ema varies within a program, class weights do not


STEPS, IN_ADAM, IN_RMSPROP = {"schedule": "step"}, {"optimizer": "adam"}, {"optimizer": "rmsprop"}
AHEAD, CROPPED = {"lookahead": 5}, {"augment": ["crop"]}
TWO_VALUES = {  # key -> two values as TOML has them, as `--set KEY=` takes them, and what they need beside them
    "optimizer": (["adam", "my_module:make"], "adam,my_module:make", {}),
    "learning_rate": ([0.1, 1e-3], "0.1,1e-3", {}),
    "weight_decay": ([0.01, 0.5], "0.01,0.5", {}),
    "decay_biases": ([True, False], "true,false", {"weight_decay": 0.1}),
    "clip_norm": ([1.0, 0.5], "1.0,0.5", {}),
    "momentum": ([0.5, 0.9], "0.5,0.9", {}),
    "nesterov": ([False, True], "false,true", {"momentum": 0.9}),
    "beta1": ([0.5, 0.8], "0.5,0.8", IN_ADAM),
    "beta2": ([0.9, 0.99], "0.9,0.99", IN_ADAM),
    "smoothing": ([0.9, 0.5], "0.9,0.5", IN_RMSPROP),
    "epsilon": ([1e-6, 0.1], "1e-6,0.1", IN_ADAM),
    "centered": ([False, True], "false,true", IN_RMSPROP),
    "momentum_decay": ([0.01, 0.1], "0.01,0.1", {"optimizer": "nadam"}),
    "vector_scale": ([0.5, 2.0], "0.5,2.0", {"optimizer": "muon"}),
    "schedule": (["cosine", "one_cycle"], "cosine,one_cycle", {}),
    "step_epochs": ([2.0, 0.5], "2.0,0.5", STEPS),
    "milestones": ([[1.0], [0.5, 2.0]], "[1.0],[0.5,2.0]", STEPS),
    "step_factor": ([0.2, 0.5], "0.2,0.5", STEPS),
    "end_factor": ([0.1, 0.2], "0.1,0.2", {"schedule": "linear"}),
    "base_momentum": ([0.85, 0.8], "0.85,0.8", {"schedule": "one_cycle", "momentum": 0.95}),
    "warmup_epochs": ([1.0, 0.5], "1.0,0.5", {}),
    "start_factor": ([0.1, 0.2], "0.1,0.2", {"warmup_epochs": 1.0}),
    "batch_size": ([16, 32], "16,32", {}),
    "shuffle": ([True, False], "true,false", {}),
    "drop_last": ([True, False], "true,false", {}),
    "epochs": ([2, 0.5], "2,0.5", {}),
    "steps": ([20, 30], "20,30", {}),
    "examples": ([1000, 2000], "1000,2000", {}),
    "loss": (["binary_cross_entropy", "squared_error"], "binary_cross_entropy,squared_error", {}),
    "label_smoothing": ([0.1, 0.2], "0.1,0.2", {}),
    "class_weights": (["balanced", [1, 2.5]], "balanced,[1,2.5]", {}),
    "ema": ([0.99, 0.5], "0.99,0.5", {}),
    "lookahead": ([5, 10], "5,10", {}),
    "lookahead_rate": ([0.2, 0.8], "0.2,0.8", AHEAD),
    "lookahead_growth": ([1.0, 3.0], "1.0,3.0", AHEAD),
    "pixels": (["standard", "raw"], "standard,raw", {}),
    "augment": ([["crop"], ["crop", "flip"]], "[crop],[crop,flip]", {}),
    "crop_padding": ([2, 3], "2,3", CROPPED),
    "crop_padding_mode": (["zeros", "reflect"], "zeros,reflect", CROPPED),
    "rotation": ([15, 7.5], "15,7.5", {}),
    "translation": ([0.1, 0.2], "0.1,0.2", {}),
    "brightness": ([0.1, 0.2], "0.1,0.2", {}),
    "contrast": ([0.1, 0.2], "0.1,0.2", {}),
    "cutout": ([0.5, 0.25], "0.5,0.25", {}),
    "mixup": ([0.2, 1], "0.2,1", {}),
    "cutmix": ([0.2, 1], "0.2,1", {}),
    "test_time_flip": ([True, False], "true,false", {}),
    "frozen": ([["conv"], ["conv", "out.bias"]], "[conv],[conv,out.bias]", {}),
    "warm_start": (["a.safetensors", "runs/b"], "a.safetensors,runs/b", {}),
    "warm_start_only": ([["conv"], ["out"]], "[conv],[out]", {"warm_start": "a.safetensors"}),
    "conv": (["auto", "native"], "auto,native", {}),
    "precision": (["bfloat16", "float64"], "bfloat16,float64", {}),
    "early_stopping": ([2, 3], "2,3", {}),
    "select": (["last", "best"], "last,best", {}),
    "select_on": (["val_loss", "test_top1"], "val_loss,test_top1", {"select": "best"}),
    "record_gradients": ([True, False], "true,false", {}),
}


@pytest.mark.parametrize(
    "field", [field for field in dataclasses.fields(Recipe) if field.name != "seed"], ids=lambda field: field.name
)
def test_each_key_in_toml_and_typed(field, tmp_path):
    """In [recipe], in [grid] and after `--set`: the same recipes, of one program if the key may vary within one."""
    key, path = field.name, tmp_path / "keys.toml"
    values, typed, beside = TWO_VALUES[key]

    def recipes(recipe, grid, settings=()):
        table = {"dataset": "glyphs", "model": "mlp", "recipe": recipe, "grid": grid}
        path.write_text(tomli_w.dumps(table))
        trials = expand(override(load_spec(path), settings=settings))
        return [from_dict(trial.config.recipe) for trial in trials], {trial.program for trial in trials}

    wanted = [Recipe(**beside, **{key: value}) for value in values]
    in_grid, typed_in = recipes(beside, {key: values}), recipes(beside, {}, [f"{key}={typed}"])
    alone = [recipes({**beside, key: value}, {})[0][0] for value in values]
    for found in (in_grid[0], typed_in[0], alone):
        assert found == wanted
        assert repr(found) == repr(wanted)  # of the same types, too
    assert in_grid[1] == typed_in[1]
    assert len(in_grid[1]) == len({recipe.structure() for recipe in wanted}) == 1 + (field.metadata["varies"] == "no")


def test_the_seed_is_a_key_of_the_spec():
    table = {"name": "keys", "dataset": "glyphs", "model": "mlp", "seeds": [3, 5]}
    assert [trial.seed for trial in expand(parse_spec(table))] == [3, 5]
    with pytest.raises(UserError, match=r"unknown key of \[recipe\] 'seed'"):
        parse_spec({**table, "recipe": {"seed": 3}})
    with pytest.raises(UserError, match="--set seed: that is an option of its own, --seeds N"):
        override(parse_spec(table), settings=["seed=3"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_in_toml_and_typed(name):
    table = {"name": "keys", "dataset": "glyphs", "model": "mlp"}
    (written,) = expand(parse_spec({**table, "recipe": {"optimizer": name}}))
    (typed,) = expand(override(parse_spec(table), settings=[f"optimizer={name}"]))
    assert from_dict(written.config.recipe) == from_dict(typed.config.recipe) == Recipe(optimizer=name)


@pytest.mark.parametrize("metric", ["val_loss", "test_loss", "test_top1", "test_balanced"])
def test_early_stopping_by_any_metric_is_keras(metric):
    """The epoch that is kept and the one at which it stops are those of Keras's EarlyStopping."""
    keras = pytest.importorskip("keras")
    values = np.array([0.5, 0.7, 0.6, 0.71, 0.71, 0.7, 0.3, 0.2, 0.72])
    values = 1 - values if metric.endswith("loss") else values
    patience = 3
    theirs = keras.callbacks.EarlyStopping(metric, patience=patience, mode="min" if "loss" in metric else "max")
    theirs.set_model(type("Model", (), {"stop_training": False, "optimizer": None})())
    theirs.on_train_begin()
    recipe, ours = Recipe(early_stopping=patience, select="best", select_on=metric), Best()
    for epoch, value in enumerate(values):
        theirs.on_epoch_end(epoch, {metric: value})
        if ours.update(epoch + 1, value, recipe, metric):
            ours.state = "the parameters that are kept"
        assert ours.stopped == theirs.model.stop_training
        if ours.stopped:
            break
    assert (ours.epoch, epoch) == (theirs.best_epoch + 1, theirs.stopped_epoch)
    assert epoch == 6


@pytest.mark.slow
def test_bfloat16_is_pytorchs(torch):
    """Products and activations in bfloat16; parameters, losses and updates in float32."""
    data = made_dataset((3, 3, 1), 3, 32, 20)
    model = fv.models.create("mlp", input_shape=(3, 3, 1), num_classes=3, hidden=(5,))
    settings = {"batch_size": 8, "steps": 12, "shuffle": False, "learning_rate": 0.5}
    found = fv.fit(model, data, Recipe(**settings, precision="bfloat16"))
    assert {value.dtype for value in variables(found.model).values()} == {np.dtype("float32")}
    exact = fv.fit(model, data, Recipe(**settings))
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    twins = [twin_of(torch, layer) for layer in layers]
    optimizer = torch.optim.SGD([parameter for twin in twins for parameter in twin.parameters()], 0.5)
    x_all = torch.tensor(data.train.images.reshape(32, 9).astype(np.float32)).bfloat16()
    losses = []
    for step in range(12):
        chosen = slice(step % 4 * 8, step % 4 * 8 + 8)
        x = x_all[chosen] * torch.tensor(1 / 255).bfloat16()
        for number, twin in enumerate(twins):
            x = x @ twin.weight.bfloat16().T + twin.bias.bfloat16()
            x = torch.relu(x) if number == 0 else x
        loss = torch.nn.functional.cross_entropy(x.float(), torch.tensor(data.train.labels[chosen]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(found.history["step_loss"], losses, rtol=5e-3)
    assert np.abs(found.history["step_loss"] - exact.history["step_loss"]).max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, "ema is 1.0: give a number above 0 and below 1, such as 0.999, or leave it out"),
        ({"ema": 0}, "ema is 0: give a number above 0 and below 1"),
        (
            {"class_weights": "even"},
            r"class_weights is \['even'\]: give a number above 0 for each class, or 'balanced'",
        ),
        ({"class_weights": [1, 0]}, r"class_weights is \[1, 0\]: give a number above 0 for each class"),
        ({"class_weights": [1, 2], "loss": "squared_error"}, r"class_weights is \[1, 2\] but has no effect with loss"),
        ({"lookahead_rate": 0.2}, "lookahead_rate is 0.2 but has no effect without lookahead: give a number of upd"),
        ({"lookahead": 5, "lookahead_rate": 1}, "lookahead_rate is 1: give a number above 0"),
        ({"lookahead": 5, "ema": 0.9}, "both ema and lookahead say which mean of the weights is evaluated"),
        ({"augment": ["flip", "alternating_flip"]}, "augment has both 'flip' and 'alternating_flip': give one"),
        (
            {"base_momentum": 0.8, "momentum": 0.9},
            "base_momentum is 0.8 but has no effect with schedule 'constant': give",
        ),
        ({"base_momentum": 0.8, "schedule": "one_cycle"}, "base_momentum needs a momentum to fall from: give momentum"),
        ({"end_factor": 0.1}, "end_factor is 0.1 but has no effect with schedule 'constant': give 'cosine' or 'lin"),
        ({"start_factor": 0.1}, "start_factor is 0.1 but has no effect without a warm-up: give warmup_epochs"),
        ({"decay_biases": False}, "decay_biases is False but has no effect without weight decay: give a weight_decay"),
        ({"test_time_flip": True, "loss": "squared_error"}, "test_time_flip is True but has no effect with loss"),
        ({"pixels": "standardized"}, "did you mean 'standard'"),
        ({"momentum_decay": 0.1}, "momentum_decay is 0.1 but has no effect with optimizer 'sgd': leave it out, or opt"),
        ({"optimizer": "optax:lamb", "weight_decay": 0.1, "decay_biases": False}, "weight_decay has no effect with"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Recipe(**settings)
    assert "\n" not in str(caught.value)


def test_class_weights_fit_the_classes():
    data, model = images_of([3, 2, 1]), fv.models.create("linear", input_shape=(5, 5, 1), num_classes=3)
    with pytest.raises(UserError, match="class_weights has 2 numbers but arrays has 3 classes: give a number for each"):
        fv.fit(model, data, Recipe(batch_size=2, class_weights=[1, 2]))
