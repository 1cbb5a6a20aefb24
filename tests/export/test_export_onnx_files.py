"""What an ONNX file says of itself, where its weights lie, and files that were damaged on their way."""

from __future__ import annotations

import json
import re

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

import export
import flaxvision as fv
from export import _onnx
from export.__main__ import main
from flaxvision.errors import UserError
from flaxvision.layers import BatchNorm, Chain, Linear, Preprocess
from flaxvision.models.files import FORMAT, describe_model, variables


@pytest.fixture(scope="module")
def network():
    """A small convolutional network whose class scores differ, with pixel scaling and class names."""
    model = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=3)
    model.preprocess = Preprocess(1 / 127.5, -1.0)
    model.classes = ("zero", "één", "二")
    model.layers[-1].kernel[...] = 4 * model.layers[-1].kernel[...]
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 12, 12, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(network, images):
    return fv.predict(network, images)


def run(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]


def first(x):
    """Channels first."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def entries(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def dims(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("normalize", [False, True])
def test_who_follows_the_metadata_scales_once(normalize, network, images, expected, tmp_path):
    path = export.to_onnx(network, tmp_path / "net.onnx", normalize=normalize, softmax=True)
    about = entries(path)
    scale, offset = map(float, re.fullmatch(r"value \* (\S+) \+ (\S+)", about["preprocess"]).groups())
    fed = (first(images) * scale + offset).astype(np.uint8 if normalize else np.float32)
    np.testing.assert_allclose(run(path, fed), expected, atol=1e-5)
    assert about.get("preprocess in the graph") == (f"value * {1 / 127.5!r} + -1.0" if normalize else None)
    assert json.loads(about["classes"]) == ["zero", "één", "二"]


def test_a_scale_for_each_channel_is_described_and_comes_back(tmp_path):
    model = fv.models.create("linear", input_shape=(4, 4, 3), num_classes=2)
    model.preprocess = Preprocess((1 / 255, 0.01, 0.02), (-0.5, 0.0, 0.25))
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    for options in ({}, {"layout": "NHWC"}):
        path = export.to_onnx(model, tmp_path / "net.onnx", normalize=True, softmax=True, **options)
        fed = images if options else first(images)
        np.testing.assert_allclose(run(path, fed), fv.predict(model, images), atol=1e-5)
    path = export.to_onnx(model, tmp_path / "net.onnx")
    said = onnx.load(path).graph.input[0].doc_string
    assert said.endswith("of pixels from 0 to 255, one number per channel, which gives -0.5 to 5.35.")
    assert export.from_onnx(path).preprocess == model.preprocess


@pytest.mark.parametrize(
    ("options", "takes", "gives"),
    [
        (
            {},
            f"Images (batch, 1, 12, 12), channels first, of float32: value * {1 / 127.5!r} + -1.0 of pixels from 0 to "
            "255, which gives -1 to 1.",
            "Scores (batch, 3) before softmax, of the classes zero, één, 二.",
        ),
        (
            {"normalize": True, "softmax": True, "layout": "NHWC", "batch": 8},
            "Images (8, 12, 12, 1), channels last, of uint8: 0 to 255. The graph scales them itself.",
            "Probabilities (8, 3), of the classes zero, één, 二.",
        ),
    ],
)
def test_who_opens_a_file_reads_what_it_takes_and_gives(options, takes, gives, network, tmp_path):
    proto = onnx.load(export.to_onnx(network, tmp_path / "net.onnx", **options))
    assert proto.graph.input[0].doc_string == takes
    assert proto.graph.output[0].doc_string == gives
    version = fv.__version__
    assert (
        proto.doc_string == f"mnist_net in evaluation mode, by flaxvision {version}.\nInput: {takes}\nOutput: {gives}"
    )


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        (
            "polar_linear",
            {"input_shape": (2,), "num_classes": 1},
            ["Examples (batch, 2), of float32.", "A score (batch, 1)"],
        ),
        (
            "linear",
            {"num_classes": 47},
            ["values as the network was trained on", "Scores (batch, 47) before softmax, of"],
        ),
        ("emnist_autoencoder", {}, ["Images (batch, 1, 28, 28), channels first", "Output: Images (batch, 1, 28, 28)"]),
    ],
)
def test_every_value_of_a_graph_has_its_shape(name, sizes, said, tmp_path):
    model = fv.models.create(name, **sizes)
    model.classes = tuple(map(str, range(model.output_shape[0]))) if len(model.output_shape) == 1 else ()
    for batch in (None, 3):
        path = export.to_onnx(model, tmp_path / "net.onnx", batch=batch)
        graph = onnx.load(path).graph
        inner = {value for node in graph.node for value in node.output} - {value.name for value in graph.output}
        shapes = {value.name: dims(value) for value in graph.value_info}
        assert set(shapes) == inner
        assert {shape[0] for shape in shapes.values()} == {batch or "batch"}
        assert all(isinstance(size, int) and size > 0 for shape in shapes.values() for size in shape[1:])
        x = np.random.default_rng(0).random((3, *dims(graph.input[0])[1:]), np.float32)
        every = list(shapes)
        watched = onnx.load(path)
        watched.graph.output.extend(watched.graph.value_info)
        del watched.graph.value_info[:]
        session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
        for value, array in zip(every, session.run(every, {"input": x}), strict=True):
            assert list(array.shape) == [3, *shapes[value][1:]]
    text = onnx.load(export.to_onnx(model, tmp_path / "net.onnx")).doc_string
    assert all(part in text for part in said), text
    if name == "linear":
        assert text.endswith("18, 19, ….")


def test_a_fixed_batch(network, images, expected, tmp_path):
    path = export.to_onnx(network, tmp_path / "net.onnx", batch=4, normalize=True, softmax=True)
    graph = onnx.load(path).graph
    assert dims(graph.input[0]) == [4, 1, 12, 12]
    assert dims(graph.output[0]) == [4, 3]
    assert not any(dim.dim_param for value in graph.value_info for dim in value.type.tensor_type.shape.dim)
    np.testing.assert_allclose(run(path, first(images)), expected, atol=1e-5)


def test_metadata_does_not_replace_ours(network, tmp_path):
    for name in ("classes", "preprocess", "preprocess in the graph", "flaxvision.model"):
        with pytest.raises(UserError, match=rf"metadata '{name}': give a name that is text, does not begin with"):
            export.to_onnx(network, tmp_path / "net.onnx", metadata={name: "x"})
    assert not list(tmp_path.iterdir())


# Weights beside the file.


def test_weights_that_protobuf_cannot_hold_lie_beside_the_file(network, images, expected, tmp_path, monkeypatch):
    whole = export.to_onnx(network, tmp_path / "whole.onnx", normalize=True, softmax=True)
    monkeypatch.setattr(_onnx, "LARGEST_FILE", 20_000)
    folder = tmp_path / "my models"
    folder.mkdir()
    path = export.to_onnx(network, folder / "net 1.onnx", normalize=True, softmax=True)
    assert sorted(file.name for file in folder.iterdir()) == ["net 1.onnx", "net 1.onnx.data"]
    assert path.stat().st_size < 20_000 < (folder / "net 1.onnx.data").stat().st_size
    onnx.checker.check_model(path, full_check=True)
    lean = {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    beside = [tensor for tensor in lean.values() if tensor.data_location == TensorProto.EXTERNAL]
    assert {tensor.name for tensor in beside} >= {"fc.weight", "conv1.weight"}
    for tensor in beside:
        about = {entry.key: entry.value for entry in tensor.external_data}
        assert about["location"] == "net 1.onnx.data"
        assert int(about["offset"]) % 4096 == 0
    for theirs, ours in zip(onnx.load(path).graph.initializer, onnx.load(whole).graph.initializer, strict=True):
        assert theirs.name == ours.name
        np.testing.assert_array_equal(numpy_helper.to_array(theirs), numpy_helper.to_array(ours))
    np.testing.assert_allclose(run(path, first(images)), expected, atol=1e-5)

    moved = tmp_path / "elsewhere"
    folder.rename(moved)  # both files together
    again = export.from_onnx(moved / "net 1.onnx")
    ours = variables(network)
    assert all(np.array_equal(value, ours[name]) for name, value in variables(again).items() if name[-5:] != ".rate")
    (moved / "net 1.onnx.data").write_bytes((moved / "net 1.onnx.data").read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(UserError, match=r"keeps its weights beside it, in net 1\.onnx\.data, which cannot be read"):
            export.from_onnx(moved / "net 1.onnx")
        (moved / "net 1.onnx.data").unlink(missing_ok=True)


def test_a_folder_that_cannot_be_written_leaves_no_weights(network, tmp_path, monkeypatch):
    monkeypatch.setattr(_onnx, "LARGEST_FILE", 20_000)
    with pytest.raises(UserError, match="cannot write"):
        export.to_onnx(network, tmp_path / "missing" / "net.onnx")
    assert not list(tmp_path.iterdir())


# Damaged files.


def _entry(proto, value):
    next(entry for entry in proto.metadata_props if entry.key == "flaxvision.model").value = value


def _described(change):
    def apply(proto):
        entry = next(entry for entry in proto.metadata_props if entry.key == "flaxvision.model")
        description = json.loads(entry.value)
        change(description)
        entry.value = json.dumps(description)

    return apply


def _tensor(name, array):
    return lambda proto: next(t for t in proto.graph.initializer if t.name == name).CopyFrom(
        numpy_helper.from_array(array, name)
    )


DAMAGED = {
    "another shape": (_tensor("fc.weight", np.zeros((256, 70), np.float32)), r"fc.weight has shape \(256, 70\), not"),
    "another rank": (
        _tensor("conv0.weight", np.zeros(3, np.float32)),
        r"conv0.weight has shape \(3,\), not \(8, 1, 3, 3\)",
    ),
    "nothing left": (lambda p: p.graph.ClearField("initializer"), "conv0.weight is missing; .* and 13 more"),
    "cut weights": (
        lambda p: setattr(p.graph.initializer[0], "raw_data", b"123"),
        "is damaged .*: export the model again",
    ),
    "no JSON": (lambda p: _entry(p, "{"), "is damaged: flaxvision.model in its metadata is not valid JSON"),
    "a list": (lambda p: _entry(p, "[1, 2]"), "describes a network that this version of flaxvision cannot build"),
    "other fields": (
        lambda p: _entry(p, '{"kind": "x"}'),
        "cannot build .KeyError: 'layers'.: it is damaged, or",
    ),
    "a later layer": (
        _described(lambda d: d["layers"][0].update(kind="Attention")),
        "cannot build .unknown layer kind 'Attention'",
    ),
    "a later setting": (_described(lambda d: d["layers"][0].update(rotary=True)), "cannot build .*rotary"),
    "a layer larger than the file": (
        _described(lambda d: d["layers"][-1].update(in_features=2**20, out_features=2**20)),
        r"cannot build .its layers would hold more numbers than it does, one of them \(1048576, 1048576\)",
    ),
    "layers that do not fit": (_described(lambda d: d.update(input_shape=[9, 9, 1])), "cannot build .*does not fit"),
    "a shape of text": (_described(lambda d: d.update(input_shape=["9"])), "cannot build .its input_shape is"),
    "classes of numbers": (
        _described(lambda d: d.update(classes=[1])),
        "its kind and classes are no text",
    ),
    "a later preprocessing": (_described(lambda d: d["preprocess"].update(mean=[0.5])), "cannot build .*mean"),
}


@pytest.fixture(scope="module")
def written(network, tmp_path_factory):
    return export.to_onnx(network, tmp_path_factory.mktemp("written") / "net.onnx")


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line(damage, written, tmp_path):
    change, message = DAMAGED[damage]
    proto = onnx.load(written)
    change(proto)
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.raises(UserError, match=message) as caught:
        export.from_onnx(tmp_path / "net.onnx")
    assert str(tmp_path / "net.onnx") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is damaged: its flaxvision-2 metadata cannot be read"),
        ('{"model": {}}', "is damaged"),
        ('{"model": {"layers": []}, "notes": {}}', "cannot build .KeyError: 'input_shape'"),
        ('{"model": null, "notes": {}}', "describes a network that this version of flaxvision cannot build"),
    ],
)
def test_a_damaged_weights_file_is_one_line(metadata, message, tmp_path):
    path = fv.save_model(fv.models.create("linear"), tmp_path / "net.safetensors")
    save_file(load_file(path), path, metadata={FORMAT: metadata})
    with pytest.raises(UserError, match=message) as caught:
        fv.load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folded_float64_network_keeps_its_numbers(tmp_path):
    import jax

    with jax.enable_x64(True):
        layers = [("fc", Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)), ("norm", BatchNorm(2))]
        norm = layers[1][1]
        for variable in (norm.scale, norm.bias, norm.mean, norm.var):
            variable.set_value(jnp.asarray([1 / 3, 3.0], jnp.float64))
        model = Chain(layers, input_shape=(3,))
        path = export.to_onnx(model, tmp_path / "net.onnx", fold_batch_norm=True)
        again = export.from_onnx(path)
        x = np.random.default_rng(0).normal(0, 1, (4, 3))
        ours = np.asarray(model(x))
        np.testing.assert_allclose(np.asarray(again(x)), ours, rtol=1e-12)
        np.testing.assert_allclose(run(path, x), ours, rtol=1e-12)


# The command line.


def test_options_do_not_replace_the_file_that_the_parity_table_vouches_for(network, images, expected, tmp_path, capsys):
    weights = tmp_path / "flaxvision.safetensors"
    fv.save_model(network, weights, **{"classes": "a note", "flaxvision.x": 1, "author": "me"})
    assert main(["onnx", str(tmp_path)]) == 0
    winner = (tmp_path / "network.onnx").read_bytes()
    assert json.loads(entries(tmp_path / "network.onnx")["classes"]) == list(network.classes)
    assert entries(tmp_path / "network.onnx")["note: classes"] == "a note"
    assert entries(tmp_path / "network.onnx")["author"] == "me"
    options = ["--normalize", "--softmax", "--opset", "13", "--batch", "4"]
    assert main(["onnx", str(tmp_path), *options]) == 0
    assert main(["onnx", str(tmp_path), "--layout", "NHWC", "--fold-batch-norm"]) == 0
    names = ["network.onnx", "model.opset13-batch4.onnx", "network.fold-batch-norm-nhwc.onnx"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in names]
    assert (tmp_path / "network.onnx").read_bytes() == winner
    proto = onnx.load(tmp_path / names[1])
    assert (proto.opset_import[0].version, proto.ir_version) == (13, 7)
    np.testing.assert_allclose(run(tmp_path / names[1], first(images)), expected, atol=1e-5)
    assert describe_model(export.from_onnx(tmp_path / names[1])) == describe_model(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--opset", "12"], "opset is 12: give a whole number from 13 to 23"),
        (["--opset", "abc"], "'abc' is not allowed: give a whole number"),
        (["--batch", "0"], "'0' is not allowed: give a whole number, 1 or more"),
    ],
)
def test_wrong_options_on_the_command_line(options, message, network, tmp_path, capsys):
    fv.save_model(network, tmp_path / "flaxvision.safetensors")
    assert main(["onnx", str(tmp_path), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["flaxvision.safetensors"]
