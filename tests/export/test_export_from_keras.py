"""Keras models as people save them: what surrounds the network, and outputs that are Keras's own."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import export
import flaxvision as fv
from flaxvision.errors import UserError
from tests.conftest import slow

keras = pytest.importorskip("keras")
L = keras.layers
pytestmark = [
    pytest.mark.quick,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's saving, under NumPy 2
    pytest.mark.filterwarnings("ignore:.*includes a `lambda`:UserWarning"),
]


@pytest.fixture(autouse=True)
def as_keras_wants():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def convnet(*first, shape=(9, 8, 3), last=None, units=4, name="convnet"):
    return keras.Sequential(
        [
            *([keras.Input(shape)] if shape else []),
            *first,
            L.Conv2D(5, 3, activation="relu"),
            L.MaxPooling2D(2),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(units, activation=last),
        ],
        name=name,
    )


def adapted():
    layer = L.Normalization(axis=-1)
    layer.adapt(np.random.default_rng(1).normal((100, 20, 60), (9, 4, 30), (200, 3)).reshape(10, 5, 4, 3))
    return layer


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def sigmoid_columns(p):
    return np.concatenate([1 - p, p], axis=1)


same = lambda p: p  # noqa: E731
MODELS = {  # the model, what predict gives of what it gives, what is said
    "softmax in the last Dense": (lambda: convnet(last="softmax"), same, "the softmax at the end is left out"),
    "Softmax layer": (lambda: keras.Sequential([convnet(), L.Softmax()]), same, "the softmax at the end is left out"),
    "Activation softmax": (
        lambda: keras.Sequential([keras.Input((9, 8, 3)), L.Flatten(), L.Dense(3), L.Activation("softmax")]),
        same,
        "the softmax at the end",
    ),
    "one sigmoid": (lambda: convnet(last="sigmoid", units=1), sigmoid_columns, "the sigmoid at the end is left out"),
    "logits": (convnet, softmax, ""),
    "Rescaling": (lambda: convnet(L.Rescaling(1 / 127.5, offset=-1)), softmax, "preprocess is value * 0.00784"),
    "Rescaling twice": (lambda: convnet(L.Rescaling(1 / 255), L.Rescaling(2.0, -1)), softmax, "+ -1.0"),
    "Rescaling by channel": (
        lambda: convnet(L.Rescaling(scale=[0.01, 0.02, 0.03], offset=[0.1, 0.2, 0.3])),
        softmax,
        "preprocess is value * (0.01, 0.02, 0.03) + (0.1, 0.2, 0.3)",
    ),
    "Normalization, given": (lambda: convnet(L.Normalization(mean=33.0, variance=78.5)), softmax, "preprocess is"),
    "Normalization, adapted": (lambda: convnet(L.Rescaling(0.5), adapted()), softmax, "preprocess is value * ("),
    "augmentation within": (
        lambda: convnet(
            keras.Sequential([L.RandomFlip(), L.RandomRotation(0.1)], name="augmentation"), L.Rescaling(0.01)
        ),
        softmax,
        "RandomFlip is left out: it acts in training only; RandomRotation is left out",
    ),
    "noise and spatial dropout": (
        lambda: convnet(L.GaussianNoise(0.1), L.SpatialDropout2D(0.2)),
        softmax,
        "GaussianNoise is left out",
    ),
    "Resizing to the same": (lambda: convnet(L.Resizing(9, 8)), softmax, ""),
    "two paddings": (lambda: convnet(L.ZeroPadding2D(1), L.ZeroPadding2D(((1, 0), (0, 2)))), softmax, ""),
    "a backbone within": (
        lambda: keras.Sequential([keras.Input((9, 8, 3)), L.Rescaling(0.01), convnet(name="backbone"), L.Dense(2)]),
        softmax,
        "preprocess is value * 0.01",
    ),
    "functional with a backbone": (lambda: functional(), same, "the softmax at the end is left out"),
    "Reshape for Flatten, ELU": (
        lambda: keras.Sequential([keras.Input((9, 8, 3)), L.Reshape((-1,)), L.Dense(4), L.ELU(), L.Dense(3)]),
        softmax,
        "",
    ),
    "softmax in the middle, HWC at the end": (
        lambda: keras.Sequential(
            [keras.Input((9, 8, 3)), L.Conv2D(2, 3, activation="softmax"), L.Flatten(), L.BatchNormalization()]
        ),
        softmax,
        "",
    ),
    "LoRA": (lambda: adapter(), softmax, "the LoRA adapter of 'dense' is added to its kernel"),
}


def functional():
    inputs = keras.Input((9, 8, 3))
    x = convnet(L.Rescaling(1 / 255), name="inner")(inputs)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(L.ReLU()(x)))


def adapter():
    inputs = keras.Input((9, 8, 3))
    dense = L.Dense(3, name="dense")
    model = keras.Model(inputs, dense(L.Flatten()(inputs)))
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.random.default_rng(0).normal(0, 0.01, dense.lora_kernel_b.shape))
    return model


QUICK = ("softmax in the last Dense", "one sigmoid", "Normalization, adapted", "augmentation within", "LoRA")
QUICK += ("two paddings", "functional with a backbone", "Rescaling by channel")


@pytest.mark.parametrize("case", [case if case in QUICK else slow(case) for case in MODELS])
def test_a_saved_model_gives_keras_own_outputs(case, tmp_path, caplog):
    make, of_theirs, said = MODELS[case]
    keras.utils.set_random_seed(0)
    twin = make()
    images = np.random.default_rng(0).integers(0, 9, (6, 9, 8, 3), dtype=np.uint8)
    theirs = np.asarray(twin(images.astype(np.float32), training=False))
    assert theirs.std(axis=0).max() > 1e-4
    if case == "LoRA":  # Keras itself does not save what makes it one layer again
        ours = export.from_keras(twin)
    else:
        twin.save(tmp_path / "net.keras")
        ours = export.from_keras(tmp_path / "net.keras")
    scale = max(1, np.abs(theirs).max())
    np.testing.assert_allclose(fv.predict(ours, images), of_theirs(theirs), atol=2e-5 * scale)
    assert said in caplog.text if said else not caplog.text


def test_a_reshape_at_the_start_gives_the_shape_of_the_images(tmp_path, caplog):
    keras.utils.set_random_seed(0)
    twin = convnet(L.Reshape((9, 8, 3)), shape=(216,), last="softmax")
    twin.save(tmp_path / "net.keras")
    ours = export.from_keras(tmp_path / "net.keras")
    images = np.random.default_rng(0).random((5, 9, 8, 3)).astype(np.float32)
    assert ours.input_shape == (9, 8, 3)
    theirs = np.asarray(twin(images.reshape(5, -1)))
    np.testing.assert_allclose(softmax(np.asarray(ours(images))), theirs, atol=1e-5)
    assert "it takes examples of shape (9, 8, 3) here, not (216,)" in caplog.text


def test_preprocessing_by_channel_travels(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    keras.utils.set_random_seed(0)
    ours = export.from_keras(convnet(adapted()))
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
    expected = fv.predict(ours, images)
    again = fv.load_model(fv.save_model(ours, tmp_path / "net.safetensors"))
    assert again.preprocess == ours.preprocess
    np.testing.assert_array_equal(fv.predict(again, images), expected)
    for layout, x in (("NCHW", images.transpose(0, 3, 1, 2)), ("NHWC", images)):
        path = export.to_onnx(ours, tmp_path / f"{layout}.onnx", layout=layout, normalize=True, softmax=True)
        (found,) = ort.InferenceSession(path).run(None, {"input": x})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_h5_file_written_by_another_process_loads(tmp_path):
    script = (
        "import keras, numpy as np; from keras import layers as L; keras.utils.set_random_seed(0)\n"
        "m = keras.Sequential([keras.Input((4, 4, 1)), L.Rescaling(1 / 255), L.Flatten(), L.Dense(3, 'softmax')])\n"
        "m.save('net.h5')\n"
        "np.save('p.npy', m.predict(np.arange(32, dtype='float32').reshape(2, 4, 4, 1), verbose=0))"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=tmp_path, env=environment)
    ours = export.from_keras(tmp_path / "net.h5")
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    np.testing.assert_allclose(fv.predict(ours, images), np.load(tmp_path / "p.npy"), atol=1e-6)


class Dense(L.Dense):
    """A user's own layer that doubles, by the name of one of Keras's."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


def graph(make):
    def model():
        inputs = keras.Input((8, 8, 3))
        return keras.Model(inputs, make(inputs))

    return model


REFUSED = {
    "a second output": (graph(lambda x: [L.Conv2D(2, 3)(x), L.Flatten()(x)]), "1 inputs and 2 outputs"),
    "an intermediate output": (graph(lambda x: [y := L.Conv2D(2, 3)(x), L.Flatten()(y)]), "1 inputs and 2 outputs"),
    "one's own Dense": (
        graph(lambda x: Dense(3, name="odd")(L.Flatten()(x))),
        "'odd' is a .*Dense, a class of one's own",
    ),
    "one's own model": (Subclassed, "Keras model 'mine' is"),
    "Resizing": (
        graph(lambda x: L.Flatten()(L.Resizing(4, 4, name="odd")(x))),
        "'odd': a Resizing from .8, 8. to .4, 4. cannot be read .*: give images of that size",
    ),
    "a maximum": (
        graph(lambda x: L.Flatten()(L.Maximum(name="odd")([x, L.Conv2D(3, 1)(x)]))),
        "'odd': a Maximum cannot be read .*: a sum or a product would do",
    ),
    "a recurrent layer": (
        graph(lambda x: L.LSTM(3, name="odd")(L.Reshape((8, 24))(x))),
        "'odd': an LSTM cannot be read .*: recurrent layers are outside it; convolutions",
    ),
    "a function": (
        graph(lambda x: L.Flatten()(L.Lambda(lambda y: 2 * y, output_shape=(8, 8, 3), name="odd")(x))),
        "'odd': a Lambda cannot be read .*: a layer of Keras's own",
    ),
    "channels first": (
        graph(lambda x: L.Flatten()(L.MaxPooling2D(2, data_format="channels_first", name="odd")(x))),
        "'odd': a MaxPooling2D with data_format='channels_first' cannot .*: data_format='channels_last'",
    ),
    "no layer": (graph(lambda x: L.GaussianNoise(0.1)(x)), "a model without layers"),
    "any size": (
        lambda: keras.Sequential([keras.Input((None, None, 3)), L.GlobalMaxPooling2D()]),
        "build it for one size",
    ),
    "no size": (lambda: keras.Sequential([L.Dense(3)], name="bare"), "model 'bare' is not built"),
    "several sigmoids stay": (lambda: "no model", "no Keras file no model"),
    "a layer": (lambda: L.Dense(3), "got a Dense: give a Keras model"),
    "an own activation": (
        graph(lambda x: L.Dense(3, activation=lambda y: 2 * y, name="odd")(L.Flatten()(x))),
        "'odd': the activation '<lambda>' cannot be read .*: one of these would do: celu, elu",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_one_line(case):
    make, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as caught:
        export.from_keras(make())
    assert "\n" not in str(caught.value)


def test_several_sigmoids_stay(caplog):
    keras.utils.set_random_seed(0)
    twin = convnet(last="sigmoid")
    ours = export.from_keras(twin)
    images = np.random.default_rng(0).random((5, 9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(ours(images)), np.asarray(twin(images)), atol=1e-5)
    assert "its outputs are probabilities, which predict and fit take for scores" in caplog.text
