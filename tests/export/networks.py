"""The reports' networks, alive, and how their twins in other runtimes are run and compared."""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from flax import nnx

import flaxvision as fv
from flaxvision.layers import BatchNorm, Context, Preprocess
from flaxvision.models.files import variables
from flaxvision.ops.arrays import from_numpy
from tests.export.conftest import assert_alive, quick_jit

POLAR = {"Gather": 2, "Abs": 2, "Mul": 3, "Div": 3, "Sub": 2, "Min": 3, "Equal": 3, "Where": 6, "Less": 2}
POLAR |= dict.fromkeys(("Max", "Add", "Sqrt", "Atan", "Greater", "Concat"), 1)

NETWORKS = [  # call, sizes, and the nodes that the reports' architecture asks for
    ("linear", {}, {"Flatten": 1, "Gemm": 1}),
    ("linear", {"input_shape": (2,), "num_classes": 1}, {"Gemm": 1}),
    ("polar_linear", {"input_shape": (2,), "num_classes": 1}, {**POLAR, "Gemm": 1}),
    ("mlp", {"hidden": (256, 512)}, {"Flatten": 1, "Gemm": 3, "Relu": 2}),
    ("mlp", {"hidden": (256, 512, 1024, 2048)}, {"Flatten": 1, "Gemm": 5, "Relu": 4}),
    ("mlp", {"hidden": (30, 30), "activation": "sigmoid"}, {"Flatten": 1, "Gemm": 3, "Sigmoid": 2}),
    ("mlp", {"hidden": (30, 30), "activation": "identity"}, {"Flatten": 1, "Gemm": 3}),
    ("mlp", {"hidden": (30,), "batch_norm": True}, {"Flatten": 1, "Gemm": 2, "BatchNormalization": 1, "Relu": 1}),
    ("mlp", {"input_shape": (2,), "hidden": (16, 16), "num_classes": 1}, {"Gemm": 3, "Relu": 2}),
    ("wide_cnn", {"padding": "SAME"}, {"Conv": 2, "Relu": 2, "MaxPool": 2, "Flatten": 1, "Gemm": 2}),
    ("wide_cnn", {"padding": "VALID"}, {"Conv": 2, "Relu": 3, "MaxPool": 2, "Flatten": 1, "Gemm": 2}),
    ("mnist_net", {}, {"Conv": 2, "BatchNormalization": 2, "Relu": 3, "MaxPool": 2, "Flatten": 1, "Gemm": 2}),
    ("strided_cnn", {}, {"Conv": 1, "BatchNormalization": 1, "Relu": 1, "Flatten": 1, "Gemm": 1}),
    (
        "strided_cnn",
        {"pool": True},
        {"Conv": 1, "BatchNormalization": 1, "Relu": 1, "MaxPool": 1, "Flatten": 1, "Gemm": 1},
    ),
    (
        "vgg19",
        {"input_shape": (32, 32, 3)},
        {"Conv": 16, "BatchNormalization": 16, "Relu": 18, "MaxPool": 5, "Flatten": 1, "Gemm": 3},
    ),
    ("tiny_cnn", {}, {"Conv": 3, "Relu": 3, "MaxPool": 2, "GlobalMaxPool": 1, "Flatten": 1, "Gemm": 1}),
    (
        "emnist_cnn",
        {"hidden": 32, "num_classes": 47},
        {"Conv": 4, "Relu": 3, "Sigmoid": 1, "MaxPool": 1, "Flatten": 1, "Gemm": 2},
    ),
    (
        "emnist_cnn",
        {"hidden": 64, "num_classes": 47},
        {"Conv": 4, "Relu": 3, "Sigmoid": 1, "MaxPool": 1, "Flatten": 1, "Gemm": 2},
    ),
    (
        "emnist_cnn",
        {"hidden": 64, "num_classes": 47, "inner_activation": "relu"},
        {"Conv": 4, "Relu": 4, "Sigmoid": 1, "MaxPool": 1, "Flatten": 1, "Gemm": 2},
    ),
    ("emnist_autoencoder", {}, {"Conv": 4, "ConvTranspose": 5, "Relu": 5, "Sigmoid": 2, "MaxPool": 1}),
    (
        "emnist_autoencoder",
        {"inner_activation": "relu"},
        {"Conv": 4, "ConvTranspose": 5, "Relu": 7, "Sigmoid": 2, "MaxPool": 1},
    ),
]

LABELS = ["-".join([name, *map(str, sizes.values())]).replace(" ", "") for name, sizes, _ in NETWORKS]
BATCHES = (1, 3, 64)


def pixels(shape, count=64, seed=0):
    """uint8 images of waves, or points around the origin."""
    random = np.random.default_rng(seed)
    if len(shape) == 1:
        return random.normal(0, 3, (count, *shape)).astype(np.float32)
    height, width, channels = shape
    row, column = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    speed, phase = random.uniform(0, 1.5, (2, count, 1, 1, channels)), random.uniform(0, 6.3, (count, 1, 1, channels))
    waves = np.sin(speed[0] * row + speed[1] * column + phase) * random.random((count, 1, 1, 1))
    noise = random.normal(0, 0.1, (count, *shape))
    return np.clip(127.5 + 127.5 * (waves + noise), 0, 255).astype(np.uint8)


@functools.cache
def alive(number):
    """(model, stored inputs, {batch: logits}) with every number drawn anew and statistics from training passes."""
    name, sizes, _ = NETWORKS[number]
    graphdef, state = nnx.split(nnx.eval_shape(lambda: fv.models.create(name, **sizes)))
    model = nnx.merge(graphdef, jax.tree.map(lambda leaf: from_numpy(np.zeros(leaf.shape, leaf.dtype)), state))
    random, names, kinds = np.random.default_rng(number), model.parameter_names(), dict(model.named_layers())
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        layer, _, part = names[path].rpartition(".")
        values = random.standard_normal(variable[...].shape)
        if part == "kernel":
            values *= np.sqrt(2 / np.prod(values.shape[:-1]))
        else:
            values = 0.2 * values + (part == "scale" and isinstance(kinds[layer], BatchNorm))
        variable[...] = from_numpy(values.astype(np.float32))
    if len(model.input_shape) == 3:
        model.preprocess = Preprocess(1 / 127.5, -1.0)
    model.classes = tuple(f"class {i}" for i in range(sizes.get("num_classes", 10)))
    stored = pixels(model.input_shape, 16 if name == "vgg19" else 64)  # whose every image takes long
    inputs = model.preprocess(jnp.asarray(stored), jnp.float32)
    norms = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    for layer in norms:
        layer.var[...] = layer.var[...] + 1
        layer.momentum = 0.1  # two passes do what takes 50 at 0.9
    if norms:
        graphdef, state = nnx.split(model)

        @jit_of(model)
        def step(state, x, key):
            passing = nnx.merge(graphdef, state)
            passing(x, Context(train=True, key=key))
            return nnx.state(passing)

        for number_of_pass in range(2):
            state = step(state, jnp.roll(inputs, 8 * number_of_pass, axis=0)[:32], jax.random.key(number_of_pass))
        nnx.update(model, state)
        for layer in norms:
            layer.momentum = 0.9
            assert float(jnp.abs(layer.mean[...]).min()) > 0
            assert float(layer.var[...].max()) != 1
    graphdef, state = nnx.split(model)
    run = jit_of(model)(lambda state, x: nnx.merge(graphdef, state)(x))
    whole = np.asarray(run(state, inputs))  # compiled once
    assert_alive(whole)
    return model, stored, {batch: whole[:batch] for batch in BATCHES}


def scaled(model, stored):
    return np.asarray(model.preprocess(jnp.asarray(stored), jnp.float32))


def channels_first(x):
    return np.array(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, order="C")


def jit_of(model):
    """How its programs are compiled; VGG's take longer to run than to compile."""
    return jax.jit if model.kind == "vgg19" else quick_jit


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": x})
    return output


def counts(path):
    return dict(collections.Counter(node.op_type for node in onnx.load(path).graph.node))


def assert_same(theirs, ours, share):
    assert theirs.shape == ours.shape
    assert theirs.dtype == ours.dtype
    assert np.abs(theirs - ours).max() <= share * max(1.0, np.abs(ours).max())


def small(name="mnist_net"):
    """A network whose tests of options take little time, alive."""
    return alive([network for network, *_ in NETWORKS].index(name))


def widened(model):
    """The model in float64."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), state))


def assert_equal_weights(first, second):
    first, second = ({n: v for n, v in variables(m).items() if not n.endswith(".rate")} for m in (first, second))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def drawn(chain, seed=0):
    """The chain with every number drawn anew, scales and variances positive."""
    random = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(chain)):
        if path[-1] != "rate":
            values = random.normal(0, 0.3, variable[...].shape)
            values = np.exp(values) if path[-1] in ("scale", "var") else values
            variable[...] = from_numpy(values.astype(np.float32))
    return chain
