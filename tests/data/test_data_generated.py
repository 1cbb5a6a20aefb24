"""Generated sets: what they are made of, that they are the same every time, and how hard they are."""

from __future__ import annotations

import numpy as np
import pytest

from flaxvision import data
from flaxvision.data.clusters import RADII
from flaxvision.data.glyphs import draw_glyphs
from flaxvision.errors import UserError


@pytest.fixture(scope="module")
def glyphs():
    return data.load("glyphs")


def test_glyphs_defaults(glyphs):
    assert glyphs.train.images.shape == (10_000, 28, 28, 1)
    assert glyphs.source.counts == (("train", 10_000), ("test", 2_000))
    assert glyphs.source.kind == "generated"
    assert glyphs.source.official is None
    assert glyphs.classes == tuple("0123456789")
    for split in glyphs.splits.values():
        assert len(set(np.bincount(split.labels))) == 1  # equal shares


def test_glyphs47_has_the_classes_of_emnist():
    glyphs47 = data.load("glyphs47", limit=940)
    assert glyphs47.classes == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
    assert np.bincount(glyphs47.test.labels).tolist() == [20] * 47


def test_a_draw_is_the_same_again_and_the_beginning_of_a_longer_one(glyphs):
    again = draw_glyphs("0123456789", 250)
    assert np.array_equal(again.images, glyphs.train.images[:250])
    assert np.array_equal(again.labels, glyphs.train.labels[:250])
    limited = data.load("glyphs", limit=250)
    assert np.array_equal(limited.train.images, again.images)
    assert limited.source.checksum == data.load("glyphs", limit=250).source.checksum != glyphs.source.checksum


def test_other_seeds_and_streams_share_no_image(glyphs):
    seen = {image.tobytes() for image in glyphs.train.images}
    assert len(seen) == 10_000
    assert not any(image.tobytes() in seen for image in glyphs.test.images)
    assert not any(image.tobytes() in seen for image in draw_glyphs("0123456789", 100, seed=1).images)


def test_every_character_in_every_font_is_drawn():
    from flaxvision.data.glyphs import _atlas
    from flaxvision.data.published import BALANCED

    atlas = _atlas(BALANCED)
    ink = atlas.sum((2, 3))
    assert ink.min() > 50
    border = max(atlas[..., 0, :].max(), atlas[..., -1, :].max(), atlas[..., 0].max(), atlas[..., -1].max())
    assert border < 0.02  # nothing is cut off, and clamped samples outside are empty
    same = (atlas[None, :] == atlas[:, None]).all((2, 3, 4)).sum()
    assert same == len(BALANCED)  # no two characters look the same, as missing ones would


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (64, 1), (32, 3)])
def test_size_and_channels(size, channels):
    colour = data.load("glyphs", size=size, channels=channels, examples=60)
    assert colour.input_shape == (size, size, channels)
    assert colour.source.counts == (("train", 60), ("test", 12))
    grey = colour.train.images.astype(int)
    assert (np.ptp(grey, axis=-1).max() > 50) == (channels == 3)


def test_a_linear_model_stays_below_95_percent(glyphs):
    rng = np.random.default_rng(0)
    x, test_x = (split.images.reshape(len(split), -1) / np.float32(255) for split in (glyphs.train, glyphs.test))
    onehot = np.eye(10, dtype=np.float32)[glyphs.train.labels]
    weights, bias = np.zeros((784, 10), np.float32), np.zeros(10, np.float32)
    for epoch in range(8):  # softmax regression, falling steps
        order, rate = rng.permutation(len(x)), np.float32(0.5 * (1 - epoch / 8))
        for batch in order.reshape(-1, 200):
            logits = x[batch] @ weights + bias
            error = np.exp(logits - logits.max(1, keepdims=True))
            error = error / error.sum(1, keepdims=True) - onehot[batch]
            weights -= rate * x[batch].T @ error / 200
            bias -= rate * error.mean(0)
    accuracy = ((test_x @ weights + bias).argmax(1) == glyphs.test.labels).mean()
    assert 0.80 < accuracy < 0.945


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size is 4 pixels: give 8 or more"),
        ({"size": 0}, "size is 0: give pixels a side"),
        ({"channels": 2}, "channels is 2: allowed are 1"),
        ({"examples": 0}, "examples is 0: give 1 or more"),
        ({"limit": 0}, "limit is 0: give 1 or more"),
    ],
)
def test_glyph_errors(options, message):
    with pytest.raises(UserError, match=message):
        data.load("glyphs", **options)


def test_two_clusters():
    clusters = data.load("two_clusters")
    assert clusters.input_shape == (2,)
    assert clusters.train.images.dtype == np.float32
    assert np.bincount(clusters.train.labels).tolist() == [1008, 1008]
    assert np.bincount(clusters.test.labels).tolist() == [257, 247]
    for split in clusters.splits.values():
        radius = np.linalg.norm(split.images, axis=1)
        for label, (low, high) in enumerate(RADII):
            assert low - 1e-5 <= radius[split.labels == label].min()
            assert radius[split.labels == label].max() <= high + 1e-5
        assert np.array_equal(radius > 7, split.labels == 1)
    assert data.load("two_clusters").source == clusters.source


def test_validation_is_held_out_by_its_seed():
    first, second, other = (data.load("two_clusters", validation=0.25, validation_seed=seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.validation)) == (1512, 504)
    assert np.array_equal(first.validation.images, second.validation.images)
    assert not np.array_equal(first.validation.images, other.validation.images)
    assert len(np.unique(np.concatenate([first.train.images, first.validation.images]), axis=0)) == 2016


@pytest.mark.parametrize("options", [{"size": 28}, {"channels": 1}])
def test_points_have_no_size(options):
    with pytest.raises(UserError, match=r"two_clusters has examples of shape \(2,\)"):
        data.load("two_clusters", **options)


def test_unknown_names():
    with pytest.raises(UserError, match="unknown data set 'minst': did you mean 'mnist'"):
        data.load("minst")
    with pytest.raises(UserError, match="examples to draw is for glyphs and glyphs47 only"):
        data.load("two_clusters", examples=10)
    assert data.list_datasets()[0] == "glyphs"
    assert data.list_datasets()[-3:] == ("npz:FOLDER", "images:FOLDER", "tfds:NAME")


def test_a_seed_of_no_draw_is_refused():
    with pytest.raises(UserError, match="validation_seed is 7 but has no effect without validation: leave it out"):
        data.load("two_clusters", validation_seed=7)
