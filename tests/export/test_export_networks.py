"""Every network of the model table, alive: the same numbers in Flax, onnxruntime, PyTorch and Keras."""

from __future__ import annotations

import importlib.util

import jax
import numpy as np
import onnx
import pytest
from flax import nnx
from onnx import numpy_helper

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, PolarTransform
from flaxvision.models.files import describe_model, variables
from tests.conftest import slow
from tests.export.conftest import quick_jit, run_keras
from tests.export.networks import (
    BATCHES,
    LABELS,
    NETWORKS,
    alive,
    assert_equal_weights,
    assert_same,
    channels_first,
    counts,
    jit_of,
    run_onnx,
    scaled,
    small,
    widened,
)
from tests.export.test_export_named import NAMED

QUICK = ("polar_linear-(2,)-1", "mlp-(30,)-True", "mnist_net", "tiny_cnn", "emnist_cnn-32-47", "emnist_autoencoder")
every_network = pytest.mark.parametrize(
    "number", [n if label in QUICK else slow(n) for n, label in enumerate(LABELS)], ids=LABELS
)


def tolerance(model):
    return 2e-4 if model.kind == "vgg19" else 1e-5


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
