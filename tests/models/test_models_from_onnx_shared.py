"""ONNX graphs that apply one layer twice; values by onnxruntime."""

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.models.files import variables
from tests.conftest import slow
from tests.models.onnx_files import Writer, f32, ours, theirs

pytestmark = pytest.mark.quick


def gemm(w):
    kernel, bias = w.constant(f32(4, 4)), w.constant(f32(4))
    for _ in range(2):
        w.add("Relu", at=w.add("Gemm", kernel, bias))


def matmul_and_add(w):
    """As tf2onnx writes a Dense."""
    kernel, bias = w.constant(f32(4, 4)), w.constant(f32(4))
    for _ in range(2):
        w.add("Relu", at=w.add("Add", bias, at=w.add("MatMul", kernel)))


def norm_in_parts(w):
    ones, zeros = w.constant(np.ones(4, np.float32)), w.constant(np.zeros(4, np.float32))
    scale, bias = w.constant(f32(4)), w.constant(f32(4))
    for _ in range(2):
        x = w.add("Mul", scale, at=w.add("LayerNormalization", ones, zeros))
        w.add("Relu", at=w.add("Add", bias, at=x))


def another_bias(w):
    kernel = w.constant(f32(4, 4))
    for _ in range(2):
        w.add("Relu", at=w.add("Add", f32(4), at=w.add("MatMul", kernel)))


def a_bias_once(w):
    kernel = w.constant(f32(4, 4))
    w.add("Relu", at=w.add("Add", f32(4), at=w.add("MatMul", kernel)))
    w.add("MatMul", kernel)


def a_bias_at_last(w):
    kernel = w.constant(f32(4, 4))
    w.add("Relu", at=w.add("MatMul", kernel))
    w.add("Add", f32(4), at=w.add("MatMul", kernel))


ONE = {gemm: "gemm", matmul_and_add: "matmul", norm_in_parts: "layernormalization"}  # by the layer's name


@pytest.mark.parametrize(
    "write", [gemm, matmul_and_add, norm_in_parts, *map(slow, (another_bias, a_bias_once, a_bias_at_last))]
)
def test_a_layer_that_stands_twice(write, tmp_path):
    w = Writer(tmp_path / "net.onnx", (4,))
    write(w)
    model = fv.models.from_onnx(w.save())
    x = f32(3, 4)
    wanted = theirs(w.path, x)
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(ours(model, x), wanted, atol=1e-5)
    if write in ONE:
        assert {name.partition(".")[0] for name in variables(model)} == {ONE[write]}
        assert [node.layer for node in model.nodes].count(ONE[write]) == 2
