"""What the page shows of the winner: samples, mistakes, doubts, first weights, layers; against NumPy."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

import flaxvision as fv
from flaxvision.report.pictures import Picture, picture
from flaxvision.report.winner import look_at
from tests.conftest import made_dataset

pytestmark = pytest.mark.quick


def pixels_of(shown: Picture) -> np.ndarray:
    """What a picture on the page holds."""
    head, _, data = shown.source.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def dataset() -> fv.data.Dataset:
    made = made_dataset((8, 8, 1), 3, 60, 50)
    files = np.array([f"{label}/{i}.png" for i, label in enumerate(made.test.labels)], object)
    return dataclasses.replace(made, test=dataclasses.replace(made.test, files=files), classes=("cat", "<dog>", "emu"))


def network() -> fv.layers.Network:
    return fv.models.create("mlp", input_shape=(8, 8, 1), num_classes=3, hidden=[8])


def test_mistakes_and_doubts_are_those_of_the_probabilities(dataset):
    model = network()
    chances, labels = fv.predict(model, dataset.test.images), dataset.test.labels
    mistakes, doubts = look_at(model, dataset).errors
    wrong = sorted(np.flatnonzero(chances.argmax(1) != labels), key=lambda i: -chances[i].max())
    unsure = sorted(range(50), key=lambda i: chances[i].max())
    for gallery, expected in ((mistakes, wrong[:16]), (doubts, unsure[:16])):
        assert len(gallery.pictures) == len(expected)
        for shown, i in zip(gallery.pictures, expected, strict=True):
            answer = dataset.classes[chances[i].argmax()]
            name = f"{labels[i]}/{i}.png"
            assert shown.lines == (f"{dataset.classes[labels[i]]} → {answer}", f"{100 * chances[i].max():.1f} %", name)
            np.testing.assert_array_equal(pixels_of(shown), dataset.test.images[i, ..., 0])
    assert f"of {len(wrong)} in 50 test images" in mistakes.note


def test_samples_are_of_all_classes(dataset):
    (samples,) = look_at(network(), dataset).data
    assert [shown.lines for shown in samples.pictures] == [(name,) for name in (dataset.classes * 6)[:16]]
    first = np.flatnonzero(dataset.train.labels == 2)[0]
    np.testing.assert_array_equal(pixels_of(samples.pictures[2]), dataset.train.images[first, ..., 0])


def test_first_weights_and_layers(dataset):
    model = network()
    found = look_at(model, dataset)
    (weights,) = found.weights
    assert "all 8 units" in weights.note
    kernel = np.asarray(next(layer.kernel[...] for _, layer in model.named_layers() if hasattr(layer, "kernel")))
    for unit, shown in zip(kernel.T.reshape(8, 8, 8), weights.pictures, strict=True):
        pixels = pixels_of(shown).astype(int)
        assert (unit.flat[np.abs(unit).argmax()] > 0) == (pixels.reshape(64, 3)[np.abs(unit).argmax(), 0] > 200)
        assert ((pixels[..., 0] >= pixels[..., 2]) == (unit >= 0))[np.abs(unit) > 0.02 * np.abs(unit).max()].all()
    counts = [int(row[3].replace(",", "")) for row in found.layers.rows]
    assert sum(counts) == 64 * 8 + 8 + 8 * 3 + 3


def test_filters_of_a_convolution():
    build = fv.models.Build("own", (6, 6, 3), seed=0)
    build.conv("first", 4, 3)
    build.flatten("flat")
    build.linear("out", 2)
    (weights,) = look_at(build.network(), made_dataset((6, 6, 3), 2, 20, 10)).weights
    assert [pixels_of(shown).shape for shown in weights.pictures] == [(3, 3, 3)] * 4
    assert "all 4 filters; gray is 0" in weights.note


def test_points_and_reconstructions():
    points = made_dataset((2,), 3, 30, 20)
    found = look_at(fv.models.create("polar_linear", num_classes=3), points)
    assert (found.data, found.errors, found.weights) == ((), (), ())
    assert found.layers.rows
    images = made_dataset((28, 28, 1), 3, 20, 12)
    (worst,) = look_at(fv.models.create("emnist_autoencoder"), images).errors
    assert len(worst.pictures) == 8
    halves = [np.split(pixels_of(shown), 2, axis=1) for shown in worst.pictures]
    errors = [np.square(made.astype(float) - given).mean() for given, made in halves]
    assert errors == sorted(errors, reverse=True)
    assert {given.tobytes() for given, _ in halves} <= {image.tobytes() for image in images.test.images[..., 0]}


@pytest.mark.parametrize(("shape", "kept"), [((300, 150, 3), (48, 96)), ((5, 5, 2), (5, 5)), ((4, 4, 4), (4, 4))])
def test_pictures_of_any_size_are_small(shape, kept):
    shown = picture(np.full(shape, 7, np.uint8), "x")
    assert pixels_of(shown).shape[1::-1] == kept
    assert max(shown.width, shown.height) == 112
