"""A checkpoint folder goes on with the run that it is of, in any process, and names what another one differs in."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxvision as fv
from flaxvision._describe import Indescribable, describe, digest
from flaxvision.errors import UserError
from flaxvision.identity import differences
from flaxvision.layers import Chain
from flaxvision.runtime import same_draws
from flaxvision.training.augment import augment_images
from flaxvision.training.batches import epoch_order
from flaxvision.training.identity import identity_of

pytestmark = pytest.mark.quick
NET = {"input_shape": (4, 4, 1), "num_classes": 3, "hidden": (8,)}

OPTIMIZERS = """
import functools, jax, optax
import jax.numpy as jnp
SCALE = {scale}

def helper(step):
    return SCALE * step

class Warm:
    def __init__(self, peak):
        self.peak = peak
    def __call__(self, step):
        return helper(self.peak)

def matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)

ALL = {{
    "cosine": optax.cosine_decay_schedule(0.1, 100),
    "joined": optax.join_schedules([optax.linear_schedule(0.0, 0.1, 10), optax.cosine_decay_schedule(0.1, 90)], [10]),
    "lambda": lambda step: helper(step),
    "partial": functools.partial(lambda rate, step: rate, 0.1),
    "compiled": jax.jit(lambda step: 0.1),
    "object": Warm(0.1),
    "table": (lambda rates: lambda step: rates[step])(jnp.arange(10.0)),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "masked": optax.adamw(1e-3, weight_decay=1e-4, mask=matrices),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0.0, 10)),
    "steps": optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(),
    "labelled": optax.multi_transform({{"a": optax.sgd(0.1)}}, lambda params: jax.tree.map(lambda _: "a", params)),
    "names": lambda step: 0.1 if step in {{"x", "y", "z"}} else 0.2,
}}
"""


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 4, 4, 1), np.uint8)
    return fv.data.from_arrays(images[:40], np.arange(40) % 3, images[40:], np.arange(20) % 3)


def net(**changes):
    return fv.models.create("mlp", **NET | changes)


def recipe(**changes):
    return fv.Recipe(**{"batch_size": 16, "epochs": 2, **changes})


def found(data, then, now):
    """The differences of two runs, each (model, data, recipe)."""
    identities = [json.loads(json.dumps(identity_of(m, d or data, r, 6))) for m, d, r in (then, now)]
    return differences(*identities)


def first(data, then, now):
    return found(data, then, now)[0].split(" was ")[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden": (9,)}, "network linear_relu_stack.0 out_features was 8, is 9"),
        ({"activation": "tanh"}, "network linear_relu_stack.1 function was relu, is tanh"),
        ({"seed": 7}, "initial weights was"),
        ({"init": "torch"}, "initial weights was"),
    ],
)
def test_another_network(data, changes, named):
    assert found(data, (net(), None, recipe()), (net(**changes), None, recipe()))[0].startswith(named)


def test_another_depth_and_dropout(data):
    layers = found(data, (net(), None, recipe()), (net(hidden=(8, 8)), None, recipe()))[0]
    assert layers.startswith("network layers was [flatten, linear_relu_stack.0")
    rates = found(data, (net(dropout=0.5), None, recipe()), (net(dropout=0.25), None, recipe()))
    assert [line.rpartition(".rate ")[2] for line in rates[:1]] == ["was 0.5, is 0.25"]


def test_other_data_of_the_same_shape(data):
    model = net()

    def named(other, one=None):
        return first(data, (model, one, recipe()), (model, other, recipe()))

    train = dataclasses.replace(data.train, labels=np.roll(data.train.labels, 1))
    assert named(dataclasses.replace(data, train=train)) == "data train"
    pixels = data.test.images.copy()
    pixels[0, 0, 0, 0] ^= 1
    test = dataclasses.replace(data.test, images=pixels)
    assert named(dataclasses.replace(data, test=test)) == "data test"
    held = data.hold_out(0.5, 0), data.hold_out(0.5, 1)
    assert named(held[1], held[0]) == "data train"
    assert named(dataclasses.replace(data, classes=("2", "1", "0"))) == "data classes"


def test_another_recipe(data):
    def lines(one, other):
        return found(data, (net(), None, recipe(**one)), (net(), None, recipe(**other)))

    assert lines({"learning_rate": 0.1}, {"learning_rate": 0.2}) == ["learning_rate was 0.1, is 0.2"]
    assert lines({"epochs": 2}, {"epochs": 4}) == []
    assert lines({"augment": ()}, {"augment": ("flip",)}) == ["augment was [], is [flip]"]
    schedules = [{"learning_rate": optax.cosine_decay_schedule(0.1, steps)} for steps in (100, 200)]
    assert lines(*schedules) == ["learning_rate decay_steps was 100, is 200"]
    chains = [{"optimizer": optax.chain(optax.clip(1.0), optax.sgd(rate))} for rate in (0.1, 0.2)]
    assert lines(chains[0], chains[0]) == []
    assert len(lines(*chains)) >= 1


def test_a_layer_of_ones_own(data):
    class Scale(nnx.Module):
        def __init__(self, factor, power):
            self.factor, self.power = factor, power

        def __call__(self, x):
            return x * self.factor

    class Scaled(Scale):
        def __call__(self, x):
            return x * self.factor + 1

    def chain(layer):
        return Chain([*net().named_layers(), ("scale", layer)], input_shape=(4, 4, 1))

    one = (chain(Scale(2, 1)), None, recipe())
    assert found(data, one, (chain(Scale(2, 1)), None, recipe())) == []
    assert first(data, one, (chain(Scale(3, 1)), None, recipe())) == "network scale holds"
    assert first(data, one, (chain(Scaled(2, 1)), None, recipe())).startswith("network scale")


def test_objects_of_optax_are_equal_in_another_process(tmp_path, monkeypatch):
    """As they are made from files of other names, places and comments, by another hash seed."""
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "0" / "mine_a.py").write_text(OPTIMIZERS.format(scale=2))
    (tmp_path / "0" / "mine_c.py").write_text(OPTIMIZERS.format(scale=3))
    (tmp_path / "1" / "mine_b.py").write_text("# a comment\n\n" + OPTIMIZERS.format(scale=2))
    code = (
        "import json, mine_b; from flaxvision._describe import *;"
        "print(json.dumps({name: digest(describe(value)) for name, value in mine_b.ALL.items()}))"
    )
    root = str(Path(fv.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path / '1'}:{root}", "PYTHONHASHSEED": "5", "PATH": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.syspath_prepend(tmp_path / "0")
    import mine_a
    import mine_c

    here = {name: digest(describe(value)) for name, value in mine_a.ALL.items()}
    assert json.loads(done.stdout) == here
    assert len(set(here.values())) == len(here)
    changed = {name for name, value in mine_c.ALL.items() if digest(describe(value)) != here[name]}
    assert changed == {"lambda", "object"}  # what uses SCALE


def test_what_no_other_process_has(data, tmp_path):
    numbers = iter(range(10))
    with pytest.raises(UserError, match="learning_rate holds a range_iterator, which another process"):
        fv.fit(net(), data, recipe(learning_rate=lambda step: next(numbers)), checkpoint=tmp_path)
    with pytest.raises(Indescribable, match="Generator"):
        describe([np.random.default_rng(0)])
    loop: list = []
    loop.append(loop)
    assert describe(loop) == ["(itself, 1 above)"]


def test_a_folder_of_another_run(data, tmp_path):
    def fit(model, **changes):
        fv.fit(model, data, recipe(epochs=None, **changes), checkpoint=tmp_path / "run")

    fit(net(), steps=5)
    with pytest.raises(
        UserError, match=r"5 updates on \(2 epochs\) but the recipe ends after 4: give a longer duration"
    ):
        fit(net(), steps=4)
    with pytest.raises(UserError, match="ends after 5 updates, within epoch 2, and cannot be continued"):
        fit(net(), steps=9)
    with pytest.raises(UserError, match=r"another run: network linear_relu_stack.0 out_features was 8, is 16"):
        fit(net(hidden=(16,)), steps=5)
    with pytest.raises(UserError, match=r"updates .of which schedule 'cosine' depends. was not given, is 5"):
        fit(net(), steps=5, schedule="cosine")
    with jax.enable_x64(True), pytest.raises(UserError, match="another run: jax_enable_x64 was false, is true"):
        fit(net(), steps=5)


def test_draws_are_the_same_in_64_bits():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)

    def draw(images):
        keys = jax.vmap(jax.random.key)(jnp.arange(6, dtype=jnp.uint32))
        return augment_images(("crop", "flip"), images, keys), epoch_order(np.uint32(3), jnp.int32(1), 50)

    with same_draws():
        plain = jax.jit(draw)(images)
        with jax.enable_x64(True):
            wide = jax.jit(draw)(images)
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False), same_draws():
        other = jax.jit(draw)(images)
    for each in zip(plain, wide, other, strict=True):
        assert len({array.dtype for array in each}) == 1
        np.testing.assert_array_equal(each[0], each[1])
        np.testing.assert_array_equal(each[0], each[2])
