"""Label smoothing and clipped gradients against PyTorch, alone and varying within one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.training import Recipe, train_cohort
from flaxvision.training.losses import example_losses
from flaxvision.training.updates import clip_by_norm

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_smoothed_labels_are_pytorchs(torch, share):
    outputs, labels = RNG.normal(size=(7, 5)).astype(np.float32) * 5, RNG.integers(0, 5, 7).astype(np.int32)

    def loss(outputs):
        return example_losses("cross_entropy", outputs, jnp.asarray(labels), None, jnp.float32(share)).sum()

    theirs = torch.tensor(outputs, requires_grad=True)
    wanted = torch.nn.CrossEntropyLoss(label_smoothing=share, reduction="sum")(theirs, torch.tensor(labels).long())
    wanted.backward()
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(outputs))
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_single_logit_is_smoothed_as_two_classes_are(torch):
    logits, labels = RNG.normal(size=(6, 1)).astype(np.float32), np.array([0, 1, 1, 0, 1, 0], np.int32)
    both = torch.tensor(np.concatenate([np.zeros_like(logits), logits], 1))
    wanted = torch.nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")(both, torch.tensor(labels).long())
    ours = example_losses("binary_cross_entropy", jnp.asarray(logits), jnp.asarray(labels), None, jnp.float32(0.2))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.parametrize("norm", [1e-8, 0.5, 3.0, 1e6])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 1e4])
def test_clipping_is_pytorchs(torch, norm, scale):
    arrays = [RNG.normal(size=shape).astype(np.float32) * np.float32(scale) for shape in ((3, 2), (4,))]
    parameters = [torch.nn.Parameter(torch.zeros(array.shape)) for array in arrays]
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.grad = torch.tensor(array)
    torch.nn.utils.clip_grad_norm_(parameters, norm)
    tx = clip_by_norm(jnp.float32(norm))
    ours, _ = tx.update([jnp.asarray(array) for array in arrays], tx.init(None), None)
    for found, parameter in zip(ours, parameters, strict=True):
        np.testing.assert_allclose(found, parameter.grad, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_what_varies_within_a_program_is_pytorchs(torch, mode):
    data = fv.data.load("two_clusters", limit=48)
    shared = {"optimizer": "rmsprop", "batch_size": 8, "steps": 10, "shuffle": False, "weight_decay": 0.1}
    numbers = [
        {"learning_rate": 0.01, "label_smoothing": 0.1, "clip_norm": 0.05, "smoothing": 0.5, "momentum": 0.9},
        {"learning_rate": 0.02, "label_smoothing": 0.4, "clip_norm": 9.0, "smoothing": 0.9, "momentum": 0.5},
    ]
    model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    (layer,) = model.layers
    recipes = [Recipe(**shared, **each) for each in numbers]
    assert recipes[0].structure() == recipes[1].structure()
    for found, each in zip(train_cohort([model, model], data, recipes, mode=mode), numbers, strict=True):
        twin = torch.nn.Linear(2, 2)
        twin.load_state_dict(
            {"weight": torch.tensor(np.array(layer.kernel[...]).T), "bias": torch.tensor(np.array(layer.bias[...]))}
        )
        optimizer = torch.optim.RMSprop(
            twin.parameters(),
            each["learning_rate"],
            alpha=each["smoothing"],
            momentum=each["momentum"],
            weight_decay=0.1,
        )
        losses = []
        for step in range(10):
            chosen = slice(step % 6 * 8, step % 6 * 8 + 8)
            x, y = torch.tensor(data.train.images[chosen]), torch.tensor(data.train.labels[chosen]).long()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(twin(x), y, label_smoothing=each["label_smoothing"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), each["clip_norm"])
            optimizer.step()
            losses.append(loss.item())
        np.testing.assert_allclose(found.history["step_loss"], losses, rtol=1e-4)
        plain = fv.evaluate(found.model, data.test).loss  # what is reported is never smoothed
        assert found.history["test_loss"][-1] == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0: give a number from 0 up to but without 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1: give a number from 0"),
        ({"label_smoothing": True}, "label_smoothing is True: give a number"),
        ({"label_smoothing": 0.1, "loss": "squared_error"}, "label_smoothing is 0.1 but has no effect with loss 'squ"),
        ({"clip_norm": 0}, "clip_norm is 0: give a number above 0"),
        ({"clip_norm": float("inf")}, "clip_norm is inf: give a number above 0"),
        ({"clip_norm": "1"}, "clip_norm is '1': give a number above 0"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Recipe(**settings)
    assert "\n" not in str(caught.value)
