"""Pools against PyTorch and XLA's own window reductions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from flaxvision.layers import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool, max_pool
from flaxvision.ops.windows import overlap_add
from tests.conftest import slow

cases = st.tuples(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)
).filter(lambda c: c[2] <= c[0] and c[3] <= c[1])


@settings(max_examples=40, deadline=None)
@given(cases, st.integers(0, 2**31))
def test_max_pool_and_its_gradient_equal_torch_with_ties(torch, case, seed):
    height, width, *rest = case
    window, strides = tuple(rest[:2]), tuple(rest[2:])
    random = np.random.default_rng(seed)
    # Few distinct values, so that most windows hold ties.
    x = random.integers(0, 3, (2, height, width, 3)).astype(np.float32)
    xt = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    yt = torch.nn.functional.max_pool2d(xt, window, strides)
    g = random.normal(size=yt.shape).astype(np.float32)
    yt.backward(torch.tensor(g))

    @jax.jit
    def value_and_gradient(x, g):
        y, pull = jax.vjp(lambda x: max_pool(x, window, strides), x)
        return y, *pull(g)

    y, dx = value_and_gradient(x, g.transpose(0, 2, 3, 1))

    np.testing.assert_array_equal(y, yt.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(dx, xt.grad.numpy().transpose(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize(("window", "strides"), [((2, 2), (2, 2)), slow((3, 3), (1, 1)), slow((3, 2), (2, 3))])
def test_max_pool_under_vmap_and_second_derivatives(window, strides):
    x = jax.random.normal(jax.random.key(0), (2, 2, 7, 8, 3))
    pooled = jax.vmap(lambda x: max_pool(x, window, strides))(x)
    np.testing.assert_array_equal(pooled[1], max_pool(x[1], window, strides))
    check_grads(lambda x: (max_pool(x, window, strides) ** 3).sum(), (x[0],), order=2, modes=["rev"], eps=1e-3)


def test_max_pool_same_padding_equals_xla():
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    expected = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    np.testing.assert_array_equal(MaxPool(3, 2, "SAME")(x), expected)


def test_average_pool_does_not_count_padding():
    x = jnp.ones((1, 5, 5, 1))
    np.testing.assert_allclose(AvgPool(3, 2, "SAME")(x), np.ones((1, 3, 3, 1)))
    np.testing.assert_allclose(AvgPool(2)(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_global_pools():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    np.testing.assert_array_equal(GlobalMaxPool()(x), np.asarray(x).max(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(GlobalAvgPool()(x), np.asarray(x).mean(axis=(1, 2), keepdims=True), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 3))
def test_overlap_add_places_each_tap(taps, stride, length, spare):
    parts = [np.arange(length, dtype=np.float32) + 10 * j for j in range(taps)]
    total = (length - 1) * stride + taps + spare
    expected = np.zeros(total, np.float32)
    for j, part in enumerate(parts):
        for t, value in enumerate(part):
            expected[j + stride * t] += value
    np.testing.assert_array_equal(overlap_add([jnp.asarray(p) for p in parts], 0, stride, total), expected)


@pytest.mark.parametrize("emitters", [True, False])
@pytest.mark.parametrize("window", [(2, 2), (4, 4), (24, 1), (24, 24)])
def test_the_gradient_of_maxima_is_the_same_however_xla_compiles(window, emitters):
    """Unoptimized, XLA rounds what BatchNorm and ReLU give otherwise where it computes them anew."""

    def total(x, scale, shift):
        y = x - x.mean((0, 1, 2), keepdims=True)
        y = jax.nn.relu(y * lax.rsqrt((y**2).mean((0, 1, 2), keepdims=True) + 1e-5) * scale + shift)
        return (max_pool(y, window, window) ** 2).sum()

    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        drawn = random.normal(size=(4, 24, 24, 8)), *random.normal(size=(2, 1, 1, 1, 8))
        program = jax.jit(jax.grad(total, (0, 1, 2))).lower(*drawn)
        unoptimized = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": emitters}
        for ours, expected in zip(program.compile(unoptimized)(*drawn), program.compile()(*drawn), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)
