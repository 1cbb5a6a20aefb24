"""ONNX files of ours that somebody changed: read as what they are now; values by onnxruntime."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import export
import flaxvision as fv
from flaxvision.layers import Preprocess


def _with_tanh(proto, folder):
    for node in proto.graph.node:
        node.op_type = "Tanh" if node.op_type == "Relu" else node.op_type


def _without_head(proto, folder):
    head = proto.graph.node.pop()
    proto.graph.output[0].name = head.input[0]
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def _scaled_otherwise(proto, folder):
    tensor = next(each for each in proto.graph.initializer if each.name == "preprocess.scale")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 2, tensor.name))


def _fused(proto, folder):
    """Each BatchNorm in its convolution, by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    proto.graph.CopyFrom(onnx.load(folder / "fused.onnx").graph)


@pytest.mark.parametrize("change", [_with_tanh, _without_head, _scaled_otherwise, _fused])
def test_a_file_that_was_changed_is_read_by_its_graph(change, tmp_path, caplog):
    network = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=3)
    network.preprocess = Preprocess(1 / 127.5, -1.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 1)).astype(np.uint8)
    path = export.to_onnx(network, tmp_path / "net.onnx", normalize=True)
    proto = onnx.load(path)
    onnx.save(proto, path)
    np.testing.assert_array_equal(fv.predict(export.from_onnx(path), images), fv.predict(network, images))
    assert not caplog.text
    change(proto, tmp_path)
    onnx.save(proto, path)
    again = export.from_onnx(path)
    assert "net.onnx was changed since flaxvision wrote it: read by its graph alone" in caplog.text
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"input": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    given = np.asarray(again(again.preprocess(jnp.asarray(images), jnp.dtype("float32"))))
    np.testing.assert_allclose(given, wanted, atol=1e-4 * np.abs(wanted).max())
