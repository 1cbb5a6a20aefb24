"""Augmentations against PyTorch and the papers' code, and how often they draw what."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.training import Recipe
from flaxvision.training.augment import (
    alternately,
    augment_images,
    augment_inputs,
    augment_pixels,
    brightened,
    contrasted,
    flip,
    moved,
)
from flaxvision.training.batches import Partners, take_batch
from flaxvision.training.checks import check_fit
from flaxvision.training.mixing import draw_mix
from tests.conftest import made_dataset

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
move = jax.jit(moved)
IMAGE = RNG.integers(0, 256, (7, 9, 3), np.uint8)


def keys(count):
    return jax.vmap(jax.random.key)(jnp.arange(count, dtype=jnp.uint32))


def numbers(**given):
    return {name: jnp.float32(value) for name, value in given.items()}


@pytest.mark.parametrize(("degrees", "down", "right"), [(0, 0, 0), (30, 0, 0), (-75, 2, -1), (180, -3, 0), (0, 2, 1)])
def test_rotation_and_translation_are_pytorchs(torch, degrees, down, right):
    """`affine_grid` and `grid_sample`, as torchvision's `RandomAffine` calls them, in units of half a side."""
    height, width, _ = IMAGE.shape
    ours = move(jnp.asarray(IMAGE), jnp.float32(np.deg2rad(degrees)), jnp.asarray([down, right], jnp.float32))
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    inverse = np.array([[cosine, -sine], [sine, cosine]])  # from places (x, y) of the output to those of the input
    shift = -inverse @ [right, down]
    sides = np.array([width, height]) / 2
    theta = np.concatenate([inverse * sides[None, :] / sides[:, None], (shift / sides)[:, None]], axis=1)
    image = torch.tensor(IMAGE.transpose(2, 0, 1)[None].astype(np.float32))
    grid = torch.nn.functional.affine_grid(torch.tensor(theta[None], dtype=torch.float32), image.shape, False)
    theirs = torch.nn.functional.grid_sample(image, grid, "bilinear", "zeros", align_corners=False)
    np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0), atol=2e-3)


def test_a_quarter_turn_and_a_move_are_numpys():
    square = IMAGE[:, :7]
    np.testing.assert_allclose(move(jnp.asarray(square), jnp.float32(np.pi / 2), None), np.rot90(square), atol=1e-2)
    ours = move(jnp.asarray(IMAGE), None, jnp.asarray([2.0, -3.0], jnp.float32))
    wanted = np.zeros_like(IMAGE)
    wanted[2:, :-3] = IMAGE[:-2, 3:]
    np.testing.assert_array_equal(ours, wanted)
    assert ours.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_brightness_and_contrast_are_pils(channels, factor):
    """`ImageEnhance`, which rounds the mean and the pixels down to whole numbers."""
    from PIL import Image, ImageEnhance

    image = RNG.integers(0, 256, (8, 8, channels), np.uint8)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    for change, enhance in ((brightened, ImageEnhance.Brightness), (contrasted, ImageEnhance.Contrast)):
        wanted = np.asarray(enhance(picture).enhance(factor), np.float32).reshape(image.shape)
        np.testing.assert_allclose(change(jnp.asarray(image), jnp.float32(factor)), wanted, atol=1.5)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [1, 3])
def test_a_crop_is_a_window_of_the_padded_image(mode, padding):
    around = ((padding, padding), (padding, padding), (0, 0))
    padded = np.pad(IMAGE, around, **({"mode": "reflect"} if mode == "reflect" else {}))
    side = 2 * padding + 1
    windows = {
        padded[i : i + 7, j : j + 9].tobytes(): (i, j) for i in range(side) for j in range(side)
    }  # all are different
    count = 40 * side**2
    images = jnp.broadcast_to(jnp.asarray(IMAGE), (count, *IMAGE.shape))
    found = np.asarray(jax.jit(augment_images, static_argnums=(0, 3, 4))(("crop",), images, keys(count), padding, mode))
    places = np.array([windows[image.tobytes()] for image in found])
    for axis in (0, 1):  # uniform: within five deviations of a count
        counts = np.bincount(places[:, axis], minlength=side)
        assert np.abs(counts - count / side).max() < 5 * np.sqrt(count / side)


def test_an_alternating_flip_alternates():
    """Of each image, whatever its place in the batch: half in the first epoch, and always what it was not before."""
    rows = np.random.default_rng(0).permutation(2000).astype(np.int32)
    which = jax.jit(alternately)
    first, second, third, other = (
        np.asarray(which(np.uint32(seed), rows, np.int32(epoch))) for seed, epoch in ((3, 0), (3, 1), (3, 2), (4, 0))
    )
    assert abs(first.mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)
    assert 0.4 < (other == first).mean() < 0.6
    sorted_rows = np.asarray(which(np.uint32(3), np.sort(rows), np.int32(0)))
    np.testing.assert_array_equal(sorted_rows[rows], first)
    images = jnp.broadcast_to(jnp.asarray(IMAGE), (4, *IMAGE.shape))
    found = flip(images, jnp.asarray([True, False, False, True]))
    np.testing.assert_array_equal(found, [IMAGE[:, ::-1], IMAGE, IMAGE, IMAGE[:, ::-1]])


def test_draws_are_uniform_and_of_their_own():
    """What a white image with one bright pixel, or one of a single gray, becomes tells what was drawn."""
    count = 2000
    recipe = Recipe(brightness=0.3, translation=0.25)
    image = jnp.full((count, 16, 8, 1), 100, jnp.uint8)
    change = jax.jit(
        lambda images, keys: augment_pixels(recipe, numbers(brightness=0.3, translation=0.25), images, keys)
    )
    found = np.asarray(change(image, keys(count)))
    factors = found.max((1, 2, 3)) / 100
    assert 0.7 <= factors.min() < 0.71
    assert 1.29 < factors.max() <= 1.3001
    assert abs(factors.mean() - 1) < 5 * 0.3 / np.sqrt(3 * count)
    rows = (found[..., 0].max(2) == 0).sum(1)  # black rows: how far it was moved, up or down
    columns = (found[..., 0].max(1) == 0).sum(1)
    assert set(rows) == set(range(5))  # a quarter of 16 and of 8
    assert set(columns) == set(range(3))
    assert abs(np.corrcoef(factors, rows)[0, 1]) < 5 / np.sqrt(count)
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 5 / np.sqrt(count)


def test_cutout_is_the_papers():
    """A square of zeros about a uniform pixel, as the code of DeVries and Taylor cuts it: the border cuts it off."""
    count, side = 1500, 6
    inputs = jnp.ones((count, 12, 12, 1))
    found = np.asarray(jax.jit(augment_inputs)(numbers(cutout=0.5), inputs, keys(count)))[..., 0]
    wanted = set()
    for y in range(12):
        for x in range(12):
            mask = np.ones((12, 12), np.float32)
            mask[max(y - side // 2, 0) : y + side // 2, max(x - side // 2, 0) : x + side // 2] = 0
            wanted.add(mask.tobytes())
    assert {image.tobytes() for image in found} == wanted
    area = np.mean([(np.frombuffer(mask, np.float32) == 0).sum() for mask in wanted])
    assert abs((found == 0).sum((1, 2)).mean() - area) < 5 * 36 / np.sqrt(count)


def test_shares_are_the_papers():
    """One half of the batches by mixup, Beta(alpha, alpha), the other by CutMix: what is left outside a box of the code
    of Yun et al."""
    nobody = Partners(*[jnp.zeros(1)] * 3)
    given = numbers(cutmix=1.0, mixup=0.4)
    share, own = jax.jit(jax.vmap(lambda key: draw_mix(given, key, nobody, (8, 6, 1))[:2]))(keys(6000))
    share, own = np.asarray(share), np.asarray(own)[:, 0, :, :, 0]
    np.testing.assert_allclose(share, own.mean((1, 2)), rtol=1e-5)
    mixed = (own % 1 > 0).any((1, 2))
    assert abs(mixed.mean() - 0.5) < 0.04
    assert abs(share[mixed].mean() - 0.5) < 0.03
    assert abs(share[mixed].var() - 0.25 / (2 * 0.4 + 1)) < 0.01  # of Beta(a, a): 1 / (4 (2 a + 1))
    boxes = own[~mixed] == 0
    random = np.random.default_rng(1)
    ratio = np.sqrt(1 - random.beta(1, 1, 100_000)) / 2
    for length, side in ((boxes.any(2).sum(1), 8), (boxes.any(1).sum(1), 6)):
        half, at = np.floor(ratio * side), random.integers(0, side, len(ratio))
        theirs = np.minimum(at + half, side) - np.maximum(at - half, 0)
        theirs[np.floor(ratio * 6) == 0] = 0  # a box without width has no height
        assert abs(length.mean() - theirs.mean()) < 5 * theirs.std() / np.sqrt(len(boxes))


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize(("start", "size", "padded"), [(0, 5, False), (5, 5, False), (10, 5, True)])
def test_partners_are_the_batch_rolled(devices, start, size, padded):
    from flaxvision.training.batches import Shard

    images, labels = jnp.arange(12.0).reshape(12, 1, 1, 1), jnp.arange(12, dtype=jnp.int32)
    order = jnp.asarray(np.random.default_rng(0).permutation(12).astype(np.int32))
    real = np.asarray(order)[start : start + size]
    own, other, images_of = [], [], []
    for rank in range(devices):
        batch = take_batch(images, labels, order, start, size, Shard(rank, devices), padded=padded, mixed=True)
        mask = np.ones(len(batch.labels), bool) if batch.mask is None else np.asarray(batch.mask)
        own += np.asarray(batch.labels)[mask].tolist()
        other += np.asarray(batch.partners.labels)[mask].tolist()
        images_of += np.asarray(batch.partners.images).ravel()[mask].tolist()
    assert own == real.tolist()
    assert other == images_of == np.roll(real, 1).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotation": 360}, "rotation is 360: give degrees, from 0 up to but without 360"),
        ({"cutout": 16}, "cutout is 16: give a share of the image's side, from 0 up to but without 1: of 32 pixels 16"),
        ({"brightness": -0.1}, "brightness is -0.1: give a number from 0 up to but without 1"),
        ({"mixup": "0.2"}, "mixup is '0.2': give the alpha of its Beta distribution"),
        ({"cutmix": 1.0, "batch_size": 1}, "cutmix is 1.0 but has no effect in batches of one example"),
        ({"mixup": 0.2, "loss": "squared_error"}, "mixup is 0.2 but has no effect with loss 'squared_error'"),
        ({"crop_padding": 2}, r"crop_padding is 2 but has no effect without random crops: give augment=\['crop'\]"),
        ({"crop_padding_mode": "mirror", "augment": "crop"}, "unknown crop_padding_mode 'mirror'"),
        ({"crop_padding": 0, "augment": "crop"}, "crop_padding is 0: give a whole number of pixels, 1 or more"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Recipe(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"translation": 0.05}, "translation is 0.05, which is less than a pixel of 8 x 8: give 0.07 or more, or 0"),
        ({"cutout": 0.2}, "cutout is 0.2, which is less than a pixel of 8 x 8: give 0.25 or more, or 0"),
        (
            {"augment": "crop", "crop_padding": 8, "crop_padding_mode": "reflect"},
            "crop_padding is 8 but reflects images of 8 x 8 pixels: give at most 7, or crop_padding_mode='zeros'",
        ),
    ],
)
def test_what_does_not_fit_the_images(settings, message):
    data = made_dataset((8, 8, 1), 3, 32, 8)
    model = fv.models.create("linear", input_shape=(8, 8, 1), num_classes=3)
    with pytest.raises(UserError, match=message) as caught:
        check_fit(model, data, Recipe(batch_size=8, **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rotation", "translation", "brightness", "contrast", "cutout", "cutmix"])
def test_points_are_no_images(name):
    data = fv.data.load("two_clusters", limit=64)
    model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    with pytest.raises(UserError, match=rf"{name}=0.5 is for images; two_clusters holds points"):
        check_fit(model, data, Recipe(**{name: 0.5}))
    with pytest.raises(UserError, match="test_time_flip=True is for images"):
        check_fit(model, data, Recipe(test_time_flip=True))
    check_fit(model, data, dataclasses.replace(Recipe(), mixup=0.5))
