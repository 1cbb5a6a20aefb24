"""Networks out of the ordinary: names, examples of other axes, points on the axes, paddings, types of numbers."""

from __future__ import annotations

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import (
    Activation,
    BatchNorm,
    Chain,
    Conv,
    Flatten,
    Linear,
    PolarTransform,
)
from flaxvision.models.build import Build
from flaxvision.models.files import describe_model, variables
from tests.export.conftest import quick_jit, run_keras

pytestmark = pytest.mark.quick

torch = pytest.importorskip("torch")


def run_onnx(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]


def run_torch(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(np.array(x, order="C"))).numpy()


def run_flax(model, x):
    return np.asarray(quick_jit(model)(x))


def to_keras(model, path=None):
    pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return export.to_keras(model, path)


def from_keras(source):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return export.from_keras(source)


def first(x):
    """Channels first."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def chain(*layers, shape, kind="chain"):
    return Chain(layers, input_shape=shape, kind=kind)


def drawn(seed):
    """What Flax's initialisers draw, about; they compile a program for every shape."""

    def init(_, size, dtype=np.float32, **__):
        values = np.random.default_rng(seed).standard_normal(size) / math.sqrt(math.prod(size[:-1]))
        return jnp.asarray(values.astype(dtype))

    return init


def linear(inputs, outputs, seed=0, **settings):
    return Linear(inputs, outputs, rngs=nnx.Rngs(0), kernel_init=drawn(seed), bias_init=drawn(seed + 1), **settings)


def conv(inputs, outputs, kernel=(3, 3), **settings):
    return Conv(inputs, outputs, kernel, rngs=nnx.Rngs(0), kernel_init=drawn(0), bias_init=drawn(1), **settings)


# Examples of other axes.


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (2, 3, 4, 3), (3, 3, 3, 3), (2, 2, 2, 2, 3)], ids=str)
def test_batch_norm_is_over_the_last_axis_of_any_example(shape, tmp_path):
    random = np.random.default_rng(0)
    scale, bias, mean, var = random.uniform(0.5, 2, (4, shape[-1])).astype(np.float32)
    layer = BatchNorm(shape[-1])
    for variable, value in ((layer.scale, scale), (layer.bias, bias), (layer.mean, mean), (layer.var, var)):
        variable[...] = jnp.asarray(value)
    model = chain(("norm", layer), ("flat", Flatten()), shape=shape)
    x = random.normal(0, 1, (6, *shape)).astype(np.float32)
    expected = ((x - mean) / np.sqrt(var + 1e-5) * scale + bias).reshape(6, -1)
    for opset in (13, 17):
        path = export.to_onnx(model, tmp_path / "net.onnx", opset=opset)
        np.testing.assert_allclose(run_onnx(path, x), expected, atol=1e-5)
    np.testing.assert_allclose(run_torch(export.to_torch(model), x), expected, atol=1e-5)
    twin = to_keras(model)
    np.testing.assert_allclose(run_keras(twin, x), expected, atol=1e-5)
    np.testing.assert_array_equal(variables(export.from_onnx(path))["norm.var"], var)
    if len(shape) > 3:
        with pytest.raises(UserError, match=r"takes examples of shape .*: images or vectors are read"):
            from_keras(twin)
        return
    again = from_keras(twin)  # as images of one channel
    np.testing.assert_allclose(run_onnx(export.to_onnx(again, path), x[:, None]), expected, atol=1e-5)


def test_a_linear_layer_on_maps_is_one_over_their_channels(tmp_path):
    model = chain(("relu", Activation("relu")), ("fc", linear(3, 5)), shape=(4, 2, 3))
    x = np.random.default_rng(0).normal(0, 1, (6, 4, 2, 3)).astype(np.float32)
    expected = np.maximum(x, 0) @ np.asarray(model.layers[1].kernel) + np.asarray(model.layers[1].bias)
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    path = export.to_onnx(model, tmp_path / "net.onnx")
    for given in (run_onnx(path, first), run_torch(export.to_torch(model), first)):
        np.testing.assert_allclose(given, expected.transpose(0, 3, 1, 2), atol=1e-5)
    np.testing.assert_allclose(run_keras(to_keras(model), x), expected, atol=1e-5)
    np.testing.assert_array_equal(export.from_onnx(path).layers[1].kernel[...], model.layers[1].kernel[...])


def test_a_torch_module_trains_its_batch_norm_over_the_last_axis_too():
    model = chain(("norm", BatchNorm(3)), shape=(5, 3))
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 3)).astype(np.float32)
    module = export.to_torch(model).train()
    run_torch(module, x)
    values = x.reshape(-1, 3)
    np.testing.assert_allclose(module.state_dict()["norm.running_mean"], 0.1 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(module.state_dict()["norm.running_var"], 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [(conv(3, 2), (2, 4, 4, 3), "Conv")],
)
def test_what_takes_maps_is_refused_on_other_examples(layer, shape, kind, tmp_path):
    model = chain(("x", layer), shape=shape)
    with pytest.raises(UserError, match=rf"layer 0 'x' is a {kind} on examples of shape .* maps \(H, W, C\) only"):
        export.to_onnx(model, tmp_path / "net.onnx")


# Points.

POINTS = [(0.0, 0.0), (0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0), (-1, 0.0), (-1, -0.0), (1, -0.0), (0.0, -2), (-0.0, 2)]
POINTS += [(3, 4), (-3, -4), (1e-30, 1), (3e19, 4e19), (-2e38, 1e38), (1e20, -1e-20), (1e-20, -2e-20), (-1e-30, -1e-30)]
POINTS += [(math.inf, 1), (-math.inf, -1), (1, math.inf), (math.inf, -math.inf), (-math.inf, math.inf)]


def test_points_on_the_axes_and_far_away(tmp_path):
    model = chain(("polar", PolarTransform()), shape=(2,))
    x = np.array(POINTS, np.float32)
    expected = np.array([(math.hypot(*map(float, p)), math.atan2(float(p[1]), float(p[0]))) for p in x])
    path = export.to_onnx(model, tmp_path / "polar.onnx")
    found = {"onnx": run_onnx(path, x), "torch": run_torch(export.to_torch(model), x), "flax": run_flax(model, x)}
    finite = np.isfinite(x).all(axis=1)
    keras = run_keras(to_keras(model), x)
    np.testing.assert_allclose(keras[finite], expected[finite], rtol=3e-7, atol=1e-38)
    for runtime, outputs in found.items():
        np.testing.assert_allclose(outputs, expected, rtol=3e-7, atol=1e-38, err_msg=runtime)
        np.testing.assert_array_equal(np.signbit(outputs), np.signbit(expected), err_msg=runtime)
    assert np.isnan(run_onnx(path, np.array([(np.nan, 1), (1, np.nan)], np.float32))).all()
    assert "Neg" not in {node.op_type for node in onnx.load(path).graph.node}  # OpenCV takes none of a constant


# Names.


@pytest.fixture(scope="module")
def odd_names():
    """(model, inputs, outputs): attributes of modules, a slash, layers within layers, names that are one in Keras."""
    layers = [
        ("block.conv", conv(1, 4, padding=((1, 0), (0, 1)))),
        ("block", Activation("relu")),
        ("type", BatchNorm(4)),
        ("block1/conv", conv(4, 4, strides=(2, 2))),
        ("conv.a", conv(4, 4, (1, 1))),
        ("conv_a", Activation("tanh")),
        ("conv", conv(4, 4, (1, 1))),  # after what lies within it
        ("forward", Flatten()),
        ("train", linear(36, 6)),
        ("training", linear(6, 6, 1)),
        ("input", linear(6, 6, 2)),
        ("state_dict", linear(6, 6, 3)),
        ("a..b", linear(6, 6, 4)),
        ("", linear(6, 6, 5)),
        ("_modules", linear(6, 6, 6)),
        ("_steps", Activation("relu")),
        ("input_1", linear(6, 6, 7)),
        ("train.weight", linear(6, 5, 8)),
        ("größe 大小", linear(5, 5, 9)),
    ]
    model = chain(*layers, shape=(6, 6, 1), kind="nets/my.py:odd")
    x = np.random.default_rng(0).normal(0, 1, (3, 6, 6, 1)).astype(np.float32)
    return model, x, run_flax(model, x)


def test_any_name_goes_to_torch_and_back(odd_names, tmp_path):
    model, x, expected = odd_names
    module = export.to_torch(model)
    np.testing.assert_allclose(run_torch(module, first(x)), expected, atol=1e-5)
    state = module.state_dict()
    keys = {key for key in state if not key.endswith("num_batches_tracked")}
    parts = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    ours = (name.rpartition(".") for name in variables(model))
    assert keys == {f"{layer}.{parts.get(part, part)}" for layer, _, part in ours}
    assert {"block.conv.weight", "type.running_var", "block1/conv.bias", "train.weight.weight", ".bias"} <= keys
    module.train()
    assert dict(module.named_modules())["block.conv"].training
    again = export.from_torch(export.save_torch(model, tmp_path / "net.safetensors"), model)
    np.testing.assert_array_equal(run_flax(again, x), expected)


def test_any_name_goes_to_keras_by_one_rule(odd_names, tmp_path):
    model, x, expected = odd_names
    to_keras(model, tmp_path / "net.keras")
    again = from_keras(tmp_path / "net.keras")
    np.testing.assert_allclose(run_flax(again, x), expected, atol=1e-5)
    assert again.names[:7] == ("block_conv", "block", "type", "block1_conv", "conv_a", "conv_a_1", "conv")
    assert again.names[10:] == (
        "input_1",
        "state_dict",
        "a__b",
        "_",
        "_modules",
        "_steps",
        "input_1_1",
        "train_weight",
        "größe 大小",
    )


def test_any_name_goes_to_onnx_and_back(odd_names, tmp_path):
    model, x, expected = odd_names
    path = export.to_onnx(model, tmp_path / "net.onnx")
    np.testing.assert_allclose(run_onnx(path, first(x)), expected, atol=1e-5)
    again = export.from_onnx(path)
    assert again.names == model.names
    np.testing.assert_array_equal(run_flax(again, x), expected)


def test_any_name_goes_to_a_file_and_back(odd_names, tmp_path):
    model, x, expected = odd_names
    again = fv.load_model(fv.save_model(model, tmp_path / "net.safetensors"))
    assert describe_model(again) == describe_model(model)
    np.testing.assert_array_equal(run_flax(again, x), expected)


# Settings of Flax that a file must keep.

SETTINGS = {
    "a number an axis": {"padding": (1, 2)},
    "a list": {"padding": [2, 1], "strides": [1, 2]},
    "pairs and numbers": {"padding": (1, (0, 2))},
    "one number": {"padding": 1, "strides": 2},
    "numpy's numbers": {"padding": ((np.int64(1), np.int32(0)), (0, 2)), "strides": (np.int64(2), 1)},
    "dilation": {"kernel_dilation": (2, 1), "padding": "SAME"},
    "groups": {"feature_group_count": 2},
}
KEPT = {"dilated input": {"input_dilation": 2, "padding": (1, 2)}}


@pytest.mark.parametrize("settings", [*SETTINGS.values(), *KEPT.values()], ids=[*SETTINGS, *KEPT])
def test_a_convolution_comes_back_from_its_file(settings, tmp_path):
    model = chain(("c", conv(2, 4, **settings)), shape=(8, 7, 2))
    x = np.random.default_rng(0).normal(0, 1, (2, 8, 7, 2)).astype(np.float32)
    expected = run_flax(model, x)
    again = fv.load_model(fv.save_model(model, tmp_path / "net.safetensors"))
    np.testing.assert_array_equal(run_flax(again, x), expected)
    if settings in KEPT.values():
        with pytest.raises(UserError, match=r"layer 0 'c' sets .*: it cannot be exported"):
            export.to_onnx(model, tmp_path / "net.onnx")
        return
    for fold in (False, True):
        path = export.to_onnx(model, tmp_path / "net.onnx", fold_batch_norm=fold)
        np.testing.assert_allclose(run_onnx(path, first(x)), first(expected), atol=1e-5)
        np.testing.assert_array_equal(run_flax(export.from_onnx(path), x), expected)
    np.testing.assert_allclose(run_torch(export.to_torch(model), first(x)), first(expected), atol=1e-5)


def test_a_masked_convolution_is_refused_before_it_is_saved(tmp_path):
    model = chain(("c", conv(1, 1, mask=jnp.ones((3, 3, 1, 1)))), shape=(8, 8, 1))
    with pytest.raises(UserError, match="layer 'c' sets mask: it cannot be saved"):
        fv.save_model(model, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


# Types of numbers.


def test_float64_stays_float64_where_jax_has_it(tmp_path, caplog):
    with jax.enable_x64(True):
        model = chain(("fc", linear(3, 2, param_dtype=jnp.float64, use_bias=False)), shape=(3,))
        model.layers[0].kernel[...] = jnp.asarray([[1 / 3, 2], [1e-9, 1], [np.pi, 0]], jnp.float64)
        kernel = np.asarray(model.layers[0].kernel[...])
        files = fv.save_model(model, tmp_path / "net.safetensors"), export.to_onnx(model, tmp_path / "net.onnx")
        for read, path in zip((fv.load_model, export.from_onnx), files, strict=True):
            again = read(path)
            assert again.dtype == np.float64
            np.testing.assert_array_equal(np.asarray(again.layers[0].kernel[...]), kernel)
        x = np.random.default_rng(0).normal(0, 1, (4, 3))
        np.testing.assert_allclose(run_onnx(files[1], x), x @ kernel, rtol=1e-12)
    assert not caplog.records
    for read, path in zip((fv.load_model, export.from_onnx), files, strict=True):
        with caplog.at_level(logging.WARNING, "flaxvision"):
            again = read(path)
        np.testing.assert_array_equal(np.asarray(again.layers[0].kernel[...]), kernel.astype(np.float32))
        (said,) = caplog.messages
        assert said.startswith(f"{path} holds float64 numbers, read as float32: set")
        assert "JAX_ENABLE_X64=1" in said
        caplog.clear()


def test_float16_is_exported_as_it_is(tmp_path):
    layers = [("fc", linear(6, 4, param_dtype=jnp.float16, dtype=jnp.float16)), ("act", Activation("gelu"))]
    model = chain(*layers, shape=(6,))
    x = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float16)
    expected = np.asarray(model(jnp.asarray(x)), np.float32)
    for opset in (17, 20):
        path = export.to_onnx(model, tmp_path / "net.onnx", opset=opset)
        np.testing.assert_allclose(run_onnx(path, x), expected, atol=4e-3)
    assert run_torch(export.to_torch(model), x).dtype == np.float16
    for again in (export.from_onnx(path), fv.load_model(fv.save_model(model, tmp_path / "net.safetensors"))):
        assert again.dtype == np.float16
        np.testing.assert_array_equal(np.asarray(again.layers[0].kernel[...]), np.asarray(model.layers[0].kernel[...]))


def _typed(dtype):
    model = chain(("act", Activation("relu")), ("fc", linear(4, 3)), shape=(4,))
    layer = model.layers[1]
    for variable in (layer.kernel, layer.bias):
        variable.set_value(variable[...].astype(dtype))
    return model


REFUSED = {
    "bfloat16": (
        lambda: _typed(jnp.bfloat16),
        "layer 'fc' of chain holds numbers of bfloat16: float32, float64, float16",
    ),
    "int8": (lambda: _typed(jnp.int8), "layer 'fc' of chain holds numbers of int8: .* param_dtype=jax.numpy.float32"),
    "several": (
        lambda: chain(("a", linear(4, 3)), ("b", linear(3, 3, param_dtype=jnp.float16)), shape=(4,)),
        "layers of chain differ in type .'a' holds float32 and 'b' holds float16.",
    ),
    "shapes alone": (
        lambda: nnx.eval_shape(lambda: fv.models.create("linear")),
        "layer 'layers.0' of linear holds no numbers",
    ),
    "a path": (lambda: "winner.safetensors", r"a str cannot be exported: give fv.load_model\('winner.safetensors'\)"),
    "a layer": (lambda: linear(4, 3), "a Linear cannot be exported: give a model of fv.models.create"),
    "a torch module": (lambda: torch.nn.Linear(4, 3), "a Linear cannot be exported: give a model of"),
    "nothing": (lambda: None, "a NoneType cannot be exported"),
    "flax's own BatchNorm": (
        lambda: chain(("b", nnx.BatchNorm(4, rngs=nnx.Rngs(0))), shape=(4,)),
        r"layer 0 'b' of chain is flax.*\.BatchNorm, not flaxvision.*\.BatchNorm, which cannot be exported",
    ),
    "negative padding": (
        lambda: chain(("c", conv(1, 1, padding=((-1, -1), (0, 0)))), shape=(8, 8, 1)),
        "layer 0 'c' has padding=.*, less than 0: it cannot be exported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_exporter_takes_is_one_line_of_each(case, tmp_path):
    make, message = REFUSED[case]
    model = make()
    writers = [
        lambda: export.to_onnx(model, tmp_path / "net.onnx"),
        lambda: export.to_torch(model),
        lambda: export.save_torch(model, tmp_path / "net.safetensors"),
        lambda: to_keras(model, tmp_path / "net.keras"),
    ]
    for write in writers:
        with pytest.raises(UserError, match=message) as caught:
            write()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_lenet_of_ones_own(tmp_path):
    """Mean pools in the builder, as LeNet has them."""
    build = Build("lenet", (12, 12, 1))
    build.conv("c1", 4, 3)
    build.activation("t1", "tanh")
    build.avg_pool("s2", 2)
    build.avg_pool("s3", 3, 1)
    build.conv("c4", 6, 2)
    build.global_avg_pool("mean")
    build.linear("f5", 5)
    model = build.chain()
    assert build.shape == model.output_shape == (5,)
    x = np.random.default_rng(0).normal(0, 1, (3, 12, 12, 1)).astype(np.float32)
    expected = run_flax(model, x)
    assert expected.std(axis=0).mean() > 1e-3
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.Tanh(),
        torch.nn.AvgPool2d(2),
        torch.nn.AvgPool2d(3, 1),
        torch.nn.Conv2d(4, 6, 2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 5),
    )
    ours = export.to_torch(model).state_dict()
    names = {"c1": "0", "c4": "4", "f5": "7"}
    theirs.load_state_dict({f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in ours.items()})
    np.testing.assert_allclose(run_torch(theirs, first(x)), expected, atol=1e-5)
    np.testing.assert_allclose(run_onnx(export.to_onnx(model, tmp_path / "l.onnx"), first(x)), expected, atol=1e-5)
