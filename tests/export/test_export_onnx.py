"""What an ONNX file may hold: layouts, pixels, probabilities, metadata, operator sets, folded layers."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx

import export
import flaxvision as fv
from export._fold import fold_batch_norms
from flaxvision.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    Linear,
    PolarTransform,
    Preprocess,
)
from tests.conftest import slow
from tests.export.conftest import assert_alive
from tests.export.networks import (
    BATCHES,
    NETWORKS,
    alive,
    assert_equal_weights,
    assert_same,
    channels_first,
    counts,
    drawn,
    pixels,
    run_onnx,
    scaled,
    small,
    widened,
)


@pytest.mark.parametrize("name", ["linear", "mnist_net", "tiny_cnn", "emnist_cnn", "emnist_autoencoder"])
def test_nhwc_takes_and_gives_images_as_stored(name, tmp_path):
    model, stored, logits = small(name)
    path = export.to_onnx(model, tmp_path / "net.onnx", layout="NHWC")
    assert_same(run_onnx(path, scaled(model, stored)), logits[64], 1e-5)
    assert counts(path)["Transpose"] == (2 if name == "emnist_autoencoder" else 1)
    assert_equal_weights(export.from_onnx(path), model)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("fold", [False, True])
def test_a_file_that_needs_nothing_else(layout, fold, tmp_path):
    model, stored, logits = small()
    lay = channels_first if layout == "NCHW" else np.asarray
    options = {"layout": layout, "fold_batch_norm": fold, "normalize": True}
    path = export.to_onnx(model, tmp_path / "net.onnx", **options)
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert_same(run_onnx(path, lay(stored)), logits[64], 2e-5)
    path = export.to_onnx(model, path, softmax=True, **options)
    for batch in BATCHES:
        probabilities = run_onnx(path, lay(stored[:batch]))
        assert_same(probabilities, fv.predict(model, stored[:batch]), 2e-5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["polar_linear", "points"])
def test_one_logit_gives_two_probabilities(name, tmp_path):
    points = {"input_shape": (2,), "num_classes": 1}
    wanted = ("polar_linear", points) if name == "polar_linear" else ("mlp", {**points, "hidden": (16, 16)})
    model, stored, _ = alive([network[:2] for network in NETWORKS].index(wanted))
    path = export.to_onnx(model, tmp_path / "net.onnx", softmax=True)
    onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    probabilities = run_onnx(path, stored)
    assert probabilities.shape == (64, 2)
    assert_same(probabilities, fv.predict(model, stored), 1e-5)
    assert probabilities.std(axis=0).min() > 0.01


def test_one_logit_in_float64_gives_two_probabilities(tmp_path):
    with jax.enable_x64(True):
        layer = Linear(2, 1, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        chain = Chain([("fc", layer)], input_shape=(2,))
        assert chain.dtype == jnp.float64
        path = export.to_onnx(chain, tmp_path / "net.onnx", softmax=True)
        points = pixels((2,)).astype(np.float64)
        logits = points @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
        assert_equal_weights(export.from_onnx(path), chain)
        assert export.from_onnx(path).dtype == jnp.float64
    probabilities = run_onnx(path, points)
    assert_alive(probabilities)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, np.hstack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))]))


def test_preprocessing_that_does_nothing_leaves_only_the_cast(tmp_path):
    model = fv.models.create("linear")
    assert counts(export.to_onnx(model, tmp_path / "net.onnx", normalize=True)) == {"Cast": 1, "Flatten": 1, "Gemm": 1}


def test_polar_angles_on_axes_signs_and_the_origin(tmp_path):
    chain = Chain([("polar", PolarTransform())], input_shape=(2,))
    sides = [-1e30, -2.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 3.0]
    points = np.array([(x, y) for x in sides for y in sides if max(abs(x), abs(y)) < 1e18], np.float32)
    theirs = run_onnx(export.to_onnx(chain, tmp_path / "polar.onnx"), points)
    np.testing.assert_allclose(theirs[:, 0], np.hypot(points[:, 0], points[:, 1]), rtol=1e-6, atol=1e-29)
    np.testing.assert_allclose(theirs[:, 1], np.arctan2(points[:, 1], points[:, 0]), rtol=1e-6, atol=1e-7)


def test_bytes_are_the_same_in_every_process(tmp_path):
    line = (
        "import export, flaxvision as fv, sys; model = fv.models.create('linear', input_shape=(4, 3, 2), seed=3); "
        "export.to_onnx(model, sys.argv[1], metadata={'b': 1, 'a': [2]})"
    )
    first, second = (tmp_path / "first.onnx", tmp_path / "second.onnx")
    for path, seed in ((first, "1"), (second, "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", line, path], check=True, env=environment)
    model = fv.models.create("linear", input_shape=(4, 3, 2), seed=3)
    here = export.to_onnx(model, tmp_path / "here.onnx", metadata={"a": [2], "b": 1})
    assert len({path.read_bytes() for path in (first, second, here)}) == 1
    assert here.read_bytes() == export.to_onnx(model, here, metadata={"b": 1, "a": [2]}).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx", "here.onnx", "second.onnx"]


def test_metadata(tmp_path):
    model, *_ = small()
    more = {"dataset": "mnist", "accuracy": 0.98, "config": {"hash": "ab"}, "loss": np.float32(0.5)}
    more |= {"steps": np.arange(3), "best": jnp.asarray(2)}
    proto = onnx.load(export.to_onnx(model, tmp_path / "net.onnx", metadata=more))
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(about["classes"]) == [f"class {i}" for i in range(10)]
    assert about["preprocess"] == f"value * {1 / 127.5!r} + -1.0"
    assert (about["dataset"], json.loads(about["accuracy"]), json.loads(about["config"])) == (
        "mnist",
        0.98,
        {"hash": "ab"},
    )
    assert [json.loads(about[key]) for key in ("loss", "steps", "best")] == [0.5, [0, 1, 2], 2]
    assert proto.producer_name == "flaxvision"
    assert proto.graph.name == "mnist_net"


@functools.cache
def with_activation(function):
    """(chain, inputs, outputs): the activation sees negative and positive values."""
    conv = Conv(1, 6, (3, 3), strides=(2, 2), rngs=nnx.Rngs(0))
    layers = [("conv", conv), ("norm", BatchNorm(6)), ("act", Activation(function))]
    layers += [("flat", Flatten()), ("fc", Linear(96, 3, rngs=nnx.Rngs(1)))]
    x = np.random.default_rng(0).normal(0, 3, (5, 8, 7, 1)).astype(np.float32)
    before = np.asarray(conv(x))
    assert (before < -1).mean() > 0.1
    assert (before > 1).mean() > 0.1
    chain = Chain(layers, input_shape=(8, 7, 1))
    outputs = np.asarray(chain(x))
    assert_alive(outputs)
    return chain, x, outputs


@pytest.mark.parametrize("opset", [13, *map(slow, (14, 15, 16)), 17, *map(slow, range(18, 23)), 23])
def test_every_operator_set(opset, tmp_path):
    path = tmp_path / "net.onnx"
    for function in ACTIVATIONS if opset in (13, 17, 20, 23) else ("gelu",):  # where operators changed
        chain, x, outputs = with_activation(function)
        proto = onnx.load(export.to_onnx(chain, path, opset=opset))
        assert proto.opset_import[0].version == opset
        assert proto.ir_version == onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset]
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        assert_same(run_onnx(path, channels_first(x)), outputs, 1e-5)
        assert ("Gelu" in counts(path)) == (function in ("gelu", "gelu_tanh") and opset >= 20)
        assert_equal_weights(export.from_onnx(path), chain)
    for name in ("emnist_autoencoder", "mnist_net", "polar_linear"):
        model, stored, logits = small(name)
        path = export.to_onnx(model, path, opset=opset, normalize=stored.dtype == np.uint8)
        assert_same(run_onnx(path, channels_first(stored)), channels_first(logits[64]), 2e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 19, 1)])
def test_a_network_without_a_flatten_takes_other_sizes(shape, tmp_path):
    tiny = small("tiny_cnn")[0]
    other = pixels(shape, 4)
    path = export.to_onnx(tiny, tmp_path / "net.onnx", input_shape=shape, normalize=True)
    ours = np.asarray(tiny(scaled(tiny, other)))
    assert_alive(ours)
    assert_same(run_onnx(path, channels_first(other)), ours, 1e-5)
    assert tiny.input_shape == (28, 28, 1)  # itself it stays
    assert export.from_onnx(path).input_shape == shape


def test_names_of_layers_that_the_graph_has_itself(tmp_path):
    """Names of the input, the output, nodes, constants and weights."""
    names = ("input", "pixels", "preprocess.scale", "logits", "gelu.half", "images", "probabilities", "gemm_2", "0")
    names += ("gelu", "logits.weight", "one")
    layers = [Activation("gelu") if name == "gelu" else Linear(4, 4, rngs=nnx.Rngs(i)) for i, name in enumerate(names)]
    layers = [("flat", Flatten()), *zip(names, layers, strict=True)]
    chain = Chain([*layers, ("div_9", Activation("softplus"))], input_shape=(2, 1, 2))
    chain.preprocess = Preprocess(1 / 32, -4.0)
    stored = pixels((2, 1, 2))
    ours = np.asarray(chain(scaled(chain, stored)))
    assert_alive(ours)
    for opset in (17, 20):
        path = export.to_onnx(chain, tmp_path / "net.onnx", opset=opset)
        graph = onnx.load(path).graph
        assert ([value.name for value in graph.input], [value.name for value in graph.output]) == (
            ["input"],
            ["logits"],
        )
        values = ["input", *(tensor.name for tensor in graph.initializer), *(n.output[0] for n in graph.node)]
        assert len(set(values)) == len(values)
        assert {"input.weight", "logits.weight", "logits.weight.weight"} <= set(values)
        assert_same(run_onnx(path, channels_first(scaled(chain, stored))), ours, 1e-5)
        assert_equal_weights(export.from_onnx(path), chain)
        whole = export.to_onnx(chain, path, opset=opset, normalize=True, softmax=True)
        assert_same(run_onnx(whole, channels_first(stored)), fv.predict(chain, stored), 1e-5)
        assert onnx.load(whole).graph.output[0].name == "probabilities"


@pytest.mark.parametrize("use_bias", [slow(False), True])
def test_every_batch_norm_that_can_is_folded(use_bias, tmp_path):
    """Also behind Dropout and identities, and into transposed convolutions of either kernel layout."""
    more = {"use_bias": use_bias, "rngs": nnx.Rngs(0)}
    layers = [
        ("conv", Conv(2, 3, (3, 3), **more)),
        ("drop", Dropout(0.5)),
        ("norm", BatchNorm(3)),
        ("up", ConvTranspose(3, 4, (3, 3), (2, 2), padding="VALID", transpose_kernel=True, **more)),
        ("same", Activation("identity")),
        ("norm_up", BatchNorm(4)),
        ("again", BatchNorm(4)),
        ("tanh", Activation("tanh")),
        ("flipped", ConvTranspose(4, 2, (4, 3), (1, 2), **more)),
        ("norm_flipped", BatchNorm(2)),
        ("pool", AvgPool(2)),
        ("kept", BatchNorm(2)),
        ("flat", Flatten()),
        ("fc", Linear(110, 5, **more)),
        ("drop_fc", Dropout(0.1)),
        ("norm_fc", BatchNorm(5)),
    ]
    chain = drawn(Chain(layers, input_shape=(5, 5, 2)))
    x = np.random.default_rng(1).normal(0, 1, (5, 5, 5, 2))
    with jax.enable_x64(True):
        exact = np.asarray(widened(chain)(x))
        folded = fold_batch_norms(widened(chain))
        assert [name for name, layer in folded.named_layers() if isinstance(layer, BatchNorm)] == ["kept"]
        np.testing.assert_allclose(np.asarray(folded(x)), exact, rtol=0, atol=1e-13 * np.abs(exact).max())
    assert_alive(exact)
    path = export.to_onnx(chain, tmp_path / "net.onnx", fold_batch_norm=True)
    assert counts(path)["BatchNormalization"] == 1
    assert_same(run_onnx(path, channels_first(x.astype(np.float32))), exact.astype(np.float32), 1e-5)
    assert_equal_weights(export.from_onnx(path), fold_batch_norms(chain))


def test_evaluation_mode_whatever_mode_the_object_is_in(tmp_path):
    model, *_ = small()
    first = export.to_onnx(model, tmp_path / "first.onnx").read_bytes()
    other = nnx.clone(model)
    other.train()
    assert export.to_onnx(other, tmp_path / "second.onnx").read_bytes() == first
    pytest.importorskip("torch")
    assert not export.to_torch(other).training
