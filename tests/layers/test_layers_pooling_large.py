"""Pools with windows of any size: PyTorch's values and gradients, in programs that stay small."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import flaxvision as fv
from flaxvision.layers import AvgPool, Chain, Context, Flatten, GlobalMaxPool, MaxPool, max_pool
from flaxvision.layers.kinds import kind_of
from flaxvision.layers.pooling import mean_pool
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import CPU_TRAINING

CASES = {  # (H, W), window, strides
    "whole map": ((16, 16), (16, 16), (1, 1)),
    "one row": ((9, 12), (1, 12), (1, 1)),
    "slides": ((20, 17), (7, 5), (1, 1)),
    "blocks in a window": ((28, 28), (12, 8), (4, 4)),
    "halves": ((24, 24), (12, 12), (6, 6)),
    "apart": ((23, 19), (7, 6), (7, 6)),
    "gaps": ((25, 30), (4, 5), (9, 11)),
    "all but one": ((15, 14), (14, 13), (1, 1)),
    "resnet's": ((14, 14), (3, 3), (2, 2)),
    "in nine windows": ((9, 8), (3, 3), (1, 1)),
    "by axis": ((14, 11), (5, 5), (3, 2)),
    "few, far apart": ((40, 17), (2, 2), (20, 3)),
    "blocks with gaps": ((31, 29), (5, 6), (6, 9)),
    "one, of any stride": ((15, 8), (14, 7), (300, 2)),
}


def with_gradient(pool, x, g):
    """What a pool gives for `x`, and the gradient for the cotangent `g`."""
    y, pull = jax.jit(lambda x, g: (lambda y, pull: (y, *pull(g)))(*jax.vjp(pool, x)))(x, g)
    return np.asarray(y), np.asarray(pull)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    """Maps full of ties, a cotangent, window and strides."""
    size, window, strides = request.param
    random = np.random.default_rng(size[0])
    x = random.integers(0, 4, (2, *size, 3)).astype(np.float32)
    count = [(side - k) // s + 1 for side, k, s in zip(size, window, strides, strict=True)]
    return x, random.normal(size=(2, *count, 3)).astype(np.float32), window, strides


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_values_and_gradients_equal_torch_with_ties(torch, case, kind):
    x, g, window, strides = case
    xt = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    yt = getattr(torch.nn.functional, f"{kind}_pool2d")(xt, window, strides)
    yt.backward(torch.tensor(g.transpose(0, 3, 1, 2)))
    pool = {"max": max_pool, "avg": mean_pool}[kind]
    y, dx = with_gradient(lambda x: pool(x, window, strides), x, g)
    np.testing.assert_allclose(y, yt.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-6)
    np.testing.assert_allclose(dx, xt.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("layer", [MaxPool, AvgPool])
@pytest.mark.parametrize(("window", "strides"), [(9, 2), ((5, 30), (1, 7)), (40, 3)])
def test_padding_equals_xla(layer, window, strides):
    """Windows that are larger than the map too."""
    x = jax.random.normal(jax.random.key(0), (2, 13, 20, 3))
    pool = layer(window, strides, "SAME")
    shape = (1, *pool.window, 1), (1, *pool.strides, 1), "SAME"
    if layer is MaxPool:
        expected = lax.reduce_window(x, -jnp.inf, lax.max, *shape)
    else:
        sums, counts = (lax.reduce_window(v, 0.0, lax.add, *shape) for v in (x, jnp.ones_like(x)))
        expected = sums / counts
    np.testing.assert_allclose(jax.jit(pool)(x), expected, atol=1e-6)


@pytest.mark.parametrize("pool", [MaxPool(7, 3, "SAME"), GlobalMaxPool()])
def test_the_batch_may_come_last(pool):
    x = np.random.default_rng(0).integers(0, 4, (5, 13, 16, 3)).astype(np.float32)
    g = np.random.default_rng(1).normal(size=pool(x).shape).astype(np.float32)

    def last(x):
        return kind_of(pool).apply(pool, [Maps(x.transpose(3, 1, 2, 0), True)], Context(policy=CPU_TRAINING)).first()

    for ours, expected in zip(with_gradient(last, x, g), with_gradient(pool, x, g), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def equations(jaxpr):
    """How many operations a program has, those within others too."""
    inner = [v for e in jaxpr.eqns for v in jax.tree.leaves(e.params, is_leaf=lambda v: hasattr(v, "jaxpr"))]
    return len(jaxpr.eqns) + sum(equations(v.jaxpr) for v in inner if hasattr(v, "jaxpr"))


@pytest.mark.parametrize("pool", [GlobalMaxPool(), MaxPool(112, 1), MaxPool(111, 8), AvgPool(111, 1), MaxPool(9, 1)])
def test_the_program_does_not_grow_with_the_window(pool):
    """One operation a value of the window (12,544 of them) did not compile in any time."""
    gradient = jax.grad(lambda x: pool(x).sum())
    program = jax.make_jaxpr(gradient)(jax.ShapeDtypeStruct((2, 224, 224, 4), jnp.float32))
    assert equations(program.jaxpr) < 250


def test_maxima_of_what_is_no_number_are_none_and_infinities_are_values():
    x = np.random.default_rng(0).normal(size=(1, 12, 12, 1)).astype(np.float32)
    x[0, 4, 5], x[0, 0, 0], x[0, 8:, 8:] = np.nan, np.inf, -np.inf
    windows = [((2, 2), (2, 2)), ((3, 3), (1, 1)), ((5, 5), (7, 7)), ((9, 1), (2, 1)), ((4, 4), (8, 8))]

    @jax.jit
    def pooled(x):
        return [max_pool(x, *window) for window in windows]

    for (window, strides), y in zip(windows, pooled(x), strict=True):
        views = np.lib.stride_tricks.sliding_window_view(x, window, (1, 2))[:, :: strides[0], :: strides[1]]
        np.testing.assert_array_equal(y, views.max((-2, -1)))


def test_of_a_constant_map_the_first_value_takes_the_whole_gradient():
    x = jnp.zeros((1, 9, 9, 1))
    for pool in (GlobalMaxPool(), MaxPool(9), MaxPool((9, 5), (1, 9))):
        expected = np.zeros((1, 9, 9, 1))
        expected[0, 0, 0, 0] = 1
        np.testing.assert_array_equal(with_gradient(pool, x, jnp.ones((1, 1, 1, 1)))[1], expected)


@pytest.mark.parametrize("pool", [MaxPool(5, 2), AvgPool(5, 2, "SAME"), MaxPool(6, 3, "SAME"), GlobalMaxPool()])
def test_half_precision_keeps_its_type(pool):
    x = jax.ShapeDtypeStruct((2, 12, 12, 3), jnp.bfloat16)
    assert jax.eval_shape(pool, x).dtype == jnp.bfloat16
    assert jax.eval_shape(jax.grad(lambda x: pool(x).sum()), x).dtype == jnp.bfloat16


def test_second_derivatives_and_members():
    x = jax.random.normal(jax.random.key(0), (2, 1, 10, 9, 2))
    step = 1e-2 * jax.random.normal(jax.random.key(1), x[0].shape)

    @jax.jit
    def gradient(x):
        return jax.grad(lambda x: (max_pool(x, (5, 4), (2, 2)) ** 3).sum())(x)

    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(x)[1], gradient(x[1]), rtol=1e-5, atol=1e-6)
    product = jax.jit(lambda x, v: jax.vjp(gradient, x)[1](v)[0])(x[0], step)
    np.testing.assert_allclose(product, (gradient(x[0] + step) - gradient(x[0] - step)) / 2, atol=2e-3)


def test_a_network_with_a_global_max_pool_trains():
    chain = Chain(
        [
            ("conv", nnx.Conv(1, 4, (3, 3), rngs=nnx.Rngs(0))),
            ("pool", GlobalMaxPool()),
            ("flatten", Flatten()),
            ("out", nnx.Linear(4, 2, rngs=nnx.Rngs(1))),
        ],
        input_shape=(16, 16, 1),
    )
    images = np.zeros((32, 16, 16, 1), np.uint8)
    images[::2, 3:6, 3:6] = 255
    data = fv.data.from_arrays(images, np.arange(32) % 2, images, np.arange(32) % 2, classes=["empty", "square"])
    recipe = fv.Recipe(learning_rate=0.05, optimizer="adam", batch_size=32, epochs=30)
    assert fv.fit(chain, data, recipe).history["test_top1"][-1] == 1
