"""airbench94's recipe: its numbers, its first layer and its views, and updates beside those of plain PyTorch."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.models._state_dict import whole_state_dict
from flaxvision.training.augment import alternately
from tests.conftest import made_dataset

pytestmark = pytest.mark.quick

FOLDER = Path(__file__).parents[2] / "experiments"
BATCH, UPDATES, EARLY = 8, 12, 6


@pytest.fixture
def airbench94(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    import airbench94

    yield airbench94
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_its_numbers_are_those_of_the_paper(airbench94):
    """Of the code's: 476 updates, 11.5 and 0.0153 by 1,024 examples, over 1 + 1 / 0.15."""
    recipe = airbench94.RECIPE
    assert recipe.total_steps(50_000) == 476
    assert recipe.steps_per_epoch(50_000) == 48
    assert recipe.learning_rate == pytest.approx(1.5)
    assert pytest.approx(0.0153 / 7.666667) == airbench94.DECAY
    assert airbench94.RISE == 109


def test_patches_become_uncorrelated(airbench94):
    """The kernel's outputs for the images that it is made of: variance v / (v + 5e-4), falling; then the negatives."""
    images = np.random.default_rng(0).normal(size=(40, 6, 6, 3)).astype(np.float32)
    images = (images + np.roll(images, 1, 1) + 0.5 * np.roll(images, 1, 2)).astype(np.float32)
    kernel = airbench94.whitening(images, (2, 2))
    taps = [images[:, i : 5 + i, j : 5 + j] @ kernel[i, j] for i in (0, 1) for j in (0, 1)]
    found = sum(taps).reshape(-1, 24)
    np.testing.assert_allclose(found[:, 12:], -found[:, :12])
    moments = found[:, :12].T @ found[:, :12] / len(found)
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-6)
    variances = np.diag(moments) * 5e-4 / (1 - np.diag(moments))
    assert (np.diff(variances) <= 0).all()
    np.testing.assert_allclose(variances.sum(), 4 * np.square(images[:, 1:5, 1:5]).sum(-1).mean(), rtol=0.1)


@pytest.mark.slow
def test_updates_and_views_are_pytorchs(airbench94, torch, monkeypatch):
    """In float64, from the same weights, with all groups of parameters, slow weights and flips; crops have their own
    test, and so has the schedule, which JAX computes in float32."""
    import airbench94_torch

    monkeypatch.setattr(airbench94, "WHITENING_UPDATES", EARLY)
    monkeypatch.setattr(airbench94_torch, "WHITENING_UPDATES", EARLY)
    data = made_dataset((32, 32, 3), 10, 50, 40)
    constant = {"schedule": "constant", "warmup_epochs": 0.0, "start_factor": 0.0, "end_factor": 0.0}
    plain = {"augment": ("alternating_flip",), "crop_padding": 4, "crop_padding_mode": "zeros", "shuffle": False}
    changes = {**constant, **plain, "batch_size": BATCH, "steps": UPDATES, "precision": "float64"}
    with jax.enable_x64(True):
        model = airbench94.create(data, 0, width=4)
        result = fv.fit(model, data, dataclasses.replace(airbench94.RECIPE, **changes))
    network = airbench94_torch.reference("airbench94", input_shape=(32, 32, 3), num_classes=10, width=4).double()
    network.load_state_dict({k: torch.tensor(v) for k, v in whole_state_dict(model).items()}, strict=False)
    theirs = airbench94_torch.Training(network, airbench94_torch.SETTINGS["eager"], UPDATES)
    theirs.schedule = torch.optim.lr_scheduler.ConstantLR(theirs.optimizer, 1.0)
    for group, scale in zip(theirs.optimizer.param_groups, (64, 1), strict=True):
        rate = scale * airbench94_torch.RATE * 1024 / BATCH  # of sums over a batch
        group.update(lr=rate, weight_decay=airbench94_torch.DECAY / rate)
    pixels = data.train.images.reshape(-1, 3).astype(np.float64)

    def inputs(images):
        return torch.tensor(((images - pixels.mean(0)) / pixels.std(0)).transpose(0, 3, 1, 2))

    losses = []
    for step in range(UPDATES):
        epoch, number = divmod(step, len(data.train) // BATCH)
        rows = np.arange(number * BATCH, (number + 1) * BATCH, dtype=np.int32)
        mirrored = np.asarray(alternately(np.uint32(0), rows, np.int32(epoch)))[:, None, None, None]
        images = np.where(mirrored, data.train.images[rows][:, :, ::-1], data.train.images[rows])
        losses.append(theirs.update(inputs(images), torch.tensor(data.train.labels[rows]).long()))
    np.testing.assert_allclose(result.history["step_loss"], losses, rtol=1e-9)
    network, ours = theirs.finish(), whole_state_dict(result.model)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=1e-9, err_msg=name)

    def mirrored(x):
        return (network(x) + network(x.flip(-1))) / 2

    with torch.no_grad():
        around = torch.nn.functional.pad(inputs(data.test.images), (1, 1, 1, 1), "reflect")
        moved = mirrored(around[:, :, :32, :32]) + mirrored(around[:, :, 2:, 2:])
        scores = 0.5 * mirrored(around[:, :, 1:33, 1:33]) + 0.25 * moved
    wanted = (scores.argmax(1).numpy() == data.test.labels).mean()
    with jax.enable_x64(True):
        assert airbench94.top1_of_views(result.model, data.test) == wanted


def test_pytorchs_batches_are_crops_and_flips(airbench94, torch, monkeypatch):
    """Windows of the reflected images, of which the second epoch's are mirrored where the first's were not."""
    import airbench94_torch

    monkeypatch.setattr(airbench94_torch, "BATCH", 10)
    image = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(1, 6, 6, 3)
    data = made_dataset((6, 6, 3), 10, 10, 4)
    train = dataclasses.replace(data.train, images=np.repeat(image, 10, 0), labels=np.arange(10, dtype=np.int32))
    around = np.pad(image[0], ((2, 2), (2, 2), (0, 0)), "reflect")
    windows = {
        (direction, around[i : i + 6, j : j + 6][:, ::direction].tobytes()): direction
        for i in range(5) for j in range(5) for direction in (1, -1)
    }  # fmt: skip
    seen = []
    mean, deviation = image[0].reshape(-1, 3).mean(0), image[0].reshape(-1, 3).std(0)
    for images, labels in airbench94_torch.batches(dataclasses.replace(data, train=train), 0):
        found = np.rint(images.permute(0, 2, 3, 1).numpy() * deviation + mean).astype(np.uint8)
        ways = [{way for (way, content) in windows if content == one.tobytes()} for one in found]
        assert all(ways)
        seen.append([ways[place] for place in np.argsort(labels.numpy())])
    assert len(seen) == 10
    for first, second in zip(seen[0], seen[1], strict=True):
        assert first | second == {1, -1} or first & second == {1, -1}
