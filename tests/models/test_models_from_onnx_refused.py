"""ONNX files that cannot be read are named in one line."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.onnx_reader.table import TABLE
from tests.models.onnx_files import Writer, f32, ints, one

pytestmark = pytest.mark.quick


def product_of_two(path):
    w = Writer(path, (6,))
    first, second = w.add("Relu"), w.add("Tanh", at="x")
    w.add("Add", w.add("MatMul", w.add("Transpose", at=second, perm=[1, 0]), at=first), at=first)
    return w.save()


def two_outputs(path):
    proto = onnx.load(one("Relu")(path))
    proto.graph.output.append(proto.graph.input[0])
    onnx.save(proto, path)
    return path


def claiming(change):
    """A file whose weights, attributes or input claim what `change` writes into it."""

    def write(path):
        w = Writer(path, (4, 6, 5))
        w.add("Conv", f32(2, 4, 3, 3), f32(2))
        proto = onnx.load(w.save())
        change(proto.graph)
        onnx.save(proto, path)
        return path

    return write


def a_large_batch(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**31


def a_large_image(graph):
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def a_large_kernel(graph):
    graph.initializer[0].dims[0] = 2**40


def weights_beside(graph):
    graph.initializer[0].ClearField("raw_data")
    graph.initializer[0].data_location = TensorProto.EXTERNAL
    graph.initializer[0].external_data.add(key="location", value="gone.data")


def constant_of(*shape):
    """A constant of that shape, which is added to the input."""

    def write(path):
        w = Writer(path, (4, 6, 5))
        made = w.add("ConstantOfShape", w.constant(ints(*shape)), at=())
        w.add("Relu", at=w.add("Add", made, at="x"))
        return w.save()

    return write


def many_nodes(path):
    w = Writer(path, (3,))
    w.nodes = [helper.make_node("Relu", [f"r{n}" if n else "x"], [f"r{n + 1}"]) for n in range(5001)]
    w.at = "r5001"
    return w.save()


REFUSED = {
    "recurrent": (one("LSTM", f32(1, 8, 5), f32(1, 8, 2), hidden_size=2, shape=(4, 5)), "an LSTM cannot .*: recurrent"),
    "quantized": (
        one("QuantizeLinear", np.float32(0.1), np.uint8(0)),
        "node 'QuantizeLinear0': a QuantizeLinear cannot be read as a flaxvision network: .* before quantization",
    ),
    "another domain": (one("FusedConv", f32(2, 4, 3, 3), domain="com.microsoft"), "a com.microsoft.FusedConv cannot"),
    "an odd function": (one("Erf"), "'Erf0': an Erf cannot be read as a flaxvision network: convolutions, linear"),
    "two values": (product_of_two, "a Transpose that moves the examples"),
    "examples joined": (one("Reshape", ints(-1, 60)), r"a Reshape from \('N', 4, 6, 5\) to \(-1, 60\)"),
    "bicubic": (one("Resize", "", np.asarray([1, 1, 2, 2], np.float32), mode="cubic"), "mode=nearest to a whole mul"),
    "a volume": (one("Conv", f32(2, 4, 3), shape=(4, 6)), "a Conv over 1 axes"),
    "round": (one("Pad", ints(0, 0, 1, 1, 0, 0, 1, 1), mode="wrap"), "mode=constant, reflect or edge would do"),
    "axes of a video": (one("Relu", shape=(2, 4, 6, 5)), r"takes \('N', 2, 4, 6, 5\): images"),
    "two outputs": (two_outputs, "has 2 outputs .'Relu0', 'x'.: a graph from one image to one output is read"),
    "nothing": (one("Identity"), "a model without layers cannot be read"),
    "an early operator set": (one("Relu", opset=8), "is of operator set 8: 9 to 24 are read; .*version_converter"),
    "no such operator": (one("Rule"), "is no valid ONNX graph .No Op registered for Rule"),
    "many nodes": (many_nodes, "has 5001 nodes: up to 5000 are read"),
    "a large batch": (claiming(a_large_batch), "takes 2147483648 examples a call: export it for one"),
    "a large image": (claiming(a_large_image), "its input would hold .* numbers for one example"),
    "a large kernel": (claiming(a_large_kernel), "is damaged .'c0' claims the shape .1099511627776, 4, 3, 3."),
    "weights beside that are gone": (claiming(weights_beside), "keeps its weights beside it, in gone.data"),
    "a large constant": (constant_of(2**20, 2**20), "'ConstantOfShape0' makes a constant of shape .1048576, 1048576."),
    "a constant of less than nothing": (constant_of(-5), "makes a constant of shape .-5,."),
    "large maps": (
        one("Upsample", np.asarray([1, 1, 2**20, 2**20], np.float32), opset=9),
        "layer 'upsample' would hold .* numbers for one example",
    ),
    "wide windows": (
        one("MaxPool", kernel_shape=[2, 2**40], auto_pad="SAME_UPPER"),
        "layer .maxpool. would hold .* numbers for one example",
    ),
    "wide margins": (one("Pad", ints(0, 0, 2**40, 0, 0, 0, 0, 0)), "layer 'pad' would hold .* numbers for one"),
    "not finite": (one("Conv", np.full((2, 4, 3, 3), np.nan, np.float32)), "gives no finite number on random examples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(case, tmp_path):
    write, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as caught:
        fv.models.from_onnx(write(tmp_path / "net.onnx"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_weights_beside_a_file_that_are_a_link(link, tmp_path):
    """As in Hugging Face's cache, which onnx does not read."""
    proto = onnx.load(one("Conv", f32(2, 4, 3, 3))(tmp_path / "net.onnx"))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    fv.models.from_onnx(tmp_path / "net.onnx")
    (tmp_path / "w.bin").rename(tmp_path / "blob")
    link(tmp_path / "blob", tmp_path / "w.bin")
    with pytest.raises(UserError, match=r"in w.bin, which cannot be read \(.+\): it is a link, .* by cp -L$"):
        fv.models.from_onnx(tmp_path / "net.onnx")


def test_a_difference_is_an_error(tmp_path, monkeypatch):
    path = one("Relu")(tmp_path / "net.onnx")
    monkeypatch.setitem(TABLE.handlers, "Relu", TABLE.handlers["Tanh"])
    with pytest.raises(UserError, match="the network that was read differs from it on random examples by"):
        fv.models.from_onnx(path)
