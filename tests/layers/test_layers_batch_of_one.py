"""BatchNorm where a batch holds one value a channel: it has no variance, and spoils none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Context
from flaxvision.models.files import variables
from flaxvision.ops.maps import Maps
from flaxvision.training.checks import check_fit

pytestmark = pytest.mark.quick

MEAN, VAR = [1.0, -2.0], [4.0, 0.5]


def layer():
    made = BatchNorm(2)
    made.mean[...], made.var[...] = jnp.array(MEAN), jnp.array(VAR)
    made.scale[...], made.bias[...] = jnp.array([3.0, 2.0]), jnp.array([0.25, -7.0])
    return made


def statistics(norm):
    return np.asarray([norm.mean[...], norm.var[...]])


@pytest.mark.parametrize(
    ("shape", "features", "mask"),
    [
        ((1, 2), -1, None),
        ((1, 1, 1, 2), -1, None),
        ((2, 1, 1, 1), 0, None),  # the batch last, as a chain computes few channels
        ((4, 2), -1, [False, False, True, False]),  # padding does not count
        ((3, 1, 1, 2), -1, [True, False, False]),
        ((2, 1, 1, 8), 0, [False] * 7 + [True]),
    ],
)
def test_one_value_a_channel_gives_the_shift_and_moves_nothing(shape, features, mask):
    norm = layer()
    x = jax.random.normal(jax.random.key(0), shape) + 50
    context = Context(train=True, mask=None if mask is None else jnp.array(mask))
    y = norm.normalize(Maps(x, features == 0), context).array
    np.testing.assert_array_equal(statistics(norm), [MEAN, VAR])
    counted = np.moveaxis(np.asarray(y), features, -1).reshape(-1, 2)
    counted = counted if mask is None else counted[np.array(mask)]
    np.testing.assert_allclose(counted, [[0.25, -7.0]], atol=2e-4)


@pytest.mark.parametrize("shape", [(1, 2, 1, 2), (2, 1, 1, 2), (1, 3, 3, 2)])
def test_more_than_one_value_a_channel_moves_them_as_torch(torch, shape):
    norm, theirs = layer(), torch.nn.BatchNorm2d(2)
    theirs.running_mean, theirs.running_var = torch.tensor(MEAN), torch.tensor(VAR)
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    theirs(torch.tensor(np.moveaxis(x, -1, 1)))
    norm(jnp.asarray(x), Context(train=True))
    expected = [theirs.running_mean.numpy(), theirs.running_var.numpy()]
    np.testing.assert_allclose(statistics(norm), expected, rtol=1e-5)


def test_one_example_on_each_of_two_devices_is_a_batch_of_two():
    x = jnp.array([[[1.0, 5.0]], [[3.0, -5.0]]])

    def on_device(x):
        norm = layer()
        norm(x, Context(train=True, axis_name="batch"))
        return norm.mean[...], norm.var[...]

    means, variances = jax.vmap(on_device, axis_name="batch")(x)
    np.testing.assert_allclose(means[0], [0.9 * 1 + 0.1 * 2, 0.9 * -2], rtol=1e-6)
    np.testing.assert_allclose(variances[1], [0.9 * 4 + 0.1 * 2, 0.9 * 0.5 + 0.1 * 50], rtol=1e-6)


def test_gradients_of_one_value_are_finite_and_zero_below():
    gradient = jax.grad(lambda x: layer()(x, Context(train=True)).sum())(jnp.array([[7.0, 8.0]]))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2)))


def split(examples):
    random = np.random.default_rng(examples)
    return random.integers(0, 256, (examples, 3, 3, 1)).astype(np.uint8), np.arange(examples) % 2


def running_variance(examples, mode):
    data = fv.data.from_arrays(*split(129)[:2], *split(4))
    data = fv.data.Dataset(data.name, data.train[:examples], data.test, data.classes, data.source)
    model = fv.models.create("mlp", hidden=(4,), batch_norm=True, input_shape=(3, 3, 1), num_classes=2)
    recipe = fv.Recipe(learning_rate=1e-6, batch_size=32, epochs=1, shuffle=False)
    result = fv.training.train_cohort([model], data, [recipe], mode=mode)[0]
    return next(value for name, value in variables(result.model).items() if name.endswith(".var"))


def test_a_last_batch_of_one_leaves_the_running_variance():
    expected = running_variance(128, "loop")
    for mode in ("loop", "vmap"):
        np.testing.assert_allclose(running_variance(129, mode), expected, rtol=1e-4)


@pytest.mark.parametrize(("batch_size", "examples"), [(1, 8), (32, 1)])
def test_only_batches_of_one_are_refused_as_torch_does(batch_size, examples):
    data = fv.data.from_arrays(*split(examples), *split(4), classes=["a", "b"])
    sizes = {"input_shape": (3, 3, 1), "num_classes": 2}
    recipe = fv.Recipe(batch_size=batch_size)
    model = fv.models.create("mlp", hidden=(4,), batch_norm=True, **sizes)
    with pytest.raises(UserError, match="batches hold one example: give batch_size=2 or more"):
        check_fit(model, data, recipe)
    check_fit(fv.models.create("mlp", hidden=(4,), **sizes), data, recipe)


def test_batches_of_one_map_are_taken():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 28, 28, 1)).astype(np.uint8)
    data = fv.data.from_arrays(images, np.arange(6) % 2, images, np.arange(6) % 2, classes=["a", "b"])
    check_fit(fv.models.create("mnist_net", num_classes=2), data, fv.Recipe(batch_size=1))
