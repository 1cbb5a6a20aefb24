"""ONNX files of other programs: PyTorch's exporters, and graphs as tf2onnx writes them; values by onnxruntime."""

import os
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from flax import nnx
from onnx import TensorProto, helper

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import variables
from tests.conftest import slow
from tests.export.conftest import assert_alive
from tests.models.onnx_files import Writer, f32, ints, last, ours, random, theirs

pytestmark = pytest.mark.quick


# Graphs as tf2onnx writes them.


def as_tf2onnx(path, element=TensorProto.FLOAT):
    """Images channels last; convolutions between Transposes, biases added, what Keras names by scopes."""
    w = Writer(path, (9, 8, 3), opset=13, element=element)
    if element != TensorProto.FLOAT:
        w.add("Cast", to=TensorProto.FLOAT)
    w.add("Mul", np.float32(1 / 255))
    w.add("Sub", np.asarray([0.4, 0.5, 0.6], np.float32))
    w.add("Transpose", perm=[0, 3, 1, 2])
    w.add("Pad", np.asarray([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
    w.add("Conv", f32(6, 3, 3, 3), strides=[2, 2], kernel_shape=[3, 3])
    w.add("Add", f32(1, 6, 1, 1))
    w.add("Clip", np.float32(0), np.float32(6))
    skip = w.add("Conv", f32(6, 1, 3, 3), group=6, auto_pad="SAME_UPPER")
    w.add("BatchNormalization", f32(6) + 1, f32(6), f32(6), f32(6) ** 2 + 0.5, epsilon=1e-3)
    w.add("Transpose", perm=[0, 2, 3, 1])
    w.add("Relu")
    w.add("Mul", w.add("Transpose", at=skip, perm=[0, 2, 3, 1]), at=w.nodes[-2].output[0])
    w.add("Concat", w.at, axis=3)
    w.add("Transpose", perm=[0, 3, 1, 2])
    w.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
    w.add("Transpose", perm=[0, 2, 3, 1])
    w.add("Reshape", np.asarray([-1, 2 * 2 * 12], np.int64))
    w.add("MatMul", f32(48, 5))
    w.add("Add", f32(5))
    w.add("Softmax", axis=-1)
    return w.save()


@pytest.mark.parametrize("element", [TensorProto.FLOAT, slow(TensorProto.UINT8)])
def test_a_graph_as_tf2onnx_writes_it(element, tmp_path, caplog):
    path = as_tf2onnx(tmp_path / "net.onnx", element)
    model = fv.models.from_onnx(path)
    assert model.input_shape == (9, 8, 3)
    images = random.integers(0, 256, (5, 9, 8, 3)).astype(helper.tensor_dtype_to_np_dtype(element))
    wanted = theirs(path, images)
    assert_alive(wanted)
    np.testing.assert_allclose(fv.predict(model, images), wanted, atol=1e-5)
    np.testing.assert_allclose(model.preprocess.scale, 1 / 255, rtol=1e-6)
    np.testing.assert_allclose(model.preprocess.offset, (-0.4, -0.5, -0.6), rtol=1e-6)
    assert "the softmax at the end is left out" in caplog.text
    kinds = [type(layer).__name__ for layer in model.layers]
    assert not {"Rearrange", "Pad", "Scale"}.intersection(kinds)  # nothing is moved about
    trained = {name.rpartition(".")[2] for name in variables(model)}
    assert trained == {"kernel", "bias", "scale", "mean", "var"}
    again = export.from_onnx(export.to_onnx(model, tmp_path / "again.onnx", normalize=True, softmax=True))
    np.testing.assert_allclose(fv.predict(again, images), wanted, atol=1e-5)


def test_images_of_a_graph_that_flattens_them_first(tmp_path, caplog):
    w = Writer(tmp_path / "net.onnx", (6, 5, 1))
    w.add("Reshape", np.asarray([-1, 30], np.int64))
    w.add("Gemm", f32(30, 3), f32(3))
    model = fv.models.from_onnx(w.save())
    assert model.input_shape == (6, 5, 1)
    assert "its images are taken as (H, W, C), (6, 5, 1)" in caplog.text
    x = f32(4, 6, 5, 1)
    np.testing.assert_allclose(ours(model, x), theirs(w.path, x), atol=1e-5)
    other = fv.models.from_onnx(w.path, layout="NCHW")
    assert other.input_shape == (5, 1, 6)
    np.testing.assert_allclose(ours(other, last(x)), theirs(w.path, x), atol=1e-5)


def test_sizes_that_a_file_leaves_open(tmp_path):
    w = Writer(tmp_path / "net.onnx", (2, "h", "w"))
    w.add("Conv", f32(3, 2, 3, 3), kernel_shape=[3, 3])
    w.add("GlobalAveragePool")
    w.add("Flatten")
    with pytest.raises(UserError, match=r"leaves open what it takes, .*give input_shape=\(H, W, C\)"):
        fv.models.from_onnx(w.save())
    model = fv.models.from_onnx(w.path, input_shape=(7, 6, 2))
    x = f32(2, 2, 7, 6)
    np.testing.assert_allclose(ours(model, last(x)), theirs(w.path, x), atol=1e-5)
    with pytest.raises(UserError, match=r"not input_shape=\(7, 6, 3\)"):
        fv.models.from_onnx(w.path, input_shape=(7, 6, 3))


# Operators, one by one and in operator sets in which they differ.


def norm_written_out(w, *, root="Div"):
    """A LayerNorm over the last axis, as before operator set 17."""
    x = w.at
    mean = w.add("ReduceMean", at=x, axes=[-1])
    centred = w.add("Sub", mean, at=x)
    w.add("Pow", np.float32(2))
    w.add("ReduceMean", axes=[-1])
    w.add("Add", np.float32(1e-3))
    w.add("Sqrt")
    if root == "Reciprocal":
        w.add("Mul", w.add("Reciprocal"), at=centred)
    else:
        w.add("Div", w.at, at=centred)
    w.add("Mul", f32(6) + 1)
    w.add("Add", f32(6))


def gelu(w, order):
    """By Erf, multiplied in one of the orders in which exporters do."""
    x = w.at
    scaled = w.add("Div", np.float32(np.sqrt(2))) if order != "half first" else w.add("Mul", np.float32(np.sqrt(0.5)))
    one = w.add("Add", np.float32(1), at=w.add("Erf", at=scaled))
    if order == "torch":
        w.add("Mul", np.float32(0.5), at=w.add("Mul", one, at=x))
    elif order == "half first":
        w.add("Mul", one, at=w.add("Mul", np.float32(0.5), at=x))
    else:
        w.add("Mul", w.add("Mul", np.float32(0.5), at=one), at=x)


def gelu_tanh(w):
    x = w.at
    cube = w.add("Pow", np.float32(3))
    inner = w.add("Add", w.add("Mul", np.float32(0.044715), at=cube), at=x)
    tanh = w.add("Tanh", at=w.add("Mul", np.float32(np.sqrt(2 / np.pi)), at=inner))
    half = w.add("Mul", np.float32(0.5), at=x)
    w.add("Mul", w.add("Add", np.float32(1), at=tanh), at=half)


def group_norm(w):
    w.add("Reshape", ints(0, 2, -1))
    w.add("InstanceNormalization", np.ones(2, np.float32), np.zeros(2, np.float32), epsilon=1e-4)
    w.add("Reshape", ints(0, 4, 6, 5))
    w.add("Mul", f32(4, 1, 1) + 1)
    w.add("Add", f32(4, 1, 1))


def shape_of_batch(w):
    """What PyTorch writes for `x.view(x.size(0), -1)` where sizes are open."""
    x = w.at
    size = w.add("Gather", ints(0).reshape(()), at=w.add("Shape"), axis=0)
    sizes = w.add("Concat", ints(-1), at=w.add("Unsqueeze", ints(0), at=size), axis=0)
    w.add("Reshape", sizes, at=x)


def gates(w):
    x = w.at
    for op, attributes in (("Sigmoid", {}), ("HardSigmoid", {"alpha": 1 / 6}), ("HardSigmoid", {"alpha": 0.2})):
        w.add("Mul", w.add(op, at=x, **attributes), at=x)
        x = w.at
    w.add("Mul", w.add("Tanh", at=w.add("Softplus")), at=x)


def branches(w):
    x = w.at
    first, second = (w.add("Conv", f32(4, 4, 1, 1), f32(4), at=x) for _ in range(2))
    w.add("Sub", second, at=w.add("Sum", second, x, at=first))
    wide = w.at
    w.add("Mul", w.add("GlobalMaxPool"), at=wide)
    w.add("Concat", x, at=w.at, axis=1)
    parts = w.add("Split", ints(3, 5), outputs=2, axis=1)
    w.add("Slice", ints(1, 0), ints(6, 2**40), ints(2, 3), ints(2, 1), at=f"{parts}_1")


MAPS = {  # what is done to maps (4, 6, 5), or with "vector" to vectors (6,); in operator set 13 unless told otherwise
    "pads and strides": lambda w: w.add("Conv", f32(4, 2, 3, 2), f32(4), pads=[1, 0, 0, 1], strides=[2, 1], group=2),
    "dilation": lambda w: w.add("Conv", f32(2, 4, 2, 2), dilations=[2, 1], pads=[1, 0, 1, 1]),
    "odd padding before": lambda w: w.add("Conv", f32(2, 4, 2, 2), auto_pad="SAME_LOWER"),
    "transposed": lambda w: w.add(
        "ConvTranspose", f32(4, 2, 3, 2), f32(2), strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0]
    ),
    "pools": lambda w: w.add(
        "AveragePool",
        kernel_shape=[3, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
        at=w.add("MaxPool", kernel_shape=[2, 2]),
    ),
    "ceil": lambda w: w.add("MaxPool", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, pads=[0, 1, 0, 1]),
    "padded pool": lambda w: w.add("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    "reductions": lambda w: w.add("ReduceMax", axes=[1], keepdims=0, at=w.add("ReduceMean", axes=[-1], keepdims=0)),
    "sums": lambda w: w.add("ReduceSum", ints(2, 3), keepdims=0),
    "upsampled": lambda w: w.add(
        "Resize",
        "",
        np.asarray([1, 1, 2, 3], np.float32),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "clips": lambda w: w.add("Min", np.float32(0.9), at=w.add("Clip", np.float32(-0.4), np.float32(1.2))),
    "activations": lambda w: [w.add(op) for op in ("LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Neg")],
    "slopes": lambda w: w.add("PRelu", f32(1), at=w.add("PRelu", f32(4, 1, 1))),
    "gates": gates,
    "gelu, torch": lambda w: gelu(w, "torch"),
    "gelu, half first": lambda w: gelu(w, "half first"),
    "gelu, half to the gate": lambda w: gelu(w, "gate"),
    "gelu by tanh": gelu_tanh,
    "group norm": group_norm,
    "instance norm": lambda w: w.add("InstanceNormalization", f32(4) + 1, f32(4)),
    "branches": branches,
    "shape of the batch": shape_of_batch,
    "depth to space": lambda w: w.add("DepthToSpace", blocksize=2),
    "space to depth": lambda w: w.add("SpaceToDepth", blocksize=1, at=w.add("DepthToSpace", blocksize=2, mode="CRD")),
    "channel shuffle": lambda w: w.add(
        "Reshape",
        ints(0, 4, 6, 5),
        at=w.add("Transpose", perm=[0, 2, 1, 3, 4], at=w.add("Reshape", ints(0, 2, 2, 6, 5))),
    ),
    "squeezed": lambda w: w.add("Unsqueeze", ints(2, 3), at=w.add("Squeeze", ints(2, 3), at=w.add("GlobalMaxPool"))),
    "flattened last": lambda w: w.add(
        "MatMul", f32(120, 3), at=w.add("Reshape", ints(-1, 120), at=w.add("Transpose", perm=[0, 2, 3, 1]))
    ),
    "normalized flat, last": lambda w: w.add(
        "BatchNormalization",
        f32(120) + 1,
        f32(120),
        f32(120),
        f32(120) ** 2 + 1,
        at=w.add("Reshape", ints(-1, 120), at=w.add("Transpose", perm=[0, 2, 3, 1])),
    ),
    "a number for each channel": lambda w: w.add(
        "Mul", f32(4, 1, 1), at=w.add("Div", f32(1, 4, 1, 1) + 3, at=w.add("Relu"))
    ),
    "softmax over channels": lambda w: w.add("Relu", at=w.add("Softmax", axis=1)),
    "vector: layer norm": norm_written_out,
    "vector: layer norm by a reciprocal": lambda w: norm_written_out(w, root="Reciprocal"),
    "vector: alpha and beta": lambda w: w.add("Gemm", f32(6, 1), f32(1, 1), alpha=0.5, beta=2.0),
    "vector: one output": lambda w: w.add("Sigmoid", at=w.add("Add", f32(1), at=w.add("MatMul", f32(6, 1)))),
    "vector: squares": lambda w: w.add("Pow", np.float32(3), at=w.add("Tanh", at=w.add("Pow", np.float32(2)))),
}

LATER = {  # the same, by operator set
    ("gelu", 20): lambda w: w.add("Gelu", approximate="tanh", at=w.add("Gelu")),
    ("hard swish", 14): lambda w: w.add("HardSwish"),
    ("swish", 24): lambda w: w.add("Swish", alpha=1.5),
    ("layer norm", 17): lambda w: w.add("LayerNormalization", f32(5) + 1, f32(5), axis=-1, epsilon=1e-3),
    ("whole maps", 17): lambda w: w.add(
        "LayerNormalization", np.ones((4, 6, 5), np.float32), np.zeros((4, 6, 5), np.float32), axis=1
    ),
    ("group norm", 21): lambda w: w.add("GroupNormalization", f32(4) + 1, f32(4), num_groups=2),
    ("mean by an input", 18): lambda w: w.add("ReduceMean", ints(2, 3), keepdims=1),
    ("mish", 18): lambda w: w.add("Mish"),
    ("pad by axes", 18): lambda w: w.add("Pad", ints(1, 0, 1, 2), np.float32(0.5), ints(1, 3)),
    ("split in parts", 18): lambda w: w.add("Relu", at=w.add("Split", axis=1, num_outputs=2, outputs=2)),
    ("clip by attributes", 9): lambda w: w.add("Clip", min=0.0, max=6.0),
    ("slice by attributes", 9): lambda w: w.add("Slice", starts=[1, -3], ends=[3, 9], axes=[1, 2]),
    ("pads by attributes", 9): lambda w: w.add("Pad", pads=[0, 1, 0, 0, 0, 0, 2, 0], value=0.5),
    ("upsample", 9): lambda w: w.add("Upsample", np.asarray([1, 1, 2, 2], np.float32)),
    ("bilinear", 13): lambda w: w.add("Resize", "", np.asarray([1, 1, 1.5, 2], np.float32), mode="linear"),
    ("dropout", 9): lambda w: w.add("Relu", at=w.add("Dropout", ratio=0.25)),
    ("softmax of all", 9): lambda w: w.add("Relu", at=w.add("Softmax", axis=1, at=w.add("Flatten"))),
}

QUICK = ("group norm", "branches")


def written(name, operators, path, opset):
    w = Writer(path, (6,) if name.startswith("vector") else (4, 6, 5), opset=opset)
    operators(w)
    return w.save()


@pytest.mark.parametrize(
    ("name", "opset"),
    [(name, 13) if name in QUICK else slow(name, 13) for name in MAPS] + [slow(name, opset) for name, opset in LATER],
)
def test_operators(name, opset, tmp_path):
    path = written(name, LATER.get((name, opset)) or MAPS[name], tmp_path / "net.onnx", opset)
    model = fv.models.from_onnx(path)
    x = f32(3, *((6,) if name.startswith("vector") else (4, 6, 5)), scale=1)
    wanted, found = theirs(path, x), ours(model, last(x))
    if name == "vector: one output":
        found = 1 / (1 + np.exp(-found))  # the sigmoid is left out
    assert wanted.std() > 1e-3
    shaped = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
    np.testing.assert_allclose(shaped.reshape(wanted.shape), wanted, atol=1e-5)


# PyTorch's exporters.


@pytest.fixture(scope="module")
def block(torch):
    """A network of what PyTorch's exporters write in many nodes, with statistics that are not those of its start."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
            self.gate = nn.Linear(8, 8)
            self.group, self.layer = nn.GroupNorm(2, 8), nn.LayerNorm(8)
            self.gelu, self.tanh, self.swish, self.mish = nn.GELU(), nn.GELU("tanh"), nn.Hardswish(), nn.Mish()
            self.drop, self.fc = nn.Dropout(0.25), nn.Linear(8, 5)

        def forward(self, x):
            x = self.stem(x)
            y = self.swish(self.body(x))
            y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
            x = self.tanh(self.gelu(self.group(x + y)))
            x = self.mish(nn.functional.interpolate(x, scale_factor=2))
            x = nn.functional.adaptive_avg_pool2d(x, 1)
            x = self.layer(x.view(x.size(0), -1))
            return nn.functional.log_softmax(self.fc(self.drop(x)), 1)

    torch.manual_seed(0)
    made = Block().eval()
    for norm in (made.stem[1], made.body[1]):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
    return made


def exported(torch, module, path, **settings):
    """By the exporter of TorchScript, which Python's warnings advise against."""
    settings = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(2, 3, 8, 8),), str(path), **settings)
    return path


@pytest.mark.parametrize(
    ("opset", "folds"), [slow(9, False), slow(11, True), (13, True), slow(17, False), slow(20, True)]
)
def test_pytorchs_torchscript_exporter(torch, block, opset, folds, tmp_path, caplog):
    whole = {} if folds else {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    model = fv.models.from_onnx(exported(torch, block, tmp_path / "net.onnx", opset_version=opset, **whole))
    x = f32(4, 3, 8, 8, scale=1)
    with torch.no_grad():
        wanted = block(torch.from_numpy(x)).exp().numpy()
    assert_alive(wanted)
    np.testing.assert_allclose(fv.predict(model, last(x)), wanted, atol=1e-5)
    assert "the log_softmax at the end is left out" in caplog.text
    kinds = {name: type(layer).__name__ for name, layer in model.named_layers()}
    expected = {"stem.0": "Conv", "body.0": "Conv", "gate": "Linear", "layer": "LayerNorm", "fc": "Linear"}
    expected |= {} if folds else {"stem.1": "BatchNorm", "body.1": "BatchNorm", "group": "GroupNorm"}
    assert expected.items() <= kinds.items()
    activations = [layer.function for layer in model.layers if type(layer).__name__ == "Activation"]
    assert sorted(activations) == ["gelu", "gelu_tanh", "hardswish", "mish", "relu", "sigmoid"]
    if not folds:  # the numbers are the module's own
        given = {name: value.detach().numpy() for name, value in block.state_dict().items()}
        found = variables(model)
        np.testing.assert_array_equal(found["stem.0.kernel"], given["stem.0.weight"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(found["body.1.var"], given["body.1.running_var"])
        np.testing.assert_array_equal(found["group.scale"], given["group.weight"])
        np.testing.assert_array_equal(found["fc.kernel"], given["fc.weight"].T)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20])
def test_pytorchs_exporter_by_torch_export(torch, block, opset, tmp_path):
    pytest.importorskip("onnxscript")
    open_batch = ({0: torch.export.Dim("n")},)
    settings = {"dynamo": True, "dynamic_axes": None, "dynamic_shapes": open_batch, "verbose": False}
    path = exported(torch, block, tmp_path / "net.onnx", opset_version=opset, external_data=False, **settings)
    model = fv.models.from_onnx(path)
    x = f32(4, 3, 8, 8, scale=1)
    with torch.no_grad():
        np.testing.assert_allclose(fv.predict(model, last(x)), block(torch.from_numpy(x)).exp().numpy(), atol=1e-5)
    assert {"stem.0", "body.0", "gate", "layer", "fc"} <= set(model.names)


def test_weights_train_again(tmp_path):
    w = Writer(tmp_path / "net.onnx", (2, 4, 4))
    w.add("Relu", at=w.add("Add", f32(3, 1, 1), at=w.add("Conv", f32(3, 2, 2, 2))))
    w.add("Gemm", f32(3, 2), f32(2), at=w.add("Flatten", at=w.add("GlobalAveragePool")))
    model = fv.models.from_onnx(w.save())
    assert sorted(variables(model)) == ["conv.bias", "conv.kernel", "gemm.bias", "gemm.kernel"]
    graphdef, parameters = nnx.split(model)
    x = jax.numpy.asarray(f32(2, 4, 4, 2))
    gradient = jax.jit(jax.grad(lambda p: (nnx.merge(graphdef, p)(x) ** 2).sum()))(parameters)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


KERAS = """
import sys, warnings
import keras, numpy as np
warnings.simplefilter("ignore")
L = keras.layers
x = entry = keras.Input((12, 12, 3))
x = L.BatchNormalization()(L.Conv2D(6, 3, strides=2, padding="same")(x))
y = L.Activation("gelu")(L.DepthwiseConv2D(3, padding="same")(L.ReLU()(x)))
x = L.Flatten()(L.Concatenate()([L.MaxPooling2D(2)(L.Add()([x, y])), L.AveragePooling2D(2)(x)]))
model = keras.Model(entry, L.Dense(5, activation="softmax")(L.Dense(7, activation="relu")(L.Dropout(0.3)(x))))
rng = np.random.default_rng(0)
for weight in model.weights:
    weight.assign(weight + 0.1 * rng.random(weight.shape, np.float32))
images = rng.random((4, 12, 12, 3), np.float32)
np.savez("keras.npz", images=images, outputs=model(images).detach().numpy())
model.export("keras.onnx", format="onnx", verbose=False)
"""


@pytest.mark.slow
def test_kerass_own_export_is_read(tmp_path):
    """Keras exports to ONNX through PyTorch, without TensorFlow."""
    pytest.importorskip("keras")
    pytest.importorskip("torch")
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run([sys.executable, "-c", KERAS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model = fv.models.from_onnx(tmp_path / "keras.onnx")
    with np.load(tmp_path / "keras.npz") as held:
        np.testing.assert_allclose(jax.nn.softmax(model(held["images"])), held["outputs"], atol=1e-5)
