"""The networks that the field knows by name: Flax, the hand-written reference, ONNX and Keras give the same numbers."""

from __future__ import annotations

import functools

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

import export
import flaxvision as fv
from flaxvision.layers import BatchNorm, Context
from flaxvision.models._state_dict import correspondence
from flaxvision.models.files import describe_model, variables
from tests.conftest import slow
from tests.export.conftest import run_keras

pytestmark = [
    pytest.mark.quick,
    pytest.mark.filterwarnings(
        "ignore:Using padding='same' with even kernel lengths"
    ),  # PyTorch's, of ConvMixer's even
]
SMALL = {"input_shape": (16, 16, 3), "num_classes": 5}
NAMED = [  # call, arguments that keep it small
    ("lenet5", {}),
    ("lenet5", {"input_shape": (32, 36, 3), "activation": "relu"}),
    ("resnet9", {**SMALL, "width": 4}),
    ("resnet20", SMALL),
    ("resnet20", {**SMALL, "shortcut": "B"}),
    ("resnet32", SMALL),
    ("resnet44", SMALL),
    ("resnet56", SMALL),
    ("resnet18", {**SMALL, "stem": "cifar", "width": 4}),
    ("resnet18", {"input_shape": (33, 41, 1), "num_classes": 5, "width": 4}),
    ("resnet34", {**SMALL, "stem": "cifar", "width": 4}),
    ("resnet50", {**SMALL, "stem": "cifar", "width": 4}),
    ("resnet50", {"input_shape": (40, 40, 3), "num_classes": 5, "width": 4}),
    ("preact_resnet18", {**SMALL, "width": 4}),
    ("wide_resnet", {**SMALL, "depth": 10, "width": 2}),
    ("vgg11", {"input_shape": (32, 32, 3), "num_classes": 5, "pooled": 1, "hidden": (12, 8)}),
    ("vgg11", {"input_shape": (32, 64, 3), "num_classes": 5, "pooled": 2, "hidden": (), "batch_norm": True}),
    ("vgg13", {"input_shape": (64, 128, 1), "num_classes": 5, "pooled": 2, "hidden": (8,)}),
    ("vgg16", {"input_shape": (32, 32, 3), "num_classes": 5, "pooled": 1, "hidden": (8,), "batch_norm": True}),
    ("mobilenet_v2", {**SMALL, "stem": "cifar", "width_factor": 0.25}),
    ("mobilenet_v2", {"input_shape": (48, 48, 3), "num_classes": 5, "width_factor": 0.4}),
    ("densenet", {**SMALL, "depth": 16, "growth": 4}),
    ("densenet", {**SMALL, "depth": 10, "growth": 4, "bottleneck": False}),
    ("densenet", {"input_shape": (32, 32, 3), "num_classes": 5, "depth": 121, "growth": 4, "stem": "imagenet"}),
    ("convmixer", {**SMALL, "width": 8, "depth": 2}),
    ("convmixer", {"input_shape": (21, 21, 1), "num_classes": 5, "width": 8, "depth": 2, "kernel": 4, "patch": 3}),
    ("airbench94", {**SMALL, "width": 4}),
]
DROPPING = {"wide_resnet", "vgg11", "vgg13", "vgg16", "mobilenet_v2", "densenet"}
LABELS = ["-".join([name, *(str(v) for k, v in sizes.items() if k != "num_classes")]) for name, sizes in NAMED]
QUICK = {("airbench94", "width")}
every = pytest.mark.parametrize(
    "number",
    [n if {(name, key) for key in sizes} & QUICK else slow(n) for n, (name, sizes) in enumerate(NAMED)],
    ids=LABELS,
)


def of(*starts):
    """Those whose labels start so: one of each kind of block, since compiling takes long and the others are longer."""
    chosen = [n for n, label in enumerate(LABELS) if label.startswith(starts)]
    return pytest.mark.parametrize("number", [every.args[1][n] for n in chosen], ids=[LABELS[n] for n in chosen])


BLOCKS = ("resnet20", "wide", "vgg11-(32, 64", "mobilenet_v2-(16", "densenet-(16", "convmixer", "airbench94")


def without_dropout(number):
    name, sizes = NAMED[number]
    shape = (28, 28, 1) if name == "lenet5" else (32, 32, 3)
    dropout = {"dropout": 0.0} if name in DROPPING else {}
    return name, {"input_shape": shape, "num_classes": 10, **sizes, **dropout}


@functools.cache
def alive(number):
    """The model in float64 with every number drawn, and a batch for it."""
    name, arguments = without_dropout(number)
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: fv.models.create(name, **arguments))
        random, names = np.random.default_rng(number), model.parameter_names()
        kinds = dict(model.named_layers())
        graphdef, state = nnx.split(model)
        drawn = {}
        for path, variable in nnx.to_flat_state(state):
            layer, _, part = names[path].rpartition(".")
            values = random.standard_normal(variable.shape)
            if part == "kernel":
                values *= np.sqrt(2 / np.prod(values.shape[:-1]))
            elif part == "var":
                values = np.exp(0.3 * values)
            else:
                values = 0.2 * values + (part == "scale" and isinstance(kinds[layer], BatchNorm))
            drawn[path] = variable.replace(jax.device_put(values))
        model = nnx.merge(graphdef, nnx.from_flat_state(drawn))
    return model, random.standard_normal((4, *model.input_shape))


def narrow(number):
    """The same model in float32."""
    graphdef, state = nnx.split(alive(number)[0])
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, np.float32)), state))


def written(number, model):
    """The hand-written reference with the model's weights, in the model's type."""
    from export.references import reference

    name, arguments = without_dropout(number)
    module = export.to_torch(model)
    network = reference(name, **arguments).to(next(module.parameters()))
    network.load_state_dict(module.state_dict(), strict=True)
    assert list(network.state_dict()) == list(module.state_dict())
    assert sum(p.numel() for p in network.parameters()) == fv.models.count_parameters(model)
    return network.eval()


def channels_first(x):
    return np.array(x.transpose(0, 3, 1, 2), order="C")


def assert_same(theirs, ours, share):
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() <= share * max(1.0, np.abs(ours).max())


@functools.cache
def logits(number):
    """Those of the reference in float64, for two examples."""
    import torch

    model, x = alive(number)
    with jax.enable_x64(True), torch.no_grad():
        return written(number, model)(torch.from_numpy(channels_first(x[:2]))).numpy()


@of(*BLOCKS, "lenet5", "resnet9", "resnet50-(16", "preact")
def test_values_gradients_and_statistics_in_float64(number):
    torch = pytest.importorskip("torch")
    model, x = alive(number)
    weights = np.random.default_rng(1).standard_normal((len(x), *model.output_shape))
    with jax.enable_x64(True):
        network = written(number, model).train()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        def run(params, rest, x):
            evaluated = nnx.merge(graphdef, params, rest)(x[:2])

            def loss(params):
                training = nnx.merge(graphdef, params, rest, copy=True)
                outputs = training(x, Context(train=True, key=jax.random.key(0)))
                return (outputs * weights).sum(), (outputs, nnx.state(training, nnx.BatchStat))

            gradients, (outputs, statistics) = jax.grad(loss, has_aux=True)(params)
            return evaluated, outputs, gradients, statistics

        evaluated, outputs, gradients, statistics = run(params, rest, x)
        names = model.parameter_names()
        flat = [*nnx.to_flat_state(gradients), *nnx.to_flat_state(statistics)]
        found = {names[path]: np.asarray(leaf[...]) for path, leaf in flat}
    theirs = network(torch.from_numpy(channels_first(x)))
    assert theirs.std() > 1e-3
    (theirs * torch.from_numpy(weights)).sum().backward()
    assert_same(np.asarray(outputs), theirs.detach().numpy(), 1e-10)
    assert_same(np.asarray(evaluated), logits(number), 1e-10)
    own = {**{n: p.grad for n, p in network.named_parameters()}, **dict(network.named_buffers())}
    for pair in correspondence(model):
        assert_same(pair.tensor.to_torch(found[pair.variable]), own[pair.name].numpy(), 1e-8)


def assert_onnx_gives(model, number, path):
    """The file of a model gives the reference's outputs in onnxruntime."""
    onnx.checker.check_model(onnx.load(export.to_onnx(model, path)), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": channels_first(alive(number)[1][:2]).astype(np.float32)})
    assert_same(found, logits(number), 2e-4)


@every
def test_onnx_in_onnxruntime_and_back(number, tmp_path):
    pytest.importorskip("torch")
    model, path = narrow(number), tmp_path / "net.onnx"
    assert_onnx_gives(model, number, path)
    again = export.from_onnx(path)
    assert describe_model(again) == describe_model(model)
    ours = variables(model)
    for name, value in variables(again).items():
        np.testing.assert_array_equal(value, ours[name], err_msg=name)


@of(*BLOCKS, "resnet18-(33")
def test_keras_and_back(number, tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip("torch")
    model, (_, x) = narrow(number), alive(number)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # Keras relies on both
        twin = export.to_keras(model)
        assert_same(run_keras(twin, x[:2].astype(np.float32)), logits(number), 2e-4)
        again = export.from_keras(twin)
    theirs = variables(again)
    for name, value in variables(model).items():
        layer, _, part = name.rpartition(".")
        np.testing.assert_array_equal(theirs[f"{layer.replace('.', '_')}.{part}"], value, err_msg=name)
    assert_onnx_gives(again, number, tmp_path / "again.onnx")


@every
def test_a_file_and_back(number, tmp_path):
    model = narrow(number)
    again = fv.load_model(fv.save_model(model, tmp_path / "net.safetensors"))
    assert describe_model(again) == describe_model(model)
