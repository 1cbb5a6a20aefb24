"""Histories of many classes: linear in them, with one confusion matrix a split, of the epoch that is kept."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.store import outcome_of
from flaxvision.sweep.work import packed_history
from flaxvision.training.confusion import as_pairs, confusion_matrix, confusion_pairs
from flaxvision.training.losses import sum_batch, zero_sums
from flaxvision.training.metrics import Metrics

pytestmark = pytest.mark.quick

CLASSES = 300


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)

    def split(examples):
        return random.integers(0, 256, (examples, 3, 3, 1)).astype(np.uint8), np.arange(examples) % CLASSES

    return fv.data.from_arrays(*split(600), *split(450), classes=[f"kind {i}" for i in range(CLASSES)])


@pytest.fixture(scope="module")
def model():
    return fv.models.create("linear", input_shape=(3, 3, 1), num_classes=CLASSES)


@pytest.fixture(scope="module")
def recipe():
    return fv.Recipe(epochs=4, batch_size=64, learning_rate=0.1, select="best", select_on="test_loss")


@pytest.fixture(scope="module")
def result(data, model, recipe):
    return fv.fit(model, data, recipe)


def by_scikit_learns_rule(true, predicted, classes):
    """Entry (i, j) counts the examples of class i that were taken for class j."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


def test_the_kept_matrix_is_that_of_the_returned_model(data, result):
    predicted = fv.predict(result.model, data.test.images).argmax(axis=1)
    expected = by_scikit_learns_rule(data.test.labels, predicted, CLASSES)
    np.testing.assert_array_equal(result.history.confusion("test"), expected)
    np.testing.assert_array_equal(fv.evaluate(result.model, data.test).confusion, expected)


def test_no_array_of_a_history_is_quadratic_in_the_classes(data, result):
    largest = max(array.size for array in result.history.arrays.values())
    assert largest <= max(3 * len(data.test), result.history.epochs * CLASSES)
    assert result.history["test_per_class"].shape == (4, CLASSES)
    assert result.history["test_pairs"][:, 2].sum() == len(data.test)


def test_an_earlier_epoch_may_be_the_kept_one(data, model, recipe):
    """With a rate at which the network runs away the first epoch is the best one."""
    wild = dataclasses.replace(recipe, learning_rate=1e4, epochs=3)
    result = fv.fit(model, data, wild)
    expected = fv.evaluate(result.model, data.test).confusion
    assert result.best_epoch < 3
    np.testing.assert_array_equal(result.history.confusion("test"), expected)


def test_a_resumed_run_has_the_same_matrix(data, model, recipe, result, tmp_path):
    fv.fit(model, data, dataclasses.replace(recipe, epochs=2), checkpoint=tmp_path / "run")
    resumed = fv.fit(model, data, recipe, checkpoint=tmp_path / "run")
    assert set(resumed.history) == set(result.history)
    for name in result.history:
        np.testing.assert_array_equal(resumed.history[name], result.history[name])


def test_vmapped_members_keep_a_matrix_each(data, model, recipe, result):
    recipes = [recipe, dataclasses.replace(recipe, learning_rate=0.0001)]
    results = fv.training.train_cohort([model] * 2, data, recipes, mode="vmap")
    for one in results:
        expected = fv.evaluate(one.model, data.test).confusion
        np.testing.assert_array_equal(one.history.confusion("test"), expected)


def test_a_matrix_that_is_not_kept_is_one_line(result):
    with pytest.raises(UserError, match="no confusion matrix of 'train' is kept: allowed are test"):
        result.history.confusion("train")


def test_pairs_and_matrix_are_each_others_inverse():
    random = np.random.default_rng(1)
    matrix = random.integers(0, 3, (7, 7))
    pairs = confusion_pairs(matrix)
    assert len(pairs) == np.count_nonzero(matrix)
    np.testing.assert_array_equal(confusion_matrix(pairs, 7), matrix)
    assert confusion_pairs(np.zeros((0, 0))).shape == (0, 3)


def test_an_older_history_file_is_still_read(tmp_path):
    """Files held a matrix for every epoch, of the training set too."""
    (tmp_path / "trials").mkdir()
    matrices = np.arange(3 * 2 * 2).reshape(3, 2, 2)
    old = {f"{split}_confusion": matrices for split in ("train", "test")} | {"test_per_class": np.ones((3, 2))}
    (tmp_path / "trials" / "a.npz").write_bytes(packed_history(old))
    record = {
        "id": "a", "stage": "sweep", "seed": 0, "status": "ok", "config": {}, "parameters": 1, "final": {},
        "best_epoch": 2, "converged_epoch": None, "seconds": 1.0, "cell": {},
    }  # fmt: skip
    history = outcome_of(json.loads(json.dumps(record)), RunFiles(tmp_path)).history
    assert set(history) == {"test_pairs", "test_per_class"}
    np.testing.assert_array_equal(confusion_matrix(history["test_pairs"], 2), matrices[1])
    assert as_pairs({"train_loss": np.ones(2)}, 1).keys() == {"train_loss"}


def test_training_sums_no_matrix_and_the_same_accuracies():
    random = np.random.default_rng(2)
    scores = random.normal(size=(40, 11)).astype(np.float32)
    labels = random.integers(0, 9, 40).astype(np.int32)  # two classes without examples
    mask = random.random(40) < 0.7
    sums = [sum_batch("cross_entropy", 11, scores, labels, None, mask, confusion=c) for c in (True, False)]
    full, slim = map(Metrics.of, sums)
    matrix = by_scikit_learns_rule(labels[mask], scores.argmax(axis=1)[mask], 11)
    np.testing.assert_array_equal(full.confusion, matrix)
    assert slim.confusion.shape == (0, 0)
    assert (full.top1, full.top3) == (slim.top1, slim.top3) == (pytest.approx(np.trace(matrix) / mask.sum()), full.top3)
    np.testing.assert_array_equal(full.per_class, slim.per_class)
    assert np.isnan(slim.per_class[9:]).all()
    assert jax.tree.map(np.shape, zero_sums(11, confusion=False)) == jax.tree.map(np.shape, sums[1])
