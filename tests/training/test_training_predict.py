"""What predict and evaluate take, and what they refuse to believe."""

from __future__ import annotations

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.data import Split
from flaxvision.errors import UserError
from flaxvision.layers import Preprocess

pytestmark = pytest.mark.quick

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 1), dtype=np.uint8)
IMAGES[0, 0, 0, 0] = 255


@pytest.fixture(scope="module")
def model():
    made = fv.models.create("linear", input_shape=(6, 5, 1), num_classes=3)
    made.preprocess = Preprocess(1 / 255)
    return made


TAKEN = {
    "float32": IMAGES.astype(np.float32),
    "float64": IMAGES.astype(float),
    "int64": IMAGES.astype(np.int64),
    "(N, H, W)": IMAGES[..., 0],
    "a list": list(IMAGES),
    "nested lists": IMAGES.tolist(),
}


@pytest.mark.parametrize("case", TAKEN)
def test_pixels_in_other_forms_give_the_same(case, model):
    np.testing.assert_allclose(fv.predict(model, TAKEN[case]), fv.predict(model, IMAGES), atol=1e-6)


def test_black_and_dark_images_are_images(model):
    assert fv.predict(model, np.zeros((2, 6, 5, 1))).shape == (2, 3)
    assert fv.predict(model, IMAGES // 128).shape == (7, 3)
    assert fv.predict(model, IMAGES[:0]).shape == (0, 3)


REFUSED = {
    "0 to 1": (IMAGES / 255, r"float64 from 0 to 1, and seem scaled: .*np.rint\(images \* 255\).astype\('uint8'\)"),
    "-1 to 1": (IMAGES / 127.5 - 1, "seem scaled: give the pixels, 0 to 255"),
    "normalised": ((IMAGES - 33.0) / 78, "seem scaled: give the pixels"),
    "bool": (IMAGES > 9, r"images are bool: write images.astype\('uint8'\) \* 255"),
    "int8": (IMAGES.astype(np.int8), "images are int8"),
    "16 bits": (IMAGES.astype(np.uint16) * 257, "allowed are pixels 0 to 255"),
    "NaN": (np.full(IMAGES.shape, np.nan), "hold 210 values that are not finite"),
    "complex": (IMAGES.astype(complex), "examples are complex128"),
    "text": (np.full(IMAGES.shape, "a"), "examples are <U1"),
    "objects": (np.full(IMAGES.shape, None), "examples are object"),
    "one image": (IMAGES[0], r"give an array of several, x\[None\] for one"),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), r"channels come last, write x.transpose\(0, 2, 3, 1\)"),
    "rows of pixels": (IMAGES.reshape(7, -1), r"write x.reshape\(-1, 6, 5, 1\)"),
    "another size": (np.zeros((2, 8, 8, 1), np.uint8), r"given are \(8, 8, 1\): give an array \(N, 6, 5, 1\)"),
    "unequal": ([[1, 2], [3]], "examples are not an array"),
    "a number": (3, "give an array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_one_line(case, model):
    images, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as caught:
        fv.predict(model, images)
    assert "\n" not in str(caught.value)


def test_a_network_that_scales_nothing_takes_any_finite_number():
    bare = fv.models.create("linear", input_shape=(6, 5, 1), num_classes=3)
    assert fv.predict(bare, IMAGES / 255).shape == (7, 3)
    points = fv.models.create("linear", input_shape=(2,), num_classes=3)
    assert fv.predict(points, np.array([[-1.5, 2000.0]])).shape == (1, 3)
    with pytest.raises(UserError, match="1 values are not finite"):
        fv.predict(points, np.array([[np.inf, 0.0]]))


@pytest.mark.parametrize("label", [3, 200, -1])
def test_evaluate_names_a_label_out_of_range(label, model):
    labels = np.zeros(7, np.int32)
    labels[4] = label
    with pytest.raises(UserError, match=f"label {label} at index 4 is outside the 3 classes: labels are 0 to 2"):
        fv.evaluate(model, Split(IMAGES, labels))


def test_what_was_meant_is_said(model):
    result = fv.training.Result.__new__(fv.training.Result)
    object.__setattr__(result, "model", model)
    split = Split(IMAGES, np.zeros(7, np.int32))
    for call, words in (
        (lambda: fv.predict(result, IMAGES), "the model is a Result: give result.model"),
        (lambda: fv.predict("net.safetensors", IMAGES), "the model is a str: give one of create or load_model"),
        (lambda: fv.predict(model, split), "examples are a Split: give its images"),
        (lambda: fv.evaluate(model, IMAGES), "evaluate got a ndarray: give a Split, such as data.test"),
        (lambda: fv.fit(model, (IMAGES, None), fv.Recipe()), "fit got a tuple: give a Dataset"),
    ):
        with pytest.raises(UserError, match=words):
            call()
