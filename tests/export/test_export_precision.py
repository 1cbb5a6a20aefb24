"""ONNX files of half precision and of 8 bits: what is in them, and what they still get right."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from onnx import numpy_helper
from safetensors.numpy import load_file

import export
import flaxvision as fv
from export.__main__ import main
from flaxvision.errors import UserError
from flaxvision.layers import Chain, GroupNorm, LayerNorm, Linear, Preprocess
from tests.conftest import made_dataset
from tests.export.conftest import without_peers

pytestmark = pytest.mark.quick

FLOAT, HALF, BYTES = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8


@pytest.fixture(scope="module")
def trained():
    """A network whose numbers are as large as those of a trained one."""
    model = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=4)
    model.preprocess, model.classes = Preprocess(1 / 127.5, -1.0), ("0", "1", "2", "3")
    model.layers[-1].kernel[...] = 8 * model.layers[-1].kernel[...]
    return model


@pytest.fixture(scope="module")
def data(trained):
    """Images whose class is what the network takes them for: it gets all of them right."""
    images = made_dataset((12, 12, 1), 4, train=256, test=130)
    labels = fv.predict(trained, images.test.images).argmax(1).astype(np.int32)
    assert len(np.unique(labels)) > 1
    return dataclasses.replace(images, test=fv.data.Split(images.test.images, labels))


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    parts = np.split(x, len(x) // size) if isinstance(size, int) else [x]
    return np.concatenate([session.run(None, {"input": part})[0] for part in parts])


@pytest.mark.parametrize("options", [{"opset": 13, "batch": 13}, {"layout": "NHWC"}])
def test_half_the_size_and_nearly_the_numbers(options, trained, data, tmp_path):
    whole = export.to_onnx(trained, tmp_path / "whole.onnx", normalize=True, softmax=True)
    path = export.to_onnx(trained, tmp_path / "half.onnx", normalize=True, softmax=True, precision="float16", **options)
    proto = onnx.load(path)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    assert {weights[name].data_type for name in ("conv0.weight", "fc.bias")} == {HALF}
    assert weights["preprocess.scale"].data_type == FLOAT  # pixels are scaled before they lose digits
    for name, tensor in load_file(export.save_torch(trained, tmp_path / "torch.safetensors")).items():
        if name in weights:  # all but counts of batches
            np.testing.assert_array_equal(numpy_helper.to_array(weights[name]), tensor.astype(np.float16))
    ends = [value.type.tensor_type.elem_type for value in (proto.graph.input[0], proto.graph.output[0])]
    assert ends == [BYTES, FLOAT]
    assert (proto.opset_import[0].version, proto.ir_version) == ((13, 7) if "opset" in options else (17, 8))
    assert path.stat().st_size < 0.75 * whole.stat().st_size
    fed = data.test.images if "layout" in options else data.test.images.transpose(0, 3, 1, 2)
    given = run(path, np.ascontiguousarray(fed))
    np.testing.assert_allclose(given, fv.predict(trained, data.test.images), atol=5e-3)
    assert given.dtype == np.float32


def test_what_half_precision_cannot_hold_is_named(tmp_path):
    model = fv.models.create("linear", input_shape=(2,), num_classes=3)
    model.layers[-1].bias[...] = np.float32(70_000) + model.layers[-1].bias[...]
    with pytest.raises(UserError, match=r"bias of linear holds 7e\+04, and float16 at most 65504"):
        export.to_onnx(model, tmp_path / "net.onnx", precision="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"normalize": True, "softmax": True, "opset": 13, "batch": 13}])
def test_eight_bits(options, trained, data, tmp_path):
    calibration = export.calibration_of(data)
    np.testing.assert_array_equal(calibration, data.train.images)  # fewer than 512: all of them, in order
    path, again = (
        export.to_onnx(trained, tmp_path / f"{i}.onnx", precision="int8", calibration=calibration, **options)
        for i in range(2)
    )
    assert path.read_bytes() == again.read_bytes()
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.opset_import[0].version, proto.ir_version) == ((13, 7) if options else (17, 8))
    assert [each.domain for each in proto.opset_import] == [""]  # every runtime reads it
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(about["classes"]) == list(data.classes)
    assert not [key for key in about if key.startswith(("onnx.", "flaxvision."))]
    kinds = {node.op_type for node in proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert "BatchNormalization" not in kinds
    softened = [node for node in proto.graph.node if node.op_type == "Softmax"]
    assert [node.output[0] for node in softened] == (["probabilities"] if options else [])  # is not rounded
    kernels = [t for t in map(numpy_helper.to_array, proto.graph.initializer) if t.dtype == np.int8 and t.ndim == 4]
    assert len(kernels) == 2
    assert all(64 >= np.abs(kernel).max() > 30 for kernel in kernels)  # seven bits, well used
    images = data.test.images if options else np.asarray(trained.preprocess(data.test.images, np.dtype("float32")))
    scores = run(path, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    right = (scores.argmax(1) == data.test.labels).mean()
    assert right >= 0.95  # of what the whole network gets right
    if options:
        np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", [LayerNorm, GroupNorm])
def test_what_divides_by_a_deviation_keeps_its_digits(kind, tmp_path):
    """A variance and an epsilon in eight bits would be off by more than the whole output."""
    norm = GroupNorm(2, 8) if kind is GroupNorm else LayerNorm(8)
    model = Chain([("norm", norm), ("fc", Linear(8, 3, rngs=nnx.Rngs(0)))], input_shape=(8,))
    random = np.random.default_rng(0)
    examples = (random.normal(0, 1, (64, 8)) * 10 ** random.uniform(-2, 2, (64, 1))).astype(np.float32)
    whole = run(export.to_onnx(model, tmp_path / "whole.onnx", opset=13), examples)
    settings = {"opset": 13, "precision": "int8", "calibration": examples}  # where a LayerNorm is several nodes
    small = run(export.to_onnx(model, tmp_path / "small.onnx", **settings), examples)
    assert 0 < np.abs(small - whole).max() < 0.1 * np.abs(whole).max()


def test_the_parity_table_says_what_it_costs(trained, data, tmp_path, capsys, monkeypatch):
    without_peers(monkeypatch)
    table = export.compare(trained, data, precisions=["float16", "int8"])
    assert [row.runtime for row in table.rows] == ["Flax", "ONNX", "ONNX float16", "ONNX int8"]
    accuracy = [row.accuracy for row in table.rows]
    assert accuracy[:2] == [1, 1]
    assert min(accuracy[2:]) >= 0.95
    differences = [row.max_relative for row in table.rows]
    assert differences[0] == 0 < differences[1] < 1e-5 < differences[2] < 1e-2 < differences[3] < 0.2
    sizes = [row.file_bytes for row in table.rows]
    assert sizes[2] < 0.75 * sizes[1]

    path = fv.save_model(trained, tmp_path / "net.safetensors")
    monkeypatch.setattr("flaxvision.sweep.inputs.load_dataset", lambda *_: data)
    assert main(["onnx", str(path), "--precision", "int8", "--dataset", "made"]) == 0
    written = tmp_path / "net.int8.onnx"
    assert capsys.readouterr().out.strip() == str(written)
    expected = export.to_onnx(trained, tmp_path / "e.onnx", precision="int8", calibration=export.calibration_of(data))
    assert written.read_bytes() == expected.read_bytes()
    with pytest.raises(
        UserError, match=r"DequantizeLinear .*: export the model in floating point, before quantization"
    ):
        export.from_onnx(written)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, r"give calibration=export\.calibration_of\(data\)"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"calibration": np.zeros((1, 12, 12, 1), np.uint8)}, "calibration has no effect with precision=None"),
        ({"precision": "int8", "calibration": np.zeros((0, 12, 12, 1), np.uint8)}, "calibration is empty"),
        ({"precision": "int8", "calibration": np.zeros((1, 9, 9, 1), np.uint8)}, "takes examples of shape"),
        ({"precision": "int8", "calibration": np.full((1, 12, 12, 1), 0.5)}, "seem scaled"),
    ],
)
def test_what_does_not_go_together(options, message, trained, tmp_path):
    with pytest.raises(UserError, match=message):
        export.to_onnx(trained, tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())
