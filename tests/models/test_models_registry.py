"""The reports' networks: exact parameter counts, shapes, summaries, and errors that help."""

from __future__ import annotations

import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.errors import UserError
from tests.models.test_models_named import PUBLISHED

pytestmark = pytest.mark.quick

TABLE = [  # issue 2's table: call, sizes, trainable parameters
    ("linear", {"input_shape": (28, 28, 1), "num_classes": 10}, 7_850),
    ("linear", {"input_shape": (2,), "num_classes": 1}, 3),
    ("polar_linear", {"input_shape": (2,), "num_classes": 1}, 3),
    ("mlp", {"hidden": (256, 512)}, 337_674),
    ("mlp", {"hidden": (256, 512, 1024, 2048)}, 2_977_546),
    ("mlp", {"hidden": (1024, 2048)}, 2_923_530),
    ("mlp", {"hidden": (32,)}, 25_450),
    ("mlp", {"hidden": (30,), "batch_norm": True}, 23_920),
    ("mlp", {"hidden": (30, 30), "batch_norm": True}, 24_910),
    ("mlp", {"input_shape": (2,), "hidden": (16, 16), "num_classes": 1}, 337),
    ("wide_cnn", {"padding": "SAME"}, 3_274_634),
    ("wide_cnn", {"padding": "VALID"}, 1_111_946),
    ("mnist_net", {}, 204_826),
    ("strided_cnn", {}, 11_842),
    ("strided_cnn", {"pool": True}, 3_202),
    ("vgg19", {"input_shape": (32, 32, 3)}, 20_365_002),
    ("tiny_cnn", {}, 6_218),
    ("emnist_cnn", {"hidden": 32, "num_classes": 47}, 8_751),
    ("emnist_cnn", {"hidden": 64, "num_classes": 47}, 11_311),
    ("emnist_autoencoder", {}, 12_869),
]


def abstract(name, **sizes):
    """The network without drawing its parameters."""
    return nnx.eval_shape(lambda: fv.models.create(name, **sizes))


@pytest.mark.parametrize(("name", "sizes", "parameters"), TABLE, ids=lambda value: str(value)[:40])
def test_parameter_counts_are_the_reports(name, sizes, parameters):
    model = abstract(name, **sizes)
    assert fv.models.count_parameters(model) == parameters
    outputs = sizes.get("num_classes", 47 if name == "emnist_cnn" else 10)
    assert model.output_shape == ((28, 28, 1) if name == "emnist_autoencoder" else (outputs,))


def test_the_tables_cover_every_model():
    assert {name for name, *_ in (*TABLE, *PUBLISHED)} == set(fv.models.list_models())


def test_the_decoder_has_6725_parameters():
    model = abstract("emnist_autoencoder")
    names = model.parameter_names()
    sizes = {names[path]: v.size for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert sum(size for name, size in sizes.items() if name.startswith("decoder.")) == 6_725
    assert sum(size for name, size in sizes.items() if name.startswith("encoder.")) == 6_144


@pytest.mark.parametrize(
    ("hidden", "megabytes"),
    [
        ((256, 512), (0.00, 0.02, 1.29, 1.31)),
        ((256, 512, 1024, 2048), (0.00, 0.06, 11.36, 11.43)),
        ((1024, 2048), (0.00, 0.05, 11.15, 11.21)),
    ],
)
def test_summary_gives_report_e_sizes(hidden, megabytes):
    summary = fv.models.summary(fv.models.create("mlp", hidden=hidden))
    assert tuple(round(size, 2) for size in summary.megabytes.values()) == megabytes
    assert summary.rows[1].name == "linear_relu_stack.0"
    assert summary.rows[1].parameters == 785 * hidden[0]  # (in + 1) * out
    assert f"{summary.parameters:,}" in str(summary)


def test_summary_shapes_of_the_encoder():
    rows = fv.models.summary(fv.models.create("emnist_autoencoder")).rows
    sides = [row.output_shape[0] for row in rows if row.kind in ("Conv", "ConvTranspose", "MaxPool")]
    assert sides == [26, 12, 5, 3, 1, 3, 5, 11, 13, 28]  # report D


def test_valid_padding_has_the_relu_between_the_dense_layers():
    assert "fc_relu" in abstract("wide_cnn", padding="VALID").names
    assert "fc_relu" not in abstract("wide_cnn", padding="SAME").names


def test_inner_activation_does_not_shift_names():
    plain, relu = abstract("emnist_cnn"), abstract("emnist_cnn", inner_activation="relu")
    assert set(plain.parameter_names().values()) == set(relu.parameter_names().values())
    assert len(relu.names) == len(plain.names) + 1


def test_a_seed_decides_the_parameters():
    first, again, other = (fv.models.create("mlp", hidden=(8,), seed=seed) for seed in (1, 1, 2))
    x = jnp.ones((1, 28, 28, 1))
    np.testing.assert_array_equal(first(x), again(x))
    assert not np.array_equal(first(x), other(x))


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        textwrap.dedent("""
            def small(build, outputs, width=4):
                build.conv("conv", width, 3, stride=2, padding=1)
                build.activation("act", "tanh")
                build.linear("out", outputs)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = fv.models.create("own_networks:small", input_shape=(8, 8, 2), num_classes=3, width=5)
    assert model.names == ("conv", "act", "flatten", "out")
    assert fv.models.count_parameters(model) == (9 * 2 + 1) * 5 + (4 * 4 * 5 + 1) * 3
    with pytest.raises(UserError, match=r"unknown size of own_networks:small 'widht': did you mean 'width'"):
        fv.models.create("own_networks:small", widht=5)
    sys.modules.pop("own_networks")


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("mpl", {}, "unknown model 'mpl': did you mean 'mlp'"),
        ("mlp", {"hiden": (3,)}, "unknown size of mlp 'hiden': did you mean 'hidden'"),
        ("linear", {"hidden": (3,)}, r"unknown size of linear 'hidden'.*\(none\)"),
        ("mlp", {"init": "pytorch"}, "unknown init 'pytorch': did you mean 'torch'"),
        ("mlp", {"activation": "rellu"}, "did you mean 'relu'"),
        ("wide_cnn", {"padding": "FULL"}, "unknown padding 'FULL'"),
        ("vgg19", {"input_shape": (28, 28, 1)}, r"does not fit examples of shape \(28, 28, 1\)"),
        ("tiny_cnn", {"input_shape": (2,)}, r"needs a map \(H, W, C\)"),
        ("polar_linear", {"input_shape": (3,)}, r"takes points of shape \(2,\)"),
        ("nowhere.at_all:f", {}, "cannot be imported"),
        ("mlp", {"hidden": (0,)}, "hidden"),
        ("mlp", {"hidden": "wide"}, "hidden"),
        ("emnist_cnn", {"hidden": (32,)}, "hidden"),
        ("mlp", {"dropout": 1.5}, "give a probability"),
    ],
)
def test_a_mistake_is_one_helpful_line(name, sizes, message):
    with pytest.raises(UserError, match=message) as caught:
        fv.models.create(name, **sizes)
    assert "\n" not in str(caught.value)


def test_weights_file_round_trip(tmp_path, make_dataset):
    model = fv.models.create("mnist_net", input_shape=(12, 12, 1), num_classes=4)
    data = make_dataset((12, 12, 1), 4, train=64, test=20)
    trained = fv.fit(model, data, fv.Recipe(steps=1, batch_size=64, pixels="signed")).model
    path = fv.save_model(trained, tmp_path / "net.safetensors", accuracy=0.5)
    again = fv.load_model(path)
    x = jax.random.normal(jax.random.key(0), (3, 12, 12, 1))
    np.testing.assert_array_equal(again(x), trained(x))
    assert again.preprocess == trained.preprocess
    assert (again.preprocess.scale, again.preprocess.offset) == (1 / 127.5, -1)
    assert again.classes == ("0", "1", "2", "3")
    assert (again.kind, again.input_shape, again.names) == ("mnist_net", (12, 12, 1), trained.names)
    images = np.zeros((2, 12, 12, 1), np.uint8)
    np.testing.assert_array_equal(fv.predict(again, images), fv.predict(trained, images))


def test_wrong_weights_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no weights file"):
        fv.load_model(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match="is not a weights file"):
        fv.load_model(tmp_path / "text.safetensors")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"was not written by flaxvision\.save_model"):
        fv.load_model(tmp_path / "other.safetensors")
    path = fv.save_model(fv.models.create("linear"), tmp_path / "good.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a weights file"):
        fv.load_model(path)
    with pytest.raises(UserError, match="cannot write"):
        fv.save_model(fv.models.create("linear"), tmp_path / "no" / "folder.safetensors")
