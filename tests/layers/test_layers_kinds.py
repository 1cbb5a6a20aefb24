"""The kinds of layers that networks of today are made of: values and gradients against PyTorch, in every layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxvision.errors import UserError
from flaxvision.layers import (
    KINDS,
    Activation,
    Add,
    Affine,
    AvgPool,
    Concat,
    Context,
    Conv,
    Divide,
    Dropout,
    DropPath,
    Flatten,
    GroupNorm,
    LayerNorm,
    MaxPool,
    Multiply,
    Network,
    PReLU,
    Resize,
    SpatialDropout,
    Subtract,
    Upsample,
)
from flaxvision.layers.kinds import Tensor, kind_of
from flaxvision.ops.maps import Maps
from flaxvision.ops.policy import CPU_TRAINING, NATIVE
from tests.conftest import slow

pytestmark = pytest.mark.quick

RNGS = nnx.Rngs(0)


def conv(inputs, outputs, kernel, **settings):
    return Conv(inputs, outputs, kernel, rngs=nnx.Rngs(0), **settings)


# ours, shapes of the inputs for one example, PyTorch's by `torch.nn` and `torch.nn.functional`
CASES = {
    "add": (lambda: Add(), [(5, 4, 6)] * 3, lambda t, F: lambda a, b, c: a + b + c),
    "a gate is broadcast": (lambda: Multiply(), [(5, 4, 6), (1, 1, 6)], lambda t, F: lambda a, b: a * b),
    "a map of one channel is broadcast": (lambda: Multiply(), [(5, 4, 6), (5, 4, 1)], lambda t, F: lambda a, b: a * b),
    "divide": (lambda: Divide(), [(5, 4, 6), (1, 1, 6)], lambda t, F: lambda a, b: a / b),
    "subtract": (lambda: Subtract(), [(7,), (7,)], lambda t, F: lambda a, b: a - b),
    "concat": (lambda: Concat(), [(5, 4, 2), (5, 4, 3), (5, 4, 1)], lambda t, F: lambda *v: t.cat(v, 1)),
    "affine": (lambda: Affine((1.5, -2.0, 0.25), 3.0), [(5, 4, 3)], lambda t, F: lambda x: (
        x * t.tensor([1.5, -2, 0.25]).reshape(3, 1, 1) + 3)),
    "group norm": (lambda: GroupNorm(2, 6), [(5, 4, 6)], lambda t, F: t.nn.GroupNorm(2, 6)),
    "group norm of vectors": (lambda: GroupNorm(3, 6, 1e-3), [(6,)], lambda t, F: t.nn.GroupNorm(3, 6, 1e-3)),
    "group norm, wide": (lambda: GroupNorm(8, 40), [(3, 3, 40)], lambda t, F: t.nn.GroupNorm(8, 40)),
    "layer norm": (lambda: LayerNorm(6, 1e-3), [(6,)], lambda t, F: t.nn.LayerNorm(6, 1e-3)),
    "layer norm of channels": (lambda: LayerNorm(6), [(5, 4, 6)], lambda t, F: channels_norm(t)),
    "prelu, one slope": (lambda: PReLU(), [(5, 4, 6)], lambda t, F: t.nn.PReLU()),
    "prelu by channel": (lambda: PReLU(6), [(5, 4, 6)], lambda t, F: t.nn.PReLU(6)),
    "grouped": (
        lambda: conv(6, 8, (3, 3), padding=1, feature_group_count=2), [(5, 4, 6)],
        lambda t, F: t.nn.Conv2d(6, 8, 3, padding=1, groups=2)),
    "depthwise, strided": (
        lambda: conv(6, 6, (3, 3), strides=2, padding=1, feature_group_count=6, use_bias=False), [(7, 6, 6)],
        lambda t, F: t.nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False)),
    "depthwise, twice as many": (
        lambda: conv(3, 6, (2, 3), padding=((1, 1), (2, 2)), feature_group_count=3), [(7, 6, 3)],
        lambda t, F: t.nn.Conv2d(3, 6, (2, 3), padding=(1, 2), groups=3)),
    "dilated": (
        lambda: conv(3, 5, (3, 3), padding=2, kernel_dilation=2), [(8, 7, 3)],
        lambda t, F: t.nn.Conv2d(3, 5, 3, padding=2, dilation=2)),
    "rectangular": (
        lambda: conv(3, 5, (1, 7), strides=(1, 2), padding=((0, 0), (3, 3))), [(8, 9, 3)],
        lambda t, F: t.nn.Conv2d(3, 5, (1, 7), (1, 2), (0, 3))),
    "max pool, padded": (lambda: MaxPool(3, 2, 1), [(8, 7, 3)], lambda t, F: t.nn.MaxPool2d(3, 2, 1)),
    "max pool, rectangular": (
        lambda: MaxPool((2, 3), (1, 2), (1, 0)), [(8, 7, 3)], lambda t, F: t.nn.MaxPool2d((2, 3), (1, 2), (1, 0))),
    "average pool, padding counts": (
        lambda: AvgPool(3, 1, 1, count_include_pad=True), [(8, 7, 3)], lambda t, F: t.nn.AvgPool2d(3, 1, 1)),
    "average pool, padding does not": (
        lambda: AvgPool(3, 2, 1), [(8, 7, 3)], lambda t, F: t.nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "upsampling": (lambda: Upsample((2, 3)), [(4, 5, 3)], lambda t, F: t.nn.Upsample(scale_factor=(2, 3))),
    "interpolation": (
        lambda: Resize((7, 3)), [(4, 5, 3)], lambda t, F: t.nn.Upsample(size=(7, 3), mode="bilinear")),
    "interpolation, corners": (
        lambda: Resize((1, 9), True), [(4, 5, 3)],
        lambda t, F: t.nn.Upsample(size=(1, 9), mode="bilinear", align_corners=True)),
    "group norm, plain": (
        lambda: GroupNorm(3, 6, affine=False), [(4, 5, 6)], lambda t, F: t.nn.GroupNorm(3, 6, affine=False)),
    "layer norm without bias": (
        lambda: LayerNorm(6, use_bias=False), [(6,)], lambda t, F: t.nn.LayerNorm(6, bias=False)),
    "flatten": (lambda: Flatten(), [(4, 5, 3)], lambda t, F: t.nn.Flatten()),
    "leaky relu, slope": (
        lambda: Activation("leaky_relu", 0.2), [(4, 5, 3)], lambda t, F: t.nn.LeakyReLU(0.2)),
    "elu, alpha": (lambda: Activation("elu", 0.3), [(4, 5, 3)], lambda t, F: t.nn.ELU(0.3)),
    "softmax": (lambda: Activation("softmax"), [(4, 5, 3)], lambda t, F: t.nn.Softmax(1)),
    "log_softmax": (lambda: Activation("log_softmax"), [(7,)], lambda t, F: t.nn.LogSoftmax(1)),
    **{name: (lambda name=name: Activation(name), [(4, 5, 3)], lambda t, F, theirs=theirs: getattr(t.nn, theirs)())
       for name, theirs in (("relu6", "ReLU6"), ("hardswish", "Hardswish"), ("hardsigmoid", "Hardsigmoid"),
                            ("hardtanh", "Hardtanh"), ("mish", "Mish"))},
}  # fmt: skip


def channels_norm(torch):
    norm = torch.nn.LayerNorm(6)
    norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].movedim(1, -1),))
    norm.register_forward_hook(lambda _, inputs, y: y.movedim(-1, 1))
    return norm


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


@pytest.mark.parametrize("batch_last", [False, True])
@pytest.mark.parametrize("policy", [CPU_TRAINING, slow(NATIVE)], ids=["cpu", "native"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs(torch, case, policy, batch_last):
    make, shapes, theirs = CASES[case]
    random = np.random.default_rng(3)
    xs = [random.normal(0, 2, (4, *shape)).astype(np.float32) for shape in shapes]
    layer, module = make(), theirs(torch, torch.nn.functional)
    tensors = [t for t in kind_of(layer).tensors(layer) if getattr(layer, t.ours) is not None]
    for tensor in tensors:  # other numbers than the initial ones
        variable = getattr(layer, tensor.ours)
        variable[...] = jnp.asarray(random.normal(0.5, 0.5, variable.shape), jnp.float32)
        getattr(module, tensor.torch).data = torch.tensor(np.array(tensor.to_torch(np.asarray(variable[...]))))

    graphdef, state = nnx.split(layer)

    def run(state, xs):
        maps = [Maps(x.swapaxes(0, -1), True) if batch_last else Maps(x) for x in xs]
        return kind_of(layer).apply(nnx.merge(graphdef, state), maps, Context(train=True, policy=policy)).first()

    y, pull = jax.vjp(jax.jit(run), state, [jnp.asarray(x) for x in xs])
    cotangent = random.normal(0, 1, y.shape).astype(np.float32)
    of_state, of_inputs = pull(jnp.asarray(cotangent))
    inputs = [torch.tensor(channels_first(x), requires_grad=True) for x in xs]
    outputs = module(*inputs)
    outputs.backward(torch.tensor(channels_first(cotangent)))
    np.testing.assert_allclose(channels_first(y), outputs.detach(), atol=2e-5)
    for mine, its in zip(of_inputs, inputs, strict=True):
        np.testing.assert_allclose(channels_first(mine), its.grad, atol=5e-5)
    for tensor in tensors:
        mine = tensor.to_torch(np.asarray(of_state[tensor.ours][...]))
        np.testing.assert_allclose(mine, getattr(module, tensor.torch).grad, atol=5e-4)
    # The shape is what the record says, as PyTorch has it.
    assert tuple(np.moveaxis(np.empty(outputs.shape), 1, -1).shape[1:]) == kind_of(layer).shape(layer, shapes)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [(Tensor("w", "k", (3, 2, 0, 1)), (2, 3, 4, 5)), (Tensor("w", "k", (2, 3, 0, 1), flipped=True), (2, 3, 4, 5))],
)
def test_tensors_go_there_and_back(tensor, shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(tensor.from_torch(tensor.to_torch(x)), x)


def test_spatial_dropout_drops_whole_channels():
    x = jnp.ones((64, 5, 4, 6))
    y = SpatialDropout(0.25)(x, Context(train=True, key=jax.random.key(0)))
    sums = np.asarray(y.sum(axis=(1, 2)))
    assert set(np.round(np.unique(sums), 3)) == {0, np.float32(np.round(20 / 0.75, 3))}
    assert 0.15 < (sums == 0).mean() < 0.35
    np.testing.assert_array_equal(SpatialDropout(0.25)(x), x)
    with pytest.raises(UserError, match="needs a map"):
        list(Network([("a", SpatialDropout(0.5))], input_shape=(7,)).walk())
    assert not isinstance(Dropout(0.5), SpatialDropout)


@pytest.mark.parametrize("batch_last", [False, True])
def test_drop_path_drops_whole_examples(batch_last):
    x = jnp.ones((256, 2, 3, 4))
    maps, context = Maps(x.T, True) if batch_last else Maps(x), Context(train=True, key=jax.random.key(0))
    y = np.asarray(kind_of(DropPath(0.25)).apply(DropPath(0.25), [maps], context).array)
    y = y.T if batch_last else y
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert all(np.ptp(example) == 0 for example in y)
    assert 0.15 < (y[:, 0, 0, 0] == 0).mean() < 0.35
    np.testing.assert_array_equal(DropPath(0.25)(x), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Activation("relu", 0.1), "number=0.1 has no effect with activation 'relu': only leaky_relu and elu"),
        (lambda: MaxPool(2, 1, 2), r"padding is 2: give pixels from 0 to half of the window \(2, 2\)"),
        (lambda: AvgPool(2, 1, "FULL"), "padding is 'FULL': allowed are VALID, SAME, pixels"),
        (lambda: GroupNorm(4, 6), "6 channels do not make 4 groups"),
        (lambda: Upsample(0), "scale is 0: give whole numbers"),
        (lambda: Affine(float("nan")), "scale is nan: give a number"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(make, message):
    with pytest.raises(UserError, match=message):
        make()


LAYERS = {
    "Linear": lambda: nnx.Linear(3, 4, rngs=RNGS),
    "ConvTranspose": lambda: nnx.ConvTranspose(3, 4, (3, 2), (2, 3), rngs=RNGS),
    "Conv": lambda: conv(3, 4, (3, 2), strides=(2, 1), padding="SAME", kernel_dilation=(1, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_shapes_are_those_of_a_trace(name):
    layer, shape = LAYERS[name](), (7, 6, 3)
    traced = jax.eval_shape(layer, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    assert kind_of(layer).shape(layer, [shape]) == traced.shape[1:]


def test_every_kind_has_a_row_in_export_and_a_missing_one_is_an_error_at_import(monkeypatch):
    from export import _layers, _rows

    assert set(_rows.ROWS) == set(KINDS)
    _layers.check_registry()
    monkeypatch.setattr(_rows, "ROWS", {kind: row for kind, row in _rows.ROWS.items() if kind is not PReLU})
    with pytest.raises(ImportError, match="export has no row for PReLU"):
        _rows.check_registry()
