"""What cannot be exported is one line, and leaves no file."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from flax import nnx

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.layers import KINDS, Activation, Chain, Flatten, PolarTransform
from tests.export.networks import small


def test_points_have_no_pixels_to_scale(tmp_path):
    model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    with pytest.raises(UserError, match=r"normalize=True is for images; linear takes points of shape \(2,\)"):
        export.to_onnx(model, tmp_path / "net.onnx", normalize=True)
    assert not list(tmp_path.iterdir())


def test_softmax_is_for_class_scores(tmp_path):
    model, *_ = small("emnist_autoencoder")
    with pytest.raises(UserError, match=r"softmax=True is for class scores.*\(28, 28, 1\)"):
        export.to_onnx(model, tmp_path / "net.onnx", softmax=True)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"flaxvision.model": "{}"}, "metadata 'flaxvision.model': give a name .* does not begin with 'flaxvision.'"),
        ({"flaxvision.x": 1, "a": 2}, "metadata 'flaxvision.x'"),
        ({3: "x", "a": 2}, "metadata 3: give a name that is text"),
        ({"network": nnx}, "metadata 'network' is a module: give text, numbers, lists or a dict"),
    ],
)
def test_metadata_that_a_file_cannot_hold(metadata, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export.to_onnx(small()[0], tmp_path / "net.onnx", metadata=metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "CHWN"}, "unknown layout 'CHWN'"),
        ({"opset": 12}, "opset is 12: give a whole number from 13 to 23"),
        ({"opset": 24}, "opset is 24: give"),
        ({"opset": "20"}, "opset is '20': give a whole number"),
        ({"opset": True}, "opset is True"),
        ({"batch": 0}, "batch is 0: give the number of examples of one call"),
        ({"batch": "4"}, "batch is '4'"),
        ({"input_shape": 28}, "mnist_net does not fit input_shape=28"),
        ({"input_shape": (14, 14, 1)}, r"mnist_net does not fit input_shape=\(14, 14, 1\): it was made for"),
        ({"input_shape": (28, 28, 3)}, r"mnist_net does not fit input_shape=\(28, 28, 3\)"),
        ({"input_shape": (2,)}, r"mnist_net does not fit input_shape=\(2,\)"),
        ({"input_shape": (3, 3, 1)}, r"mnist_net does not fit input_shape=\(3, 3, 1\)"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(options, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        export.to_onnx(small()[0], tmp_path / "net.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written(tmp_path):
    model = fv.models.create("linear", input_shape=(2,), num_classes=1)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("no/net.safetensors", "file/net.safetensors", "folder.safetensors"):
        for write in (export.to_onnx, export.save_torch):
            with pytest.raises(UserError, match="cannot write") as caught:
                write(model, tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [onnx.checker.ValidationError, onnx.shape_inference.InferenceError])
def test_what_the_checker_refuses_is_one_line(error, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error("Graph must be\n in single static assignment form")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(UserError, match=r"mnist_net makes no valid ONNX graph \(Graph must be in single") as caught:
        export.to_onnx(small()[0], tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([PolarTransform()], (2, 3, 1), r"layer 'body.0' takes points of shape \(2,\), not \(2, 3, 1\)"),
        ([Flatten(), PolarTransform()], (1, 2, 2), r"layer 'body.1' takes points of shape \(2,\), not \(4,\)"),
    ],
)
def test_layers_that_would_mix_up_the_axes_are_refused(layers, shape, message, tmp_path):
    chain = Chain([(f"body.{i}", layer) for i, layer in enumerate(layers)], input_shape=shape)
    writers = [lambda: export.to_onnx(chain, tmp_path / "net.onnx")]
    writers += [lambda: export.to_torch(chain)] if importlib.util.find_spec("torch") else []
    writers += [lambda: export.to_keras(chain)] if importlib.util.find_spec("keras") else []
    for write in writers:
        with pytest.raises(UserError, match=message):
            write()


class Doubled(nnx.Module):
    """A layer outside the table."""

    def __call__(self, x):
        return 2 * x


class OwnConv(nnx.Conv):
    """Not even a subclass is taken for what it may not be."""


@pytest.mark.parametrize(
    ("layer", "kind"), [(Doubled(), "Doubled"), (OwnConv(1, 1, (1, 1), rngs=nnx.Rngs(0)), "OwnConv")]
)
def test_a_layer_outside_the_table_is_named(layer, kind, tmp_path):
    chain = Chain([("first", Activation("relu")), ("body.mine", layer)], input_shape=(4, 4, 1), kind="odd")
    writers = {
        "torch": lambda: export.to_torch(chain),
        "keras": lambda: export.to_keras(chain),
        "onnx": lambda: export.to_onnx(chain, tmp_path / "x.onnx"),
        "folded": lambda: export.to_onnx(chain, tmp_path / "x.onnx", fold_batch_norm=True),
    }
    for module in ("torch", "keras"):
        try:
            __import__(module)
        except ImportError:
            writers.pop(module)
    for write in writers.values():
        with pytest.raises(UserError, match=rf"layer 1 'body.mine' of odd is a {kind}") as caught:
            write()
        message = str(caught.value)
        assert set(message.partition("allowed kinds: ")[2].split(", ")) == {kind.__name__ for kind in KINDS}
        assert "\n" not in message


@pytest.mark.parametrize(
    "settings",
    [
        {"input_dilation": (2, 2)},
        {"mask": np.ones((3, 3, 2, 2))},
        {"padding": "CIRCULAR"},
        {"padding": "REFLECT"},
    ],
    ids=str,
)
def test_settings_of_flax_that_no_exporter_has(settings, tmp_path):
    layer = nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0), **settings)
    chain = Chain([("body.mine", layer)], input_shape=(8, 8, 2))
    with pytest.raises(UserError, match=rf"layer 0 'body.mine' (has|sets) {next(iter(settings))}"):
        export.to_onnx(chain, tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no ONNX file"),
        (lambda path: path.write_bytes(b""), "is not an ONNX file"),
        (lambda path: path.write_text("some text\n"), "is not an ONNX file"),
        (lambda path: path.mkdir(), "is not an ONNX file"),
        (lambda path: path.write_bytes(export.to_onnx(small()[0], path).read_bytes()[:-200]), "is not an ONNX file"),
        (lambda path: onnx.save(onnx.helper.make_model(onnx.GraphProto()), path), "is not an ONNX file"),
    ],
    ids=["missing", "empty", "text", "folder", "truncated", "without a graph"],
)
def test_files_that_from_onnx_cannot_take(make, message, tmp_path):
    path = tmp_path / "net.onnx"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        export.from_onnx(path)
    assert "\n" not in str(caught.value)
