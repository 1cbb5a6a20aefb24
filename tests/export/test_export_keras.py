"""What Keras does in its own way."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

import export
from flaxvision.errors import UserError
from flaxvision.layers import Activation, Chain, Conv, ConvTranspose
from tests.conftest import slow
from tests.export.conftest import assert_alive
from tests.export.networks import assert_same, channels_first, drawn, run_onnx


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Conv2D", {"data_format": "channels_first"}, "data_format='channels_first'"),
        ("Conv2D", {"activation": "softsign"}, "the activation 'softsign'"),
        ("UpSampling2D", {"interpolation": "bicubic"}, "interpolation='bicubic'"),
        ("LayerNormalization", {"axis": (1, 2, 3)}, "over the axes"),
        ("ReLU", {"max_value": 6, "negative_slope": 0.1}, "max_value and negative_slope"),
        ("ReLU", {"threshold": 1.0}, "threshold"),
        ("PReLU", {}, r"shared_axes=\[1, 2\] would do"),
    ],
)
def test_keras_layers_that_are_not_ours_are_named(kind, settings, message):
    keras = pytest.importorskip("keras")
    x = inputs = keras.Input((8, 6, 4))
    sizes = {"filters": 4, "kernel_size": 3} if kind == "Conv2D" else {}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        twin = keras.Model(inputs, getattr(keras.layers, kind)(name="odd", **sizes, **settings)(x))
        with pytest.raises(UserError, match=message) as caught:
            export.from_keras(twin)
    assert "'odd'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "padding", ["SAME", slow("VALID"), slow(((0, 0), (0, 0))), ((1, 0), (0, 2)), slow(((2, 2), (1, 1)))], ids=str
)
def test_transposed_convolutions_to_keras_and_back(padding, tmp_path):
    """Kernels smaller and larger than their stride: Keras crops what we do not pad."""
    pytest.importorskip("keras")
    x = np.random.default_rng(0).normal(0, 1, (5, 4, 5, 2)).astype(np.float32)
    for flip, strides in ((False, (1, 1)), (True, (2, 1)), (True, (4, 3))):
        layer = ConvTranspose(2, 3, (3, 4), strides, padding=padding, transpose_kernel=flip, rngs=nnx.Rngs(0))
        chain = drawn(Chain([("up.0", layer), ("act", Activation("tanh"))], input_shape=(4, 5, 2)))
        ours = np.asarray(chain(x))
        assert_alive(ours)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            assert_same(export.to_keras(chain, tmp_path / "net.keras").predict_on_batch(x), ours, 1e-5)
            again = export.from_keras(tmp_path / "net.keras")
        assert list(again.names) == ["up_0", "act"]
        assert_same(np.asarray(again(x)), ours, 1e-5)
        path = export.to_onnx(again, tmp_path / "net.onnx")  # and it can be exported again
        assert_same(run_onnx(path, channels_first(x)), channels_first(ours), 1e-5)


def test_a_cropping_that_no_padding_can_express():
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 6, 4))
    images = np.random.default_rng(0).normal(0, 1, (2, 8, 6, 4)).astype(np.float32)
    for padding, crop in (("valid", 3), ("same", 1)):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            x = keras.layers.Conv2DTranspose(2, 3, padding=padding, name="odd")(inputs)
            twin = keras.Model(inputs, keras.layers.Cropping2D(crop, name="crop")(x))
            ours = export.from_keras(twin)
            assert_same(np.asarray(ours(images)), np.asarray(twin(images)), 1e-5)
        assert ours.names == ("odd", "crop")


@pytest.mark.parametrize("names", [("a.b", "a_b"), ("a", "a_padding")])
def test_names_that_are_one_in_keras(names):
    pytest.importorskip("keras")
    layers = [(name, Conv(1, 1, (3, 3), padding=1, rngs=nnx.Rngs(0))) for name in names]
    twin = export.to_keras(Chain(layers, input_shape=(6, 6, 1)))
    first, second = (name.replace(".", "_") for name in names)
    assert [layer.name for layer in twin.layers][2::2] == [first, f"{second}_1"]


def test_keras_layers_would_draw_their_weights_as_keras_does(tmp_path):
    """Nothing is drawn while they are made, but who makes the network anew from its file gets no zeros."""
    keras = pytest.importorskip("keras")
    chain = Chain([("conv", Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)))], input_shape=(6, 6, 1))
    export.to_keras(chain, tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras").get_layer("conv")
    assert isinstance(again.kernel_initializer, keras.initializers.GlorotUniform)
    assert isinstance(again.bias_initializer, keras.initializers.Zeros)
    np.testing.assert_array_equal(again.kernel, chain.layers[0].kernel[...])


@pytest.mark.slow
def test_a_keras_network_of_ones_own():
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        twin = keras.Sequential(
            [
                keras.Input((13, 10, 2)),
                keras.layers.ZeroPadding2D(((1, 0), (2, 1))),
                keras.layers.Conv2D(4, (3, 2), strides=2, activation="elu", name="first"),
                keras.layers.Conv2DTranspose(3, 3, strides=2, padding="same", use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.AveragePooling2D(3, 2, "same"),
                keras.layers.Conv2DTranspose(3, 2, strides=3),
                keras.layers.LeakyReLU(negative_slope=0.01),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(5, activation="gelu"),
            ]
        )
        x = np.random.default_rng(0).normal(0, 300, (3, 13, 10, 2)).astype(np.float32)
        theirs = np.asarray(twin(x, training=False))
        ours = export.from_keras(twin)
    assert theirs.std(axis=0).mean() > 1e-3
    assert_same(np.asarray(ours(x)), theirs, 1e-5)
