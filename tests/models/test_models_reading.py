"""What ONNX files and Keras models are alike read for: how they end, and half precision."""

import jax
import numpy as np
import pytest
from onnx import TensorProto

import flaxvision as fv
from tests.conftest import slow
from tests.models.onnx_files import Writer, f32, ints, last, ours, theirs

pytestmark = [
    pytest.mark.quick,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's, under NumPy 2
]
WORDS = "its outputs are probabilities, which predict and fit take for scores"


# The end of an ONNX file, of maps (4, 6, 5).


def scores(w, outputs):
    """Of every example, after a scaling that becomes preprocessing."""
    w.add("Mul", np.float32(1 / 255))
    w.add("Relu", at=w.add("Conv", f32(4, 4, 3, 3), f32(4)))
    return w.add("Conv", f32(outputs, 4, 1, 1, scale=2), f32(outputs), at=w.add("GlobalAveragePool"))


def of_vectors(*operators, outputs=3):
    def write(w):
        scores(w, outputs)
        w.add("Flatten")
        for op, *inputs in operators:
            w.add(op, *inputs)

    return write


def of_maps(w):
    """As TF-Slim's and the first MobileNets of Keras."""
    scores(w, 3)
    w.add("Reshape", ints(0, -1), at=w.add("Softmax", axis=1))


def mean_of_two(w):
    x = scores(w, 3)
    second = w.add("Softmax", at=w.add("Flatten", at=w.add("Neg", at=x)))
    w.add("Mul", np.float32(0.5), at=w.add("Add", second, at=w.add("Softmax", at=w.add("Flatten", at=x))))


def over_channels(w):
    w.add("Mul", np.float32(1 / 255))
    w.add("Flatten", at=w.add("Softmax", axis=1, at=w.add("Conv", f32(3, 4, 5, 5))))


LEFT_OUT = {
    "softmax, then Reshape": (of_vectors(("Softmax",), ("Reshape", ints(-1, 3))), "softmax"),
    "softmax of a map, then Reshape": (of_maps, "softmax"),
    "log_softmax, then Squeeze": (
        of_vectors(("LogSoftmax",), ("Unsqueeze", ints(1)), ("Squeeze", ints(1))),
        "log_softmax",
    ),
    "sigmoid, then Reshape": (of_vectors(("Sigmoid",), ("Reshape", ints(-1, 1)), outputs=1), "sigmoid"),
    "softmax, then Dropout and Flatten": (of_vectors(("Softmax",), ("Dropout",), ("Flatten",)), "softmax"),
}


@pytest.mark.parametrize("case", [case if "map" in case or "sigmoid" in case else slow(case) for case in LEFT_OUT])
def test_what_makes_probabilities_in_onnx_is_left_out(case, tmp_path, caplog):
    write, name = LEFT_OUT[case]
    w = Writer(tmp_path / "net.onnx", (4, 6, 5), opset=13)
    write(w)
    model = fv.models.from_onnx(w.save())
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 5)).astype(np.float32)
    wanted = theirs(w.path, images)
    wanted = np.exp(wanted) if name == "log_softmax" else wanted
    assert np.ptp(wanted) > 0.01
    wanted = np.concatenate([1 - wanted, wanted], axis=1) if name == "sigmoid" else wanted
    np.testing.assert_allclose(fv.predict(model, last(images).astype(np.uint8)), wanted, atol=1e-5)
    assert f"the {name} at the end is left out" in caplog.text
    assert WORDS not in caplog.text


STAY = {
    "several sigmoids": of_vectors(("Sigmoid",), ("Reshape", ints(-1, 3))),
    "the mean of two softmaxes": mean_of_two,
    "a softmax over the channels of maps": over_channels,
}


@pytest.mark.parametrize("case", [case if case == "the mean of two softmaxes" else slow(case) for case in STAY])
def test_probabilities_that_stay_are_said(case, tmp_path, caplog):
    w = Writer(tmp_path / "net.onnx", (4, 6, 5), opset=13)
    STAY[case](w)
    model = fv.models.from_onnx(w.save())
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(ours(model, last(images)), theirs(w.path, images), atol=1e-5)
    assert WORDS in caplog.text
    assert "is left out" not in caplog.text


def test_features_are_no_probabilities(tmp_path, caplog):
    w = Writer(tmp_path / "net.onnx", (6,), opset=13)
    w.add("Sigmoid", at=w.add("Gemm", f32(6, 3), f32(3)))
    w.add("Relu")
    fv.models.from_onnx(w.save())
    assert not caplog.text


# The end of a Keras model.


@pytest.fixture
def keras():
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield keras


KERAS = {
    "softmax, then linear": lambda L: [L.Flatten(), L.Dense(3), L.Activation("softmax"), L.Activation("linear")],
    "a layer as activation": lambda L: [L.Flatten(), L.Dense(3, activation=L.Softmax())],
    "softmax of a map, then Reshape": lambda L: [
        L.GlobalAveragePooling2D(keepdims=True),
        L.Conv2D(3, 1),
        L.Softmax(),
        L.Reshape((3,)),
    ],
    "softmax, then Dropout": lambda L: [L.Flatten(), L.Dense(3, activation="softmax"), L.Dropout(0.5)],
    "one sigmoid, then Reshape": lambda L: [L.Flatten(), L.Dense(1, activation="sigmoid"), L.Reshape((1,))],
}


@pytest.mark.parametrize("case", [slow(case) if case == "softmax, then Dropout" else case for case in KERAS])
def test_what_makes_probabilities_in_keras_is_left_out(case, keras, caplog):
    x = entry = keras.Input((6, 5, 2))
    for layer in KERAS[case](keras.layers):
        x = layer(x)
    twin = keras.Model(entry, x)
    images = np.random.default_rng(0).integers(0, 9, (5, 6, 5, 2), dtype=np.uint8)
    wanted = np.asarray(twin(images.astype(np.float32), training=False))
    assert np.ptp(wanted) > 0.01
    wanted = np.concatenate([1 - wanted, wanted], axis=1) if "sigmoid" in case else wanted
    np.testing.assert_allclose(fv.predict(fv.models.from_keras(twin), images), wanted, atol=1e-5)
    assert "at the end is left out" in caplog.text


# Half precision.


@pytest.mark.parametrize("dtype", ["bfloat16", slow("float16")])
def test_a_keras_model_of_mixed_precision(dtype, keras, caplog):
    def make(policy):
        L = keras.layers
        x = entry = keras.Input((8, 8, 3))
        x = L.BatchNormalization(dtype=policy)(L.Conv2D(8, 3, activation="relu", dtype=policy)(x))
        return keras.Model(entry, L.Dense(3, dtype="float32")(L.Flatten(dtype=policy)(x)))

    half, whole = make(f"mixed_{dtype}"), make("float32")
    whole.set_weights(half.get_weights())
    network = fv.models.from_keras(half)
    images = np.random.default_rng(0).normal(0, 1, (4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(network(images), np.asarray(whole(images, training=False)), atol=1e-5)
    share = {"bfloat16": "5%", "float16": "1%"}[dtype]
    assert f"computed in {dtype} there, in float32 here: compared within {share} of the largest" in caplog.text


def test_a_file_of_half_precision_that_takes_and_gives_float32(tmp_path, caplog):
    """As converters write it: Casts at both ends."""
    w = Writer(tmp_path / "net.onnx", (64,), opset=13)
    w.add("Cast", to=TensorProto.FLOAT16)
    half = [f32(*shape, scale=0.1).astype(np.float16) for shape in ((64, 64), (64,), (64, 5), (5,))]
    w.add("Relu", at=w.add("Gemm", *half[:2]))
    w.add("Gemm", *half[2:])
    w.add("Cast", to=TensorProto.FLOAT)
    model = fv.models.from_onnx(w.save())
    x = f32(4, 64)
    a, b, c, d = (each.astype(np.float32) for each in half)
    np.testing.assert_allclose(ours(model, x), np.maximum(x @ a + b, 0) @ c + d, atol=1e-5)
    np.testing.assert_allclose(ours(model, x), theirs(w.path, x), atol=1e-2)
    assert "computed in float16 there, in float32 here: compared within 1% of the largest" in caplog.text
