"""ONNX files written by hand, and what they give elsewhere and here."""

import jax
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)


def f32(*shape, scale=0.5):
    return random.normal(0, scale, shape).astype(np.float32)


class Writer:
    """Writes a graph node by node, each on the value before it."""

    def __init__(self, path, shape, *, opset=17, element=TensorProto.FLOAT, name="g"):
        self.path, self.shape, self.opset, self.element, self.name = path, shape, opset, element, name
        self.nodes, self.constants, self.at = [], {}, "x"

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, op, *inputs, at=None, outputs=1, domain="", **attributes):
        """Arrays are constants, text a value; the value at hand comes first."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        made = [f"{op}{len(self.nodes)}" if n == 0 else f"{op}{len(self.nodes)}_{n}" for n in range(outputs)]
        taken = [self.at if at is None else at, *names] if at != () else names
        self.nodes.append(helper.make_node(op, taken, made, name=made[0], domain=domain, **attributes))
        self.at = made[0]
        return self.at

    def save(self, out=None, examples="n"):
        proto = helper.make_model(
            helper.make_graph(
                self.nodes,
                self.name,
                [helper.make_tensor_value_info("x", self.element, [examples, *self.shape])],
                [helper.make_tensor_value_info(out or self.at, TensorProto.FLOAT, None)],
                [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
            ),
            opset_imports=[helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=10,
        )
        onnx.save(proto, self.path)
        return self.path


def theirs(path, inputs):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": inputs})[0]


def ours(model, inputs):
    """What a model gives for stored inputs, without `predict`'s softmax."""
    return np.asarray(model(model.preprocess(jax.numpy.asarray(inputs), jax.numpy.dtype(jax.numpy.float32))))


def last(x):
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def ints(*values):
    return np.asarray(values, np.int64)


def one(op, *inputs, shape=(4, 6, 5), opset=13, **attributes):
    def write(path):
        w = Writer(path, shape, opset=opset)
        w.add(op, *inputs, **attributes)
        return w.save()

    return write
