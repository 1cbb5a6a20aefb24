"""Keras models that are graphs, and files that claim too much; values are Keras's own."""

import io
import json
import zipfile

import jax
import numpy as np
import pytest
from flax import nnx

import export
import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.models.files import variables
from tests.conftest import slow
from tests.export.conftest import assert_alive

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
L, ops = keras.layers, keras.ops
pytestmark = [
    pytest.mark.quick,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's saving, under NumPy 2
]


@pytest.fixture(autouse=True)
def as_keras_wants():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def residual(x):
    """As MobileNetV2 and ResNet have them: padding before a stride, a shared block, a gate."""
    x = L.Rescaling(1 / 127.5, offset=-1)(L.RandomFlip("horizontal")(x))
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = L.Conv2D(6, 3, strides=2, use_bias=False, name="stem")(x)
    x = L.ReLU(6.0)(L.BatchNormalization(scale=False)(x))
    block = keras.Sequential(
        [L.DepthwiseConv2D(3, padding="same", name="depthwise"), L.Conv2D(6, 1, activation="swish", name="conv")],
        name="block",
    )
    x = L.Add()([x, block(x)])
    x = L.Add()([x, block(x)])
    gate = L.Reshape((1, 1, 6))(L.GlobalAveragePooling2D()(x))
    x = L.Multiply()([x, L.Conv2D(6, 1, activation="sigmoid")(gate)])
    x = L.Concatenate()([x, L.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, name="separable")(x)])
    return L.Dense(5, activation="softmax", name="scores")(L.Dropout(0.2, name="dropout")(L.GlobalMaxPooling2D()(x)))


def twice(x):
    dense = L.Dense(6, activation="tanh", name="shared")
    x = L.Dense(6)(L.Flatten()(x))
    return L.Dense(3)(dense(dense(x)))


def operations(x):
    y = ops.relu(x) * 0.5 + 1.0 - x / 4.0
    y = ops.concatenate([y, ops.gelu(x, approximate=False), ops.square(x)], axis=-1)
    y = ops.pad(y, ((0, 0), (1, 0), (0, 2), (0, 0)))
    y = ops.pad(y, ((0, 0), (0, 1), (2, 1), (0, 0)), mode="reflect")
    y = ops.transpose(L.Conv2D(4, 3)(y), (0, 3, 1, 2))
    y = ops.mean(y, axis=(2, 3))
    return L.Dense(3)(ops.reshape(y, (-1, 4)))


def normalized(x):
    x = L.Conv2D(8, 3, groups=1, dilation_rate=2)(x)
    x = L.LayerNormalization()(x)
    x = L.PReLU(shared_axes=[1, 2])(L.GroupNormalization(4)(x))
    x = L.GroupNormalization(-1, center=False)(x)
    x = L.UpSampling2D((2, 1))(L.AveragePooling2D(2, padding="same")(x))
    x = L.Dropout(0.2, noise_shape=(None, 1, 1, 1))(x)
    x = L.Average()([x, L.SpatialDropout2D(0.1)(x), L.LeakyReLU(negative_slope=0.3)(x)])
    x = L.Cropping2D(((1, 0), (0, 1)))(x)
    return L.BatchNormalization()(L.Flatten()(L.Conv2D(2, 1, activation="leaky_relu")(x)))


def within(x):
    """A layer and a model that stand in two models."""
    inner = keras.Input((9, 8, 3))
    conv = L.Conv2D(3, 3, padding="same", name="conv")
    body = keras.Model(inner, L.Subtract()([conv(inner), inner]), name="body")
    return L.Dense(2)(L.GlobalAveragePooling2D()(body(conv(body(x)))))


def channels_first(x):
    x = L.Permute((3, 1, 2))(L.Conv2D(4, 3)(x))
    return L.Reshape((2, -1))(x)


def functions(x):
    names = ("selu", "celu", "elu", "hard_silu", "hard_sigmoid", "hard_tanh", "mish", "softplus", "relu6", "gelu")
    x = L.Concatenate()([L.Activation(name)(x) for name in names])
    x = L.Dense(6, activation=L.ELU(0.7))(L.Conv2D(5, 1, activation="log_softmax")(x))
    return L.Dense(1, activation="sigmoid")(L.GlobalAveragePooling2D()(x))


MODELS = {
    function.__name__: function for function in (twice, operations, normalized, within, channels_first, functions)
}


def model(function, shape=(9, 8, 3)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    twin = keras.Model(inputs, function(inputs), name=function.__name__)
    random = np.random.default_rng(0)
    for weight in twin.weights:
        if weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(random.uniform(0.5, 2, weight.shape))
        elif weight.path.endswith(("moving_mean", "beta", "bias", "alpha")):
            weight.assign(random.normal(0, 0.3, weight.shape))
    return twin


def theirs(twin, images):
    return np.asarray(twin(images, training=False))


def ours(network, images, twin):
    x = jax.numpy.asarray(images, jax.numpy.float32)
    found = np.asarray(network(network.preprocess(x, x.dtype)))
    last = getattr(twin.layers[-1], "activation", None)
    return 1 / (1 + np.exp(-found)) if last is keras.activations.sigmoid else found


@pytest.mark.parametrize("name", [slow(name) for name in MODELS])
def test_graphs(name, tmp_path, caplog):
    twin = model(MODELS[name])
    if name == "channels_first":  # an example of two axes is neither an image nor a vector
        with pytest.raises(UserError, match="on a tensor of 3 axes"):
            fv.models.from_keras(twin)
        return
    if name != "within":  # whose shared layer Keras does not save
        twin.save(tmp_path / "net.keras")
    network = fv.models.from_keras(twin if name == "within" else tmp_path / "net.keras")
    images = np.random.default_rng(1).normal(0, 1, (4, 9, 8, 3)).astype(np.float32)
    wanted = theirs(twin, images)
    assert_alive(wanted)
    np.testing.assert_allclose(ours(network, images, twin), wanted, atol=2e-5)
    again = fv.load_model(fv.save_model(network, tmp_path / "net.safetensors"))
    np.testing.assert_array_equal(np.asarray(again(images)), np.asarray(network(images)))


def test_what_surrounds_a_network_and_its_names(tmp_path, caplog):
    twin = model(residual)
    twin.save(tmp_path / "net.keras")
    network = fv.models.from_keras(tmp_path / "net.keras")
    images = np.random.default_rng(1).integers(0, 256, (4, 9, 8, 3)).astype(np.float32)
    wanted = theirs(twin, images)
    assert_alive(wanted)
    np.testing.assert_allclose(fv.predict(network, images.astype(np.uint8)), wanted, atol=2e-5)
    assert network.preprocess == fv.layers.Preprocess(1 / 127.5, -1.0)
    for words in (
        "RandomFlip is left out: it acts in training only",
        "has no gamma there, and learns one here",
        "the softmax at the end is left out",
        "preprocess is value * 0.00784313725490196 + -1.0",
    ):
        assert words in caplog.text
    uses = [node.layer for node in network.nodes]
    assert uses.count("block.depthwise") == uses.count("block.conv") == 2
    assert {"stem", "separable_depthwise", "separable_pointwise", "dropout", "scores"} <= set(uses)
    stem = dict(network.named_layers())["stem"]
    assert stem.padding == ((0, 1), (0, 1))
    np.testing.assert_array_equal(variables(network)["stem.kernel"], twin.get_layer("stem").get_weights()[0])
    trained = nnx.to_flat_state(nnx.state(network, nnx.Param))
    assert len(trained) == len(twin.trainable_weights) + 1  # the scale that it learns here


def test_what_does_not_learn_in_keras_does_not_learn_here(tmp_path, caplog):
    """Fine-tuning as Keras's guide has it: a head on a base that is frozen, its normalization with it."""
    base = keras.Sequential(
        [L.Conv2D(4, 3, name="conv"), L.BatchNormalization(scale=False, name="norm"), L.Dropout(0.5)], name="base"
    )
    entry = keras.Input((8, 8, 3))
    twin = keras.Model(entry, L.Dense(2, name="head")(L.Flatten()(base(entry))))
    base.trainable = False
    network = fv.models.from_keras(twin)
    assert "base.conv, base.norm with trainable=False: not trained here either" in caplog.text
    assert "learns one here" not in caplog.text
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    data = fv.data.from_arrays(images, np.arange(16) % 2, images[:2], np.arange(2))
    again = fv.load_model(fv.save_model(network, tmp_path / "net.safetensors"))
    trained = variables(fv.fit(again, data, fv.Recipe(epochs=1, batch_size=8)).model)
    before = variables(network)
    moved = [name for name, value in trained.items() if (value != before[name]).any()]
    twin.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    old = {weight.path: np.array(weight.value) for weight in twin.weights}
    twin.train_on_batch(images / np.float32(255), np.arange(16) % 2)
    theirs_moved = [weight.path for weight in twin.weights if (np.array(weight.value) != old[weight.path]).any()]
    assert sorted(moved) == sorted(path.replace("/", ".") for path in theirs_moved) == ["head.bias", "head.kernel"]
    assert len(export.to_torch(again).state_dict()) == 9  # that of PyTorch's layers, with a count of batches


# Files that claim more than they hold.


def edited(path, change=lambda config: None, weights=None):
    """A saved model with its configuration changed, or other weights."""
    twin = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(3, name="wide"), L.Dense(2, name="last")])
    twin.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config["config"]["layers"])
    parts["config.json"] = json.dumps(config).encode()
    parts |= {} if weights is None else {"model.weights.h5": weights}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return path


def wide(layers):
    layers[2]["config"]["units"] = 2**40
    for layer in layers[2:]:
        layer.pop("build_config", None)


def deep_image(layers):
    layers[0]["config"]["batch_shape"] = [None, 2**20, 2**20, 2**10]


def hollow():
    """Weights of a shape for which nothing is stored."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        file.create_dataset("layers/dense/vars/0", (2**20, 2**20), "f4", chunks=(1024, 1024))
    return held.getvalue()


CLAIMS = {
    "units": ({"change": wide}, "is not a Keras file that can be loaded|describes layers of"),
    "an image": ({"change": deep_image}, "is not a Keras file|describes layers of|would hold"),
    "weights of which none is stored": ({"weights": hollow()}, "claims 1.1e.12 numbers in .* bytes: it is damaged"),
    "weights that unpack to many": ({"weights": bytes(2**27)}, "claims to hold 1.34e.08 bytes: it is damaged"),
    "no weights": ({"weights": b"nothing"}, "is not a Keras file that can be loaded"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_files_that_claim_too_much_are_one_line(case, tmp_path):
    settings, words = CLAIMS[case]
    with pytest.raises(UserError, match=words) as caught:
        fv.models.from_keras(edited(tmp_path / "net.keras", **settings))
    assert "\n" not in str(caught.value)
    fv.models.from_keras(edited(tmp_path / "net.keras"))
