"""Losses and metrics against NumPy, PyTorch and their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from flaxvision.report.display import DISPENSABLE, FIRST
from flaxvision.training.losses import add, example_losses, loss_of, sum_batch
from flaxvision.training.metrics import METRICS, SHOWN_METRICS, SPLITS, Metrics, metric_of

pytestmark = pytest.mark.quick

compiled_sums = jax.jit(sum_batch, static_argnums=(0, 1))


def numpy_metrics(scores, labels):
    """Top-1, top-3 and confusion by NumPy's own sort: NaN first, ties to the lower class."""
    order = np.argsort(np.where(np.isnan(scores), -np.inf, -scores), axis=1, kind="stable")
    confusion = np.zeros((scores.shape[1],) * 2, int)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    return (order[:, 0] == labels).mean(), (order[:, :3] == labels[:, None]).any(axis=1).mean(), confusion


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 7, 40]), st.sampled_from([1, 2, 5, 12]), st.booleans(), st.integers(0, 2**31))
def test_metrics_equal_numpy(examples, classes, nans, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(-3, 4, (examples, classes)).astype(np.float32)  # many ties
    if nans:
        scores[random.random(scores.shape) < 0.2] = np.nan
    labels = random.integers(0, classes, examples).astype(np.int32)
    metrics = Metrics.of(compiled_sums("cross_entropy", classes, scores, labels, None, None))
    top1, top3, confusion = numpy_metrics(scores, labels)
    assert metrics.count == examples
    assert metrics.top1 == pytest.approx(top1)
    assert metrics.top3 == pytest.approx(top3)
    np.testing.assert_array_equal(metrics.confusion, confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        np.testing.assert_allclose(metrics.per_class, np.diag(confusion) / confusion.sum(axis=1))
    right = np.where(np.isnan(scores), np.inf, scores).argmax(axis=1) == labels
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    assert metrics.balanced == pytest.approx(np.mean(recalls))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(2, 0), (2, 1), (30, 13), (30, 30)]), st.integers(0, 2**31))
def test_a_mask_is_a_subset_and_sums_add_up(counts, seed):
    (examples, kept), random = counts, np.random.default_rng(seed)
    scores = random.normal(size=(examples, 5)).astype(np.float32)
    labels = random.integers(0, 5, examples).astype(np.int32)
    mask = random.permutation(examples) < kept

    def sums(chosen, mask=None):
        return compiled_sums("cross_entropy", 5, scores[chosen], labels[chosen], None, mask)

    masked = sums(np.arange(examples), mask)
    for ours, theirs in zip(masked, sums(np.flatnonzero(mask)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    parts = add(sums(np.flatnonzero(mask)), sums(np.flatnonzero(~mask)))
    for ours, theirs in zip(parts, sums(np.arange(examples)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_losses_equal_torch_and_closed_forms(torch):
    random = np.random.default_rng(0)
    logits = random.normal(0, 5, (6, 4)).astype(np.float32)
    labels = random.integers(0, 4, 6).astype(np.int32)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels).long(), reduction="none")
    ours = example_losses("cross_entropy", jnp.asarray(logits), jnp.asarray(labels), None)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5, atol=1e-6)
    uniform = example_losses("cross_entropy", jnp.zeros((1, 47)), jnp.zeros(1, jnp.int32), None)
    np.testing.assert_allclose(uniform, np.log(47), rtol=1e-6)  # report D's 3.851

    one = random.normal(0, 30, (6, 1)).astype(np.float32)
    binary = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(one[:, 0]), torch.tensor(labels % 2).float(), reduction="none"
    )
    ours = example_losses("binary_cross_entropy", jnp.asarray(one), jnp.asarray(labels % 2), None)
    np.testing.assert_allclose(ours, binary.numpy(), rtol=1e-5, atol=1e-6)

    images, targets = random.random((2, 3, 4, 4, 1)).astype(np.float32)
    ours = example_losses("squared_error", jnp.asarray(images), None, jnp.asarray(targets))
    np.testing.assert_allclose(ours, ((images - targets) ** 2).sum(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "squared_error"])
def test_gradients_are_those_of_the_function(loss):
    outputs = jax.random.normal(jax.random.key(0), {"binary_cross_entropy": (5, 1)}.get(loss, (5, 4)))
    labels = jnp.array([0, 1, 1, 0, 1], jnp.int32)
    inputs = jax.random.normal(jax.random.key(1), (5, 4))
    check_grads(lambda o: example_losses(loss, o, labels, inputs).sum(), (outputs,), order=1, modes=["rev"], eps=1e-2)


def test_binary_scores_predict_class_one_for_a_positive_logit():
    outputs = jnp.array([[2.0], [-1.0], [0.0]])
    metrics = Metrics.of(sum_batch("binary_cross_entropy", 2, outputs, jnp.array([1, 1, 0], jnp.int32), None, None))
    np.testing.assert_array_equal(metrics.confusion, [[1, 0], [1, 1]])


def test_a_network_that_left_the_numbers_predicts_class_zero():
    metrics = Metrics.of(
        sum_batch("cross_entropy", 10, jnp.full((10, 10), jnp.nan), jnp.arange(10, dtype=jnp.int32), None, None)
    )
    assert metrics.top1 == pytest.approx(0.1)  # as NumPy's and PyTorch's arg max
    assert np.isnan(metrics.loss)


def test_images_have_no_accuracy():
    images = jnp.ones((2, 3, 3, 1))
    metrics = Metrics.of(sum_batch("squared_error", 0, images, jnp.zeros(2, jnp.int32), images * 0, None))
    assert metrics.loss == pytest.approx(9)
    assert np.isnan(metrics.top1)
    assert metrics.confusion.shape == (0, 0)


def test_the_loss_follows_from_the_output():
    assert loss_of((28, 28, 1)) == "squared_error"
    assert loss_of((1,)) == "binary_cross_entropy"
    assert loss_of((10,)) == "cross_entropy"


def test_the_registry_is_complete():
    """Each metric is computed, named once, and stands in tables only where it is kept or worth a place of its own."""
    found = Metrics.of(sum_batch("cross_entropy", 12, jnp.eye(12), jnp.arange(12, dtype=jnp.int32), None, None))
    for key, metric in METRICS.items():
        assert metric.key == key
        assert getattr(found, key) == pytest.approx(1.0 if metric.percent else found.loss)
        assert set(metric.shown) <= set(metric.kept) <= set(SPLITS)
        assert not metric.beside or metric.beside in METRICS
        assert metric_of(f"val_{key}") is metric_of(key) is metric
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    counts = {"seconds", "best_epoch", "parameters", "n", "verdict", "difference"}
    assert set(FIRST) | set(DISPENSABLE) <= counts | set(SHOWN_METRICS)
    with pytest.raises(KeyError):
        metric_of("test_acc")
