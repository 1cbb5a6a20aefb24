"""Dropout and BatchNorm against PyTorch and their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Context, Dropout

pytestmark = pytest.mark.quick


def _train(layer, x):
    """Output, pull-back and the layer with its new statistics of one training pass."""
    graphdef, state = nnx.split(layer)

    def run(x):
        copy = nnx.merge(graphdef, state, copy=True)
        y = copy(x, Context(train=True))
        return y, nnx.state(copy)

    y, pull, state = jax.vjp(run, x, has_aux=True)
    return y, pull, nnx.merge(graphdef, state)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (8, 3)])
def test_batch_norm_equals_torch_over_training_and_evaluation(torch, shape):
    random = np.random.default_rng(0)
    ours = BatchNorm(3)
    theirs = torch.nn.BatchNorm2d(3) if len(shape) == 4 else torch.nn.BatchNorm1d(3)
    for step in range(3):
        x = random.normal(2.0, 3.0, shape).astype(np.float32)
        xt = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
        yt = theirs(xt)
        g = random.normal(size=shape).astype(np.float32)
        yt.backward(torch.tensor(np.moveaxis(g, -1, 1)))
        y, pull, ours = _train(ours, jnp.asarray(x))
        np.testing.assert_allclose(y, np.moveaxis(yt.detach().numpy(), 1, -1), atol=1e-5, err_msg=f"step {step}")
        np.testing.assert_allclose(pull(g)[0], np.moveaxis(xt.grad.numpy(), 1, -1), atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.running_var.numpy(), rtol=1e-5)
    theirs.eval()
    np.testing.assert_allclose(
        ours(jnp.asarray(x)),
        np.moveaxis(theirs(torch.tensor(np.moveaxis(x, -1, 1))).detach().numpy(), 1, -1),
        atol=1e-5,
    )


def test_padding_does_not_count_in_batch_norm():
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, 3))
    padded = jnp.concatenate([x, jnp.full((3, 4, 4, 3), 1e3)])
    whole, masked = BatchNorm(3), BatchNorm(3)
    expected = whole(x, Context(train=True))
    actual = masked(padded, Context(train=True, mask=jnp.arange(8) < 5))[:5]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(masked.mean[...], whole.mean[...], atol=1e-7)
    np.testing.assert_allclose(masked.var[...], whole.var[...], rtol=1e-6)


def test_dropout_keeps_the_mean_and_the_stated_share():
    x = jnp.ones((64, 1000))
    y = np.asarray(Dropout(0.25)(x, Context(train=True, key=jax.random.key(0))))
    assert set(np.unique(y)) == {0.0, np.float32(1 / np.float32(0.75))}
    assert abs((y == 0).mean() - 0.25) < 0.005  # 64,000 draws: standard error 0.0017


def test_dropout_belongs_to_the_place_in_the_batch():
    x, key = jnp.ones((8, 50)), jax.random.key(3)
    whole = Dropout(0.5)(x, Context(train=True, key=key))
    second_half = Dropout(0.5)(x[4:], Context(train=True, key=key, indices=jnp.arange(4, 8)))
    np.testing.assert_array_equal(whole[4:], second_half)
    assert not np.array_equal(whole[0], whole[1])


def test_dropout_is_the_identity_in_evaluation_and_at_rate_zero():
    x = jax.random.normal(jax.random.key(0), (4, 6))
    np.testing.assert_array_equal(Dropout(0.9)(x), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, Context(train=True, key=jax.random.key(0))), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UserError, match="give a probability from 0 up to but without 1"):
        Dropout(rate)


def test_training_without_a_key_says_what_to_pass():
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        Dropout(0.5)(jnp.ones((2, 2)), Context(train=True))
