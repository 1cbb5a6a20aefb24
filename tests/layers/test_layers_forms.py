"""The forms of a chain's layers: the same network in all of them, with the batch first or last."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Context,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Linear,
    MaxPool,
)
from flaxvision.layers.kinds import kind_of
from flaxvision.ops.convolution import product_batch_last
from flaxvision.ops.maps import Maps, alike, flattened
from flaxvision.ops.policy import CPU_COMPILED, CPU_EVALUATION, CPU_TRAINING, GPU, GPU_STACKED, NATIVE
from tests.conftest import slow

pytestmark = pytest.mark.quick

FROZEN = ("b", "e_norm", "e_drop", "own_norm")


def draw(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_maps_know_their_shape_wherever_the_batch_lies():
    x = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for maps in (Maps(x), Maps(x.transpose(3, 1, 2, 0), True)):
        assert maps.shape == (2, 3, 4, 5)
        np.testing.assert_array_equal(maps.first(), x)
        np.testing.assert_array_equal(maps.last()[4, 2, 3, 1], x[1, 2, 3, 4])


def test_maps_are_brought_into_the_layout_of_the_largest():
    small, large = jnp.zeros((2, 3, 4, 1)), jnp.zeros((2, 3, 4, 5))
    for few, many in ((Maps(small), Maps(large.T, True)), (Maps(small.T, True), Maps(large))):
        assert {maps.batch_is_last for maps in alike(few, many)} == {many.batch_is_last}
        assert [maps.shape for maps in alike(few, many)] == [small.shape[:1] + few.shape[1:], many.shape]
    assert not any(maps.batch_is_last for maps in alike(Maps(small), Maps(jnp.zeros((1, 3, 4, 2)), True)))


@pytest.mark.parametrize("policy", [NATIVE, CPU_TRAINING, CPU_EVALUATION, GPU])
@pytest.mark.parametrize("examples", [3, 8])  # fewer than outputs, and more
def test_flattened_maps_that_lie_batch_last_are_multiplied_as_they_lie(policy, examples):
    layer = Linear(24, 5, rngs=nnx.Rngs(0), bias_init=nnx.initializers.normal())
    x = draw(0, (examples, 3, 2, 4)).astype(np.float32)
    expected = x.transpose(0, 3, 1, 2).reshape(examples, 24) @ np.asarray(layer.kernel) + np.asarray(layer.bias)
    for maps in (Maps(jnp.asarray(x)), Maps(jnp.asarray(x.transpose(3, 1, 2, 0)), True)):
        flat = flattened(maps)
        assert flat.shape == (examples, 24)
        assert flat.batch_is_last == maps.batch_is_last
        for values in (flat, Maps(flat.first())):
            given = kind_of(layer).apply(layer, [values], Context(policy=policy))
            np.testing.assert_allclose(given.first(), expected, rtol=1e-5, atol=1e-5)


def test_a_product_batch_last_is_the_product():
    def gradients(product, x, w):
        def size(x, w):
            return jnp.sin(product(x, w)).sum()

        def slope(x, w):
            return sum(jnp.sin(each).sum() for each in jax.grad(size, (0, 1))(x, w))

        return product(x, w), *jax.grad(size, (0, 1))(x, w), *jax.grad(slope, (0, 1))(x, w)

    with jax.enable_x64(True):
        x, w = jnp.asarray(draw(0, (7, 40))), jnp.asarray(draw(1, (40, 3)))
        given = gradients(lambda x, w: product_batch_last(x.T, w), x, w)
        for value, expected in zip(given, gradients(jnp.matmul, x, w), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("inputs", "outputs", "more", "dtype", "narrow"),
    [
        (512, 10, {}, jnp.float32, True),
        (64, 47, {}, jnp.float32, False),
        (512, 65, {}, jnp.float32, False),
        (512, 10, {"precision": "highest"}, jnp.float32, False),
        (512, 10, {}, jnp.bfloat16, False),
    ],
)
def test_narrow_linear_layers_go_by_the_transposed_kernel(inputs, outputs, more, dtype, narrow):
    chain = Chain([("a", Linear(inputs, outputs, rngs=nnx.Rngs(0), **more))], input_shape=(inputs,))
    x = jnp.ones((4, inputs), dtype)
    for policy in (CPU_TRAINING, CPU_EVALUATION, NATIVE):
        with jax.numpy_dtype_promotion("standard"):
            program = str(jax.make_jaxpr(lambda x, policy=policy: chain(x, Context(train=True, policy=policy)))(x))
        assert ("optimization_barrier" in program) == (narrow and policy == CPU_TRAINING)


class Twice(nnx.Module):
    """A layer of the user's own."""

    def __call__(self, x):
        return x * jnp.linspace(0.5, 2.0, x.shape[-1]).reshape(1, 1, 1, -1)


class MyBatchNorm(BatchNorm):
    """Another."""


def fast_layers():
    rngs = nnx.Rngs(0)
    return [
        ("a", Conv(3, 6, (3, 4), strides=(2, 1), padding="SAME", rngs=rngs)),
        ("b", BatchNorm(6)),
        ("c", Activation("tanh")),
        ("drop", Dropout(0.3)),
        ("d", MaxPool(2, 1)),
        ("e", Conv(6, 40, (3, 3), padding=1, use_bias=False, rngs=rngs)),  # many channels, batch last
        ("e_norm", BatchNorm(40)),
        ("e_drop", Dropout(0.2)),
        ("e_pool", MaxPool(2, 1)),
        ("winograd", Conv(40, 36, (3, 3), padding=1, rngs=rngs)),
        ("f", ConvTranspose(36, 5, (3, 3), strides=(2, 2), padding="VALID", transpose_kernel=True, rngs=rngs)),
        ("g", MaxPool(3, 2, "SAME")),
        ("own", Twice()),
        ("mean", AvgPool((2, 3), 1, "SAME")),
        ("h", Conv(5, 4, (2, 2), padding="VALID", kernel_dilation=(2, 2), rngs=rngs)),
        ("own_norm", MyBatchNorm(4)),
        ("i", Flatten()),
        ("j", Linear(96, 5, rngs=rngs)),
        ("k", Linear(5, 2, use_bias=False, rngs=rngs)),
    ]


@pytest.mark.parametrize("pool", [GlobalMaxPool, GlobalAvgPool])
def test_a_global_pool_takes_maps_batch_last(assert_near, pool):
    chain = Chain([("a", Conv(1, 4, (3, 3), rngs=nnx.Rngs(0))), ("b", pool()), ("c", Flatten())], input_shape=(6, 6, 1))
    x = jnp.asarray(draw(0, (5, 6, 6, 1)), jnp.float32)
    assert_near([chain(x, Context(policy=CPU_TRAINING))], [chain(x)], 1e-6)
    assert chain(x).shape == (5, 4)


@pytest.mark.parametrize("policy", [CPU_TRAINING, CPU_EVALUATION, GPU_STACKED])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(2, 3, (3, 3), dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), (3, 8, 8, 2)),
        (ConvTranspose(2, 3, (3, 3), padding="VALID", transpose_kernel=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
         (3, 8, 8, 2)),
        (Conv(2, 3, (3, 3), conv_general_dilated=lambda x, *_, **__: x[..., [0, 1, 0]], rngs=nnx.Rngs(0)),
         (3, 8, 8, 2)),
        (Conv(2, 3, (3,), rngs=nnx.Rngs(0)), (3, 8, 2)),
        (ConvTranspose(2, 3, (3,), strides=(2,), padding="VALID", transpose_kernel=True, rngs=nnx.Rngs(0)), (3, 8, 2)),
        (Conv(2, 3, (3, 3), rngs=nnx.Rngs(0)), (3, 4, 8, 8, 2)),
        (ConvTranspose(2, 3, (3, 3), padding="VALID", transpose_kernel=True, rngs=nnx.Rngs(0)), (3, 4, 8, 8, 2)),
    ],
)  # fmt: skip
def test_other_convolutions_are_flaxs_own(layer, shape, policy):
    chain = Chain([("a", layer)], input_shape=shape[1:])
    x = jnp.asarray(draw(0, shape), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        ours, flaxs = chain(x, Context(policy=policy)), layer(x)
    assert ours.dtype == flaxs.dtype
    np.testing.assert_array_equal(ours, flaxs)


@pytest.mark.slow
def test_evaluation_is_as_exact_as_xlas_own(assert_near):
    chain = Chain(fast_layers(), input_shape=(12, 11, 3))
    x = draw(1, (7, 12, 11, 3))
    graphdef, state = nnx.split(chain)
    with jax.enable_x64(True):
        state = jax.tree.map(lambda value: value.astype(jnp.float64), state)
        exact = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, jnp.asarray(x)))
    for policy in (CPU_EVALUATION, NATIVE, GPU, GPU_STACKED):
        forward = jax.jit(lambda x, policy=policy: chain(x, Context(policy=policy)))
        assert_near([forward(jnp.asarray(x, jnp.float32))], [exact], 1e-6)


@pytest.mark.parametrize(
    ("masked", "frozen", "form"),
    [
        *(slow(False, (), form) for form in (CPU_TRAINING, GPU, GPU_STACKED)),
        *((True, (), CPU_TRAINING), slow(True, (), GPU), slow(True, (), GPU_STACKED)),
        slow(False, FROZEN, CPU_COMPILED),
        *(slow(False, FROZEN, CPU_TRAINING), slow(False, FROZEN, GPU), (False, FROZEN, GPU_STACKED)),
    ],
)
def test_a_chain_is_the_same_in_all_forms(assert_near, masked, frozen, form):
    ours, native = (trained_once(policy, masked, frozen) for policy in (form, NATIVE))
    assert len(ours) > 8
    assert_near(ours, native, 1e-4)


@functools.cache
def trained_once(policy, masked, frozen):
    """Outputs, batch statistics and gradients of a chain of `fast_layers`."""
    x = jnp.asarray(draw(0, (7, 12, 11, 3)), jnp.float32)
    mask = jnp.arange(7) < 5 if masked else None
    chain = Chain(fast_layers(), input_shape=(12, 11, 3))
    graphdef, params, stats, fixed = nnx.split(chain, nnx.Param, nnx.BatchStat, ...)

    def loss(params):
        model = nnx.merge(graphdef, params, stats, fixed, copy=True)
        y = model(x, Context(train=True, key=jax.random.key(5), mask=mask, policy=policy, frozen=frozen))[:5]
        return (y**2).sum(), (y, nnx.state(model, nnx.BatchStat))

    (_, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.tree.leaves((aux, grads))


@pytest.mark.parametrize("frozen", [(), ("conv1_bn",)])
def test_maps_of_few_channels_stay_batch_last(frozen):
    model = fv.models.create("mnist_net", input_shape=(8, 8, 1))
    context = Context(True, jax.random.key(0), policy=CPU_TRAINING, frozen=frozen)
    jaxpr = jax.make_jaxpr(lambda x: nnx.clone(model)(x, context))(jnp.ones((4, 8, 8, 1)))
    moved = [equation.invars[0].aval for equation in jaxpr.eqns if equation.primitive.name == "transpose"]
    floats = [aval.shape for aval in moved if aval.dtype == jnp.float32 and aval.ndim == 4]
    assert floats == [(4, 8, 8, 1)]  # the images; the linear layer takes what Flatten gives as it lies
    masks = [aval.shape for aval in moved if aval.dtype == jnp.bool_]
    assert masks == [(4, 4, 4, 8), (4, 2, 2, 16)]  # of dropout


@pytest.mark.parametrize("name", ["mnist_net", "emnist_cnn", "emnist_autoencoder", "wide_cnn"])
@pytest.mark.slow
def test_training_is_the_same_with_native_convolutions(name, make_dataset):
    data = make_dataset((28, 28, 1), 10, train=80, test=20)
    loss = "squared_error" if name == "emnist_autoencoder" else "cross_entropy"
    sizes = {} if name == "emnist_autoencoder" else {"num_classes": 10}
    losses = {}
    for conv in ("auto", "native"):
        model = fv.models.create(name, **sizes)
        recipe = fv.Recipe(learning_rate=0.01 if sizes else 1e-4, batch_size=40, epochs=2, conv=conv, loss=loss)
        losses[conv] = fv.fit(model, data, recipe).history["step_loss"]
    np.testing.assert_allclose(losses["auto"], losses["native"], rtol=1e-4)
    assert losses["auto"].shape == (4,)
    assert losses["auto"][-1] != losses["auto"][0]
    with pytest.raises(fv.UserError, match="unknown conv 'fast'"):
        fv.Recipe(conv="fast")
