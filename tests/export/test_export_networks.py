"""Every network of the model table, alive: the same numbers in Flax, onnxruntime, PyTorch and Keras."""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from onnx import numpy_helper

import export
import flaxvision as fv
from export._fold import fold_batch_norms
from flaxvision.errors import UserError
from flaxvision.layers import (
    ACTIVATIONS,
    KINDS,
    Activation,
    AvgPool,
    BatchNorm,
    Chain,
    Context,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    Linear,
    PolarTransform,
    Preprocess,
)
from flaxvision.models.files import describe_model, variables
from flaxvision.ops.arrays import from_numpy
from tests.conftest import slow
from tests.export.conftest import assert_alive, quick_jit, run_keras
from tests.export.test_export_named import NAMED

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
QUICK = ("polar_linear-(2,)-1", "mlp-(30,)-True", "mnist_net", "tiny_cnn", "emnist_cnn-32-47", "emnist_autoencoder")
every_network = pytest.mark.parametrize(
    "number", [n if label in QUICK else slow(n) for n, label in enumerate(LABELS)], ids=LABELS
)
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


def tolerance(model):
    return 2e-4 if model.kind == "vgg19" else 1e-5


def assert_same(theirs, ours, share):
    assert theirs.shape == ours.shape
    assert theirs.dtype == ours.dtype
    assert np.abs(theirs - ours).max() <= share * max(1.0, np.abs(ours).max())


def small(name="mnist_net"):
    """A network whose tests of options take little time, alive."""
    return alive([network for network, *_ in NETWORKS].index(name))


def test_every_model_of_the_library_is_here_or_among_the_named():
    assert {name for name, *_ in NETWORKS} | {name for name, _ in NAMED} == set(fv.models.list_models())


@every_network
def test_onnx_file(number, tmp_path):
    model, stored, logits = alive(number)
    path = export.to_onnx(model, tmp_path / "net.onnx")
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    assert counts(path) == NETWORKS[number][2]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    x = channels_first(scaled(model, stored))
    for batch, ours in logits.items():
        assert_same(run_onnx(path, x[:batch]), channels_first(ours), tolerance(model))
    folded = export.to_onnx(model, tmp_path / "folded.onnx", fold_batch_norm=True)
    expected = {op: count for op, count in NETWORKS[number][2].items() if op != "BatchNormalization"}
    assert counts(folded) == expected
    assert_same(run_onnx(folded, x[:3]), channels_first(logits[3]), 2 * tolerance(model))


@every_network
def test_initializers_are_the_torch_tensors(number, tmp_path):
    pytest.importorskip("torch")
    model, *_ = alive(number)
    proto = onnx.load(export.to_onnx(model, tmp_path / "net.onnx"))
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    theirs = {name: value.numpy() for name, value in export.to_torch(model).state_dict().items()}
    theirs = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    if model.kind != "polar_linear":  # whose transform has constants
        assert list(given) == list(theirs)
    for name, value in theirs.items():
        assert given[name].dtype == value.dtype == np.float32
        np.testing.assert_array_equal(given[name], value, err_msg=name)


def torch_modules(number, model):
    """The exported module and the hand-written reference, which takes our state_dict strictly."""
    from export.references import reference

    name, sizes, _ = NETWORKS[number]
    module = export.to_torch(model)
    written = reference(name, **{"input_shape": (28, 28, 1), "num_classes": 10, **sizes}).to(next(module.parameters()))
    written.load_state_dict(module.state_dict(), strict=True)
    assert sum(p.numel() for p in written.parameters()) == fv.models.count_parameters(model)
    return module, written.eval()


@every_network
def test_torch_and_the_hand_written_reference(number, tmp_path):
    torch = pytest.importorskip("torch")
    model, stored, logits = alive(number)
    x = channels_first(scaled(model, stored))
    path = export.to_onnx(model, tmp_path / "net.onnx")
    in_onnx = {batch: run_onnx(path, x[:batch]) for batch in BATCHES}
    for module in torch_modules(number, model):
        with torch.no_grad():
            for batch, ours in logits.items():
                theirs = module(torch.from_numpy(x[:batch])).numpy()
                assert_same(theirs, channels_first(ours), tolerance(model))
                assert_same(in_onnx[batch], theirs, tolerance(model))


@every_network
def test_keras(number):
    pytest.importorskip("keras")
    model, stored, logits = alive(number)
    x = scaled(model, stored)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # Keras relies on both
        twin = export.to_keras(model)
        assert_same(twin.predict_on_batch(x[:1]), logits[1], tolerance(model))
    assert_same(run_keras(twin, x, jit_of(model)), logits[64], tolerance(model))


def widened(model):
    """The model in float64."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), state))


@pytest.mark.slow
@every_network
def test_float64(number):
    torch = pytest.importorskip("torch")
    model, stored, _ = alive(number)
    batches = (1, 3) if model.kind == "vgg19" else BATCHES  # whose float64 takes seconds
    with jax.enable_x64(True):
        wide = widened(model)
        inputs = scaled(model, stored)[: max(batches)].astype(np.float64)
        graphdef, state = nnx.split(wide)
        run = quick_jit(lambda state, x: nnx.merge(graphdef, state)(x))
        whole = np.asarray(run(state, inputs))
        logits = {batch: whole[:batch] for batch in batches}
        modules = torch_modules(number, wide)
        if importlib.util.find_spec("keras"):
            # Keras's BatchNormalization and arctan2 work in float32, whatever the policy.
            coarse = any(isinstance(layer, (BatchNorm, PolarTransform)) for layer in model.layers)
            with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
                twin = export.to_keras(wide)
            assert_same(run_keras(twin, inputs), whole, tolerance(model) if coarse else 1e-10)
    x = torch.from_numpy(channels_first(inputs))
    for module in modules:
        with torch.no_grad():
            for batch, ours in logits.items():
                assert ours.dtype == np.float64
                assert_same(module(x[:batch]).numpy(), channels_first(ours), 1e-10)


@every_network
def test_onnx_and_back(number, tmp_path):
    model, *_ = alive(number)
    again = export.from_onnx(export.to_onnx(model, tmp_path / "net.onnx"))
    assert_equal_weights(again, model)
    assert describe_model(again) == describe_model(model)


def assert_equal_weights(first, second):
    first, second = ({n: v for n, v in variables(m).items() if not n.endswith(".rate")} for m in (first, second))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.mark.parametrize(
    "name", ["linear", "mlp", "mnist_net", "strided_cnn", "tiny_cnn", "emnist_cnn", slow("wide_cnn")]
)
def test_torch_and_back(name, tmp_path):
    model, *_ = small(name)
    empty = fv.models.create(model.kind, **next(sizes for network, sizes, _ in NETWORKS if network == name))
    assert_equal_weights(export.from_torch(export.save_torch(model, tmp_path / "net.safetensors"), empty), model)


@pytest.mark.parametrize(
    "name",
    ["polar_linear", "mlp", slow("mnist_net"), slow("strided_cnn"), slow("emnist_cnn"), slow("emnist_autoencoder")],
)
def test_keras_and_back(name, tmp_path):
    pytest.importorskip("keras")
    model, stored, logits = small(name)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        if name == "polar_linear":
            with pytest.raises(UserError, match="a GetItem cannot be read"):
                export.from_keras(export.to_keras(model))
            return
        export.to_keras(model, tmp_path / "net.keras")
        again = export.from_keras(tmp_path / "net.keras")
    assert again.input_shape == model.input_shape
    theirs, ours = variables(again), variables(model)
    for variable, value in ours.items():
        layer, _, part = variable.rpartition(".")
        np.testing.assert_array_equal(theirs[f"{layer.replace('.', '_')}.{part}"], value, err_msg=variable)
    assert_same(np.asarray(again(scaled(model, stored)[:3])), logits[3], 1e-5)


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


def test_points_have_no_pixels_to_scale(tmp_path):
    model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    with pytest.raises(UserError, match=r"normalize=True is for images; linear takes points of shape \(2,\)"):
        export.to_onnx(model, tmp_path / "net.onnx", normalize=True)
    assert not list(tmp_path.iterdir())


def test_preprocessing_that_does_nothing_leaves_only_the_cast(tmp_path):
    model = fv.models.create("linear")
    assert counts(export.to_onnx(model, tmp_path / "net.onnx", normalize=True)) == {"Cast": 1, "Flatten": 1, "Gemm": 1}


def test_softmax_is_for_class_scores(tmp_path):
    model, *_ = small("emnist_autoencoder")
    with pytest.raises(UserError, match=r"softmax=True is for class scores.*\(28, 28, 1\)"):
        export.to_onnx(model, tmp_path / "net.onnx", softmax=True)


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


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"flaxvision.model": "{}"}, "metadata 'flaxvision.model': give a name .* does not begin with 'flaxvision.'"),
        ({"flaxvision.x": 1, "a": 2}, "metadata 'flaxvision.x'"),
        ({3: "x", "a": 2}, "metadata 3: give a name that is text"),
        ({"network": nnx}, "metadata 'network' is a module: give text, numbers, lists or a dict"),
    ],
)
def test_metadata_that_a_file_cannot_hold(metadata, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export.to_onnx(small()[0], tmp_path / "net.onnx", metadata=metadata)
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "CHWN"}, "unknown layout 'CHWN'"),
        ({"opset": 12}, "opset is 12: give a whole number from 13 to 23"),
        ({"opset": 24}, "opset is 24: give"),
        ({"opset": "20"}, "opset is '20': give a whole number"),
        ({"opset": True}, "opset is True"),
        ({"batch": 0}, "batch is 0: give the number of examples of one call"),
        ({"batch": "4"}, "batch is '4'"),
        ({"input_shape": 28}, "mnist_net does not fit input_shape=28"),
        ({"input_shape": (14, 14, 1)}, r"mnist_net does not fit input_shape=\(14, 14, 1\): it was made for"),
        ({"input_shape": (28, 28, 3)}, r"mnist_net does not fit input_shape=\(28, 28, 3\)"),
        ({"input_shape": (2,)}, r"mnist_net does not fit input_shape=\(2,\)"),
        ({"input_shape": (3, 3, 1)}, r"mnist_net does not fit input_shape=\(3, 3, 1\)"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(options, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        export.to_onnx(small()[0], tmp_path / "net.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written(tmp_path):
    model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("no/net.safetensors", "file/net.safetensors", "folder.safetensors"):
        for write in (export.to_onnx, export.save_torch):
            with pytest.raises(UserError, match="cannot write") as caught:
                write(model, tmp_path / name)
            assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("error", [onnx.checker.ValidationError, onnx.shape_inference.InferenceError])
def test_what_the_checker_refuses_is_one_line(error, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error("Graph must be\n in single static assignment form")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(UserError, match=r"mnist_net makes no valid ONNX graph \(Graph must be in single") as caught:
        export.to_onnx(small()[0], tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([PolarTransform()], (2, 3, 1), r"layer 'body.0' takes points of shape \(2,\), not \(2, 3, 1\)"),
        ([Flatten(), PolarTransform()], (1, 2, 2), r"layer 'body.1' takes points of shape \(2,\), not \(4,\)"),
    ],
)
def test_layers_that_would_mix_up_the_axes_are_refused(layers, shape, message, tmp_path):
    chain = Chain([(f"body.{i}", layer) for i, layer in enumerate(layers)], input_shape=shape)
    writers = [lambda: export.to_onnx(chain, tmp_path / "net.onnx")]
    writers += [lambda: export.to_torch(chain)] if importlib.util.find_spec("torch") else []
    writers += [lambda: export.to_keras(chain)] if importlib.util.find_spec("keras") else []
    for write in writers:
        with pytest.raises(UserError, match=message):
            write()


def drawn(chain, seed=0):
    """The chain with every number drawn anew, scales and variances positive."""
    random = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(chain)):
        if path[-1] != "rate":
            values = random.normal(0, 0.3, variable[...].shape)
            values = np.exp(values) if path[-1] in ("scale", "var") else values
            variable[...] = from_numpy(values.astype(np.float32))
    return chain


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


class Doubled(nnx.Module):
    """A layer outside the table."""

    def __call__(self, x):
        return 2 * x


class OwnConv(nnx.Conv):
    """Not even a subclass is taken for what it may not be."""


@pytest.mark.parametrize(
    ("layer", "kind"), [(Doubled(), "Doubled"), (OwnConv(1, 1, (1, 1), rngs=nnx.Rngs(0)), "OwnConv")]
)
def test_a_layer_outside_the_table_is_named(layer, kind, tmp_path):
    chain = Chain([("first", Activation("relu")), ("body.mine", layer)], input_shape=(4, 4, 1), kind="odd")
    writers = {
        "torch": lambda: export.to_torch(chain),
        "keras": lambda: export.to_keras(chain),
        "onnx": lambda: export.to_onnx(chain, tmp_path / "x.onnx"),
        "folded": lambda: export.to_onnx(chain, tmp_path / "x.onnx", fold_batch_norm=True),
    }
    for module in ("torch", "keras"):
        try:
            __import__(module)
        except ImportError:
            writers.pop(module)
    for write in writers.values():
        with pytest.raises(UserError, match=rf"layer 1 'body.mine' of odd is a {kind}") as caught:
            write()
        message = str(caught.value)
        assert set(message.partition("allowed kinds: ")[2].split(", ")) == {kind.__name__ for kind in KINDS}
        assert "\n" not in message


@pytest.mark.parametrize(
    "settings",
    [
        {"input_dilation": (2, 2)},
        {"mask": np.ones((3, 3, 2, 2))},
        {"padding": "CIRCULAR"},
        {"padding": "REFLECT"},
    ],
    ids=str,
)
def test_settings_of_flax_that_no_exporter_has(settings, tmp_path):
    layer = nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0), **settings)
    chain = Chain([("body.mine", layer)], input_shape=(8, 8, 2))
    with pytest.raises(UserError, match=rf"layer 0 'body.mine' (has|sets) {next(iter(settings))}"):
        export.to_onnx(chain, tmp_path / "x.onnx")


def test_evaluation_mode_whatever_mode_the_object_is_in(tmp_path):
    model, *_ = small()
    first = export.to_onnx(model, tmp_path / "first.onnx").read_bytes()
    other = nnx.clone(model)
    other.train()
    assert export.to_onnx(other, tmp_path / "second.onnx").read_bytes() == first
    pytest.importorskip("torch")
    assert not export.to_torch(other).training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no ONNX file"),
        (lambda path: path.write_bytes(b""), "is not an ONNX file"),
        (lambda path: path.write_text("some text\n"), "is not an ONNX file"),
        (lambda path: path.mkdir(), "is not an ONNX file"),
        (lambda path: path.write_bytes(export.to_onnx(small()[0], path).read_bytes()[:-200]), "is not an ONNX file"),
        (lambda path: onnx.save(onnx.helper.make_model(onnx.GraphProto()), path), "is not an ONNX file"),
    ],
    ids=["missing", "empty", "text", "folder", "truncated", "without a graph"],
)
def test_files_that_from_onnx_cannot_take(make, message, tmp_path):
    path = tmp_path / "net.onnx"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        export.from_onnx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Conv2D", {"data_format": "channels_first"}, "data_format='channels_first'"),
        ("Conv2D", {"activation": "softsign"}, "the activation 'softsign'"),
        ("UpSampling2D", {"interpolation": "bicubic"}, "interpolation='bicubic'"),
        ("LayerNormalization", {"axis": (1, 2, 3)}, "over the axes"),
        ("ReLU", {"max_value": 6, "negative_slope": 0.1}, "max_value and negative_slope"),
        ("ReLU", {"threshold": 1.0}, "threshold"),
        ("PReLU", {}, r"shared_axes=\[1, 2\] would do"),
    ],
)
def test_keras_layers_that_are_not_ours_are_named(kind, settings, message):
    keras = pytest.importorskip("keras")
    x = inputs = keras.Input((8, 6, 4))
    sizes = {"filters": 4, "kernel_size": 3} if kind == "Conv2D" else {}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        twin = keras.Model(inputs, getattr(keras.layers, kind)(name="odd", **sizes, **settings)(x))
        with pytest.raises(UserError, match=message) as caught:
            export.from_keras(twin)
    assert "'odd'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "padding", ["SAME", slow("VALID"), slow(((0, 0), (0, 0))), ((1, 0), (0, 2)), slow(((2, 2), (1, 1)))], ids=str
)
def test_transposed_convolutions_to_keras_and_back(padding, tmp_path):
    """Kernels smaller and larger than their stride: Keras crops what we do not pad."""
    pytest.importorskip("keras")
    x = np.random.default_rng(0).normal(0, 1, (5, 4, 5, 2)).astype(np.float32)
    for flip, strides in ((False, (1, 1)), (True, (2, 1)), (True, (4, 3))):
        layer = ConvTranspose(2, 3, (3, 4), strides, padding=padding, transpose_kernel=flip, rngs=nnx.Rngs(0))
        chain = drawn(Chain([("up.0", layer), ("act", Activation("tanh"))], input_shape=(4, 5, 2)))
        ours = np.asarray(chain(x))
        assert_alive(ours)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            assert_same(export.to_keras(chain, tmp_path / "net.keras").predict_on_batch(x), ours, 1e-5)
            again = export.from_keras(tmp_path / "net.keras")
        assert list(again.names) == ["up_0", "act"]
        assert_same(np.asarray(again(x)), ours, 1e-5)
        path = export.to_onnx(again, tmp_path / "net.onnx")  # and it can be exported again
        assert_same(run_onnx(path, channels_first(x)), channels_first(ours), 1e-5)


def test_a_cropping_that_no_padding_can_express():
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 6, 4))
    images = np.random.default_rng(0).normal(0, 1, (2, 8, 6, 4)).astype(np.float32)
    for padding, crop in (("valid", 3), ("same", 1)):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            x = keras.layers.Conv2DTranspose(2, 3, padding=padding, name="odd")(inputs)
            twin = keras.Model(inputs, keras.layers.Cropping2D(crop, name="crop")(x))
            ours = export.from_keras(twin)
            assert_same(np.asarray(ours(images)), np.asarray(twin(images)), 1e-5)
        assert ours.names == ("odd", "crop")


@pytest.mark.parametrize("names", [("a.b", "a_b"), ("a", "a_padding")])
def test_names_that_are_one_in_keras(names):
    pytest.importorskip("keras")
    layers = [(name, Conv(1, 1, (3, 3), padding=1, rngs=nnx.Rngs(0))) for name in names]
    twin = export.to_keras(Chain(layers, input_shape=(6, 6, 1)))
    first, second = (name.replace(".", "_") for name in names)
    assert [layer.name for layer in twin.layers][2::2] == [first, f"{second}_1"]


def test_keras_layers_would_draw_their_weights_as_keras_does(tmp_path):
    """Nothing is drawn while they are made, but who makes the network anew from its file gets no zeros."""
    keras = pytest.importorskip("keras")
    chain = Chain([("conv", Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)))], input_shape=(6, 6, 1))
    export.to_keras(chain, tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras").get_layer("conv")
    assert isinstance(again.kernel_initializer, keras.initializers.GlorotUniform)
    assert isinstance(again.bias_initializer, keras.initializers.Zeros)
    np.testing.assert_array_equal(again.kernel, chain.layers[0].kernel[...])


@pytest.mark.slow
def test_a_keras_network_of_ones_own():
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        twin = keras.Sequential(
            [
                keras.Input((13, 10, 2)),
                keras.layers.ZeroPadding2D(((1, 0), (2, 1))),
                keras.layers.Conv2D(4, (3, 2), strides=2, activation="elu", name="first"),
                keras.layers.Conv2DTranspose(3, 3, strides=2, padding="same", use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.AveragePooling2D(3, 2, "same"),
                keras.layers.Conv2DTranspose(3, 2, strides=3),
                keras.layers.LeakyReLU(negative_slope=0.01),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(5, activation="gelu"),
            ]
        )
        x = np.random.default_rng(0).normal(0, 300, (3, 13, 10, 2)).astype(np.float32)
        theirs = np.asarray(twin(x, training=False))
        ours = export.from_keras(twin)
    assert theirs.std(axis=0).mean() > 1e-3
    assert_same(np.asarray(ours(x)), theirs, 1e-5)
