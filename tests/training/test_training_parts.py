"""Gradients that are summed over parts of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.layers import BatchNorm, Chain, Conv, ConvTranspose, Flatten, Linear
from flaxvision.layers.context import ContextLayer
from flaxvision.models import registry
from flaxvision.models.files import variables
from flaxvision.training import Recipe, engine, train_cohort
from flaxvision.training import plan as planning
from flaxvision.training.batches import Batch, split_batch
from flaxvision.training.engine import engine_for
from tests.conftest import slow

pytestmark = pytest.mark.quick


def small(build, outputs):
    build.conv("a", 4, 3)
    build.activation("b", "tanh")
    build.dropout("c", 0.3)
    build.max_pool("d", 2)
    build.linear("out", outputs)


@pytest.fixture
def train(monkeypatch, make_dataset):
    """Histories and weights of two runs of batches of 32, and of 22 at an epoch's end, in parts of so many examples."""
    seen: list[tuple[int, int]] = []  # batches whose steps were traced, and their loops over parts
    data = make_dataset((12, 12, 1), 4, train=150, test=70)
    monkeypatch.setattr(registry, "_imported", lambda name: small)

    make_step = engine.make_step

    def counting(*arguments):
        step = make_step(*arguments)

        def counted(state, batch):
            text = str(jax.make_jaxpr(step)(state, batch))
            seen.append((len(batch.labels), text.count("scan[")))
            return step(state, batch)

        return counted

    monkeypatch.setattr(engine, "make_step", counting)

    def run(part, members=2, **settings):
        seen.clear()
        monkeypatch.setattr(planning, "examples_in_cache", lambda model: part)
        engine_for.cache_clear()
        recipe = {"learning_rate": 0.1, "batch_size": 32, "epochs": 2, "precision": "float64", **settings}
        models = [
            fv.models.create("small", input_shape=(12, 12, 1), num_classes=4, seed=seed) for seed in range(members)
        ]
        results = train_cohort(models, data, [Recipe(seed=seed, **recipe) for seed in range(members)])
        return results, dict(seen)

    yield run
    engine_for.cache_clear()


MIXED = {"mixup": 0.5, "cutmix": 1.0, "cutout": 0.3, "translation": 0.2, "class_weights": "balanced", "ema": 0.9}


@pytest.mark.parametrize(
    ("part", "settings"),
    [slow(8, {"augment": ("crop", "flip"), "record_gradients": True}), slow(5, {**MIXED, "members": 1}), (31, {})],
)
def test_parts_give_the_step_of_the_whole_batch(train, part, settings):
    with jax.enable_x64(True):
        in_parts, loops = train(part, **settings)
        at_once, none = train(None, **settings)
        assert {size: loops[size] - none[size] for size in none} == {32: 1, 22: part < 22}
        for ours, whole in zip(in_parts, at_once, strict=True):
            for name in whole.history:
                np.testing.assert_allclose(ours.history[name], whole.history[name], rtol=1e-9, err_msg=name)
            for name, value in variables(whole.model).items():
                np.testing.assert_allclose(variables(ours.model)[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("most", "parts", "size"), [(4, 3, 4), (5, 2, 5), (9, 2, 5), (10, 1, 10), (3, 4, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_in_parts(most, parts, size, masked):
    mask = jnp.arange(10) != 3 if masked else None
    batch = Batch(jnp.arange(20.0).reshape(10, 2), jnp.arange(10), jnp.arange(10) + 7, mask)
    split = split_batch(batch, most)
    assert split.images.shape == (parts, size, 2)
    real = np.ones(parts * size, bool) if split.mask is None else np.asarray(split.mask).ravel()
    wanted = [label for label in range(10) if not (masked and label == 3)]
    assert np.asarray(split.labels).ravel()[real].tolist() == wanted
    assert np.asarray(split.indices).ravel()[real].tolist() == [7 + label for label in wanted]
    assert np.asarray(split.images[..., 1]).ravel()[real].tolist() == [2 * label + 1 for label in wanted]
    assert (split.mask is None) == (not masked and parts * size == 10)


@pytest.mark.parametrize(
    ("network", "bytes_of_an_example", "part"),
    [
        ("emnist_cnn", 26 * 26 * 9 * 4, 32),  # the first convolution: places, taps, four bytes
        ("tiny_cnn", 11 * 11 * 9 * 8 * 4, 32),  # the second, of eight channels
        ("mlp", None, None),
        ("wide_cnn", None, None),  # its channels are many
    ],
)
def test_patches_stay_in_the_cache(network, bytes_of_an_example, part):
    assert planning.examples_in_cache(fv.models.create(network)) == part
    if part is not None:
        assert part * bytes_of_an_example <= planning.IN_CACHE < 2 * part * bytes_of_an_example


@pytest.mark.parametrize(
    ("network", "settings", "part"),
    [
        ("emnist_cnn", {"batch_size": 33}, 32),
        ("emnist_cnn", {"batch_size": 32}, None),
        ("emnist_cnn", {"batch_size": 64, "conv": "native"}, None),
        ("mnist_net", {"batch_size": 64}, None),  # batch statistics are those of the whole batch
    ],
)
def test_which_batches_are_taken_in_parts(network, settings, part):
    assert planning.microbatch_of(fv.models.create(network), Recipe(**settings), "cpu") == part
    assert planning.microbatch_of(fv.models.create(network), Recipe(**settings), "gpu") is None


def test_a_chain_of_one_wide_convolution_is_not_taken_in_parts():
    chain = Chain([("a", Conv(1, 32, (3, 3), rngs=nnx.Rngs(0)))], input_shape=(28, 28, 1))
    assert planning.microbatch_of(chain, Recipe(batch_size=64), "cpu") is None


class Normalized(ContextLayer):
    def __init__(self):
        self.inner = BatchNorm(4)

    def __call__(self, x, context):
        return self.inner(x, context)


def _layers(*more):
    rngs = nnx.Rngs(0)
    return [Conv(1, 4, (3, 3), padding="VALID", rngs=rngs), *(make(rngs) for make in more)]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ([], 32),
        ([lambda rngs: Normalized()], None),  # statistics of the whole batch, however deep
        ([lambda rngs: nnx.BatchNorm(4, rngs=rngs)], None),
        ([lambda rngs: ConvTranspose(4, 1, (4, 4), strides=2, rngs=rngs)], None),  # XLA's own, slow in a loop
        ([lambda rngs: Chain([("a", Conv(4, 4, (3, 3), rngs=rngs))], input_shape=(26, 26, 4))], None),
        ([lambda rngs: Flatten(), lambda rngs: Linear(26 * 26 * 4, 256, rngs=rngs)], None),  # gradients of 2.8 MB
    ],
)
def test_what_else_a_network_may_hold(more, part):
    layers = [(f"l{i}", layer) for i, layer in enumerate(_layers(*more))]
    chain = Chain(layers, input_shape=(28, 28, 1))
    assert planning.microbatch_of(chain, Recipe(batch_size=64), "cpu") == part
