"""The convolutions made for CPUs: values and derivatives of every form in float64, against NumPy's and XLA's."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from flaxvision.ops.convolution import convolve, convolve_transpose, form_of, narrow_product
from flaxvision.ops.maps import Maps, swap_ends
from flaxvision.ops.policy import CPU_EVALUATION, CPU_TRAINING, GPU, GPU_STACKED, Form
from flaxvision.ops.windows import Window, from_patches, patches
from flaxvision.ops.winograd import TILE, matrices, winograd
from tests.conftest import slow
from tests.ops.by_numpy import convolution

pytestmark = pytest.mark.quick
FORMS = (Form.PATCHES, Form.BATCH_LAST, Form.WINOGRAD)
TOLERANCE = {Form.PATCHES: 2e-6, Form.BATCH_LAST: 2e-6, Form.WINOGRAD: 5e-5}  # of max(1, largest value), in float32


def native(x, w, strides=(1, 1), pads=((0, 0), (0, 0))):
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def in_form(x, w, strides, pads, form):
    window = Window(x.shape[1:3], w.shape[:2], strides, pads)
    return convolve(Maps(x), w, window, form).first()


def draw(seed, *shapes):
    random = np.random.default_rng(seed)
    return [
        random.standard_normal(shape) / math.sqrt(math.prod(shape[:-1]) if i else 1) for i, shape in enumerate(shapes)
    ]


def value_and_pullback(function, x, w, seed=1):
    @jax.jit
    def both(x, w):
        y, pull = jax.vjp(function, x, w)
        return y, *pull(jnp.asarray(np.random.default_rng(seed).standard_normal(y.shape), y.dtype))

    return both(x, w)


@pytest.mark.parametrize("examples", [8, slow(25)])
def test_every_form_is_the_convolution(assert_near, examples):
    @settings(max_examples=examples, deadline=None)
    @given(
        form=st.sampled_from(FORMS),
        sides=st.tuples(st.integers(1, 13), st.integers(1, 13)),
        kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
        strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        pads=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
        channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        seed=st.integers(0, 99),
    )
    def agree(form, sides, kernel, strides, pads, channels, seed):
        if form == Form.WINOGRAD:
            kernel, strides = ((3, 3), (5, 5))[kernel[0] % 2], (1, 1)
        padded = [side + sum(pad) for side, pad in zip(sides, pads, strict=True)]
        kernel = kernel if form == Form.WINOGRAD else tuple(map(min, kernel, padded))
        if min(side - k for side, k in zip(padded, kernel, strict=True)) < 0:
            return
        x, w = draw(seed, (3, *sides, channels[0]), (*kernel, *channels))
        window = Window(sides, kernel, strides, pads)
        g = np.random.default_rng(1).standard_normal((3, *window.count, channels[1]))
        exact = convolution(x, w, g, window)
        with jax.enable_x64(True):
            ours = value_and_pullback(lambda x, w: in_form(x, w, strides, pads, form), jnp.asarray(x), jnp.asarray(w))
            assert_near(ours, exact, 1e-12)
        x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
        ours = value_and_pullback(lambda x, w: in_form(x, w, strides, pads, form), x, w)
        assert all(value.dtype == jnp.float32 for value in ours)
        assert_near(ours, exact, TOLERANCE[form])

    agree()


@pytest.mark.parametrize("form", [Form.PATCHES, Form.BATCH_LAST, slow(Form.WINOGRAD)])
def test_gradients_of_gradients_scan_vmap_and_jit(assert_near, form):
    x, w = draw(0, (4, 9, 8, 3), (3, 3, 3, 5))
    with jax.enable_x64(True):
        x, w = jnp.asarray(x), jnp.asarray(w)

        def energy(conv):
            def gradient_size(x, w):
                grads = jax.grad(lambda x, w: jnp.sin(conv(x, w)).sum(), (0, 1))(x, w)
                return sum((g**2).sum() for g in grads)

            return gradient_size

        def ours(x, w):
            return in_form(x, w, (1, 1), ((1, 1), (1, 1)), form)

        def theirs(x, w):
            return native(x, w, (1, 1), ((1, 1), (1, 1)))

        assert_near(jax.grad(energy(ours), (0, 1))(x, w), jax.grad(energy(theirs), (0, 1))(x, w), 1e-10)
        members = jnp.stack([w, 2 * w])
        both = jax.vmap(lambda w: value_and_pullback(ours, x, w))(members)
        for k in range(2):
            assert_near([value[k] for value in both], value_and_pullback(theirs, x, members[k]), 1e-12)

        def step(w, _):
            return w - 0.1 * jax.grad(lambda w: (ours(x, w) ** 2).mean())(w), None

        scanned = jax.jit(lambda w: lax.scan(step, w, None, length=3)[0])(w)
        expected = w
        for _ in range(3):
            expected = expected - 0.1 * jax.grad(lambda w: (theirs(x, w) ** 2).mean())(expected)
        assert_near([scanned], [expected], 1e-12)


@pytest.mark.parametrize("side", [3, 5])
def test_winograd_matrices_filter_exactly(side):
    into, kernel, out = matrices(side)
    random = np.random.default_rng(side)
    x, w = random.standard_normal(TILE + side - 1), random.standard_normal(side)
    np.testing.assert_allclose(out.T @ ((kernel @ w) * (into @ x)), np.correlate(x, w, "valid"), atol=1e-12)
    assert np.count_nonzero(into) < into.size  # as sums of few terms


def test_winograd_needs_no_whole_tiles(assert_near):
    x, w = draw(3, (2, 11, 6, 4), (5, 5, 4, 3))
    with jax.enable_x64(True):
        pads = ((2, 1), (0, 3))
        window = Window((11, 6), (5, 5), pads=pads)
        assert_near([winograd(jnp.asarray(x), jnp.asarray(w), window)], [native(x, jnp.asarray(w), pads=pads)], 1e-12)


@pytest.mark.parametrize("axis", [0, 3])
def test_patches_and_their_adjoint(axis):
    random = np.random.default_rng(0)
    window = Window((7, 9), (3, 2), (2, 3), ((1, 0), (2, 1)))
    with jax.enable_x64(True):
        x = random.standard_normal((2, 7, 9, 4))
        taken = patches(x, (window, axis))
        places = [2, 2, 2, 4]  # examples, rows, columns, channels
        assert window.count == (3, 4)
        expected = np.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))[:, 2:5, 3:5].transpose(1, 2, 0, 3).reshape(6, 2, 4)
        assert taken.shape == tuple(np.insert(places, axis, 6)) or taken.shape[axis] == 6
        np.testing.assert_array_equal(np.moveaxis(np.asarray(taken), axis, 0)[:, :, 1, 1], expected)
        p = random.standard_normal(taken.shape)
        np.testing.assert_allclose((taken * p).sum(), (x * from_patches(p, (window, axis))).sum(), rtol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 2), (2, 2), (5, 3)])
def test_the_transposed_convolution_is_torchs(assert_near, kernel, stride, torch):
    x, w = draw(kernel, (3, 5, 4, 6), (kernel, kernel, 2, 6))
    x, w = x.astype(np.float32), w.astype(np.float32)

    def in_strides(x, w):
        return swap_ends(convolve_transpose(swap_ends(x), w, (stride, stride)))

    ours = value_and_pullback(in_strides, jnp.asarray(x), jnp.asarray(w))
    xt, wt = torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(w.transpose(3, 2, 0, 1))
    xt.requires_grad = wt.requires_grad = True
    y = torch.nn.functional.conv_transpose2d(xt, wt, stride=stride)
    g = np.random.default_rng(1).standard_normal(ours[0].shape).astype(np.float32)
    y.backward(torch.tensor(g.transpose(0, 3, 1, 2)))
    theirs = (y.detach().permute(0, 2, 3, 1), xt.grad.permute(0, 2, 3, 1), wt.grad.permute(2, 3, 1, 0))
    assert_near(ours, [value.numpy() for value in theirs], 2e-6)


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "pad", "form"),
    [
        ((64, 32, 32, 3), (3, 3, 3, 64), 1, 1, Form.PATCHES),  # vgg19's first layer
        ((64, 16, 16, 128), (3, 3, 128, 128), 1, 1, Form.WINOGRAD),
        ((64, 2, 2, 512), (3, 3, 512, 512), 1, 1, Form.PATCHES),  # and its last
        ((128, 14, 14, 32), (5, 5, 32, 64), 1, 2, Form.WINOGRAD),  # wide_cnn's second
        ((32, 28, 28, 1), (3, 3, 1, 4), 1, 0, Form.BATCH_LAST),  # emnist_cnn
        ((32, 12, 12, 8), (3, 3, 8, 16), 2, 0, Form.BATCH_LAST),
        ((64, 16, 16, 128), (7, 7, 128, 128), 1, 1, Form.PATCHES),
        ((4096, 64, 64, 64), (7, 7, 64, 64), 1, 1, Form.NATIVE),  # whose patches would take 200 GB
    ],
)
def test_the_rule(shape, kernel, strides, pad, form):
    window = Window(shape[1:3], kernel[:2], (strides, strides), ((pad, pad), (pad, pad)))
    assert form_of(shape, kernel, window, jnp.float32, CPU_TRAINING) == form
    assert form_of(shape, kernel, window, jnp.bfloat16, CPU_TRAINING) == Form.NATIVE
    exact = form if form == Form.BATCH_LAST or shape[1] == 2 else Form.NATIVE
    assert form_of(shape, kernel, window, jnp.float32, CPU_EVALUATION) == exact
    assert form_of((500, *shape[1:]), kernel, window, jnp.float32, CPU_EVALUATION) == exact
    assert form_of((10**6, *shape[1:]), kernel, window, jnp.float32, CPU_EVALUATION) == Form.NATIVE


@pytest.mark.parametrize(
    ("shape", "kernel", "form"),
    [
        ((64, 31, 31, 24), (3, 3, 24, 64), Form.WINOGRAD),  # few channels, but large patches
        ((64, 16, 16, 128), (3, 3, 128, 16), Form.WINOGRAD),
        ((32, 14, 14, 16), (5, 5, 16, 64), Form.WINOGRAD),
        ((64, 14, 14, 16), (3, 3, 16, 8), Form.BATCH_LAST),
        ((64, 31, 31, 12), (3, 3, 12, 64), Form.BATCH_LAST),
        ((64, 3, 3, 64), (3, 3, 64, 64), Form.WINOGRAD),  # less than a tile, but nearly one
    ],
)
def test_where_winograd_pays_without_kernels(shape, kernel, form):
    pad = kernel[0] // 2
    window = Window(shape[1:3], kernel[:2], pads=((pad, pad), (pad, pad)))
    assert form_of(shape, kernel, window, jnp.float32, CPU_TRAINING) == form
    assert form_of(shape, kernel, window, jnp.float32, CPU_EVALUATION) != Form.WINOGRAD
    assert form_of(shape, kernel, window, jnp.float32, GPU) != Form.WINOGRAD


def test_a_narrow_product_is_the_product(assert_near):
    x, w = draw(0, (7, 40), (40, 3))
    with jax.enable_x64(True):
        x, w = jnp.asarray(x), jnp.asarray(w)
        expected = value_and_pullback(jnp.matmul, x, w)
        assert_near(value_and_pullback(narrow_product, x, w), expected, 1e-14)
        members = jnp.stack([w, 2 * w])
        assert_near(
            jax.vmap(lambda w: value_and_pullback(narrow_product, x, w))(members),
            jax.vmap(lambda w: value_and_pullback(jnp.matmul, x, w))(members),
            1e-14,
        )

        def gradient_size(product, w):
            return (jax.grad(lambda w: jnp.sin(product(x, w)).sum())(w) ** 2).sum()

        twice = [jax.grad(gradient_size, 1)(product, w) for product in (narrow_product, jnp.matmul)]
        assert_near(twice[:1], twice[1:], 1e-12)


@pytest.mark.parametrize(
    ("kernel", "form"),
    [
        ((3, 3, 1, 4), (Form.BATCH_LAST, Form.BATCH_LAST)),  # (one network, several by vmap)
        ((3, 3, 3, 64), (Form.BATCH_LAST, Form.BATCH_LAST)),
        ((3, 3, 64, 64), (Form.NATIVE, Form.PATCHES)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_forms_on_a_gpu(kernel, form, dtype):
    shape = (8, 12, 12, kernel[2])
    window = Window((12, 12), kernel[:2])
    assert tuple(form_of(shape, kernel, window, dtype, policy) for policy in (GPU, GPU_STACKED)) == form
    large = (2**18, *shape[1:])
    assert form_of(large, kernel, window, dtype, GPU_STACKED) == Form.NATIVE  # patches of more than 256 MB
