"""Order and shares of classes: what comes sorted is mixed, limits and hold-outs keep the proportions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxvision import data
from flaxvision.data.balance import shares, sorted_by_class


def made(counts, order="mixed", classes=None):
    """Points that are their own number, so many of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    if order == "mixed":
        labels = np.random.default_rng(1).permutation(labels)
    points = np.arange(len(labels), dtype=np.float32)[:, None]
    return data.from_arrays(points, labels, points, labels, classes=classes or [f"c{k}" for k in range(len(counts))])


def split_counts(split, classes):
    return np.bincount(split.labels, minlength=classes).tolist()


@pytest.mark.parametrize(
    ("labels", "is_sorted"),
    [
        (np.repeat(np.arange(10), 50), True),
        (np.repeat(np.arange(10), 50)[::-1], True),
        (np.tile(np.repeat(np.arange(10), 50), 2), True),  # two sorted files, one after the other
        (np.repeat([3, 1, 2], [400, 20, 5]), True),
        (np.tile(np.arange(10), 50), False),
        (np.random.default_rng(0).integers(0, 10, 500), False),
        (np.random.default_rng(0).permutation(np.repeat([0, 1], [950, 50])), False),
        (np.arange(10), False),  # one example a class: there is no other order to speak of
        (np.zeros(50, int), False),
    ],
)
def test_what_counts_as_sorted(labels, is_sorted):
    assert sorted_by_class(labels) is is_sorted


def test_sorted_examples_are_mixed_alike_every_time_and_said():
    first, again = made([50] * 10, "sorted"), made([50] * 10, "sorted")
    assert not sorted_by_class(first.train.labels)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert sorted(first.train.images[:, 0]) == list(range(500))  # nothing lost, and each with its own label:
    np.testing.assert_array_equal(first.train.labels, first.train.images[:, 0] // 50)
    assert "train: examples sorted by class were mixed (seed 0)" in first.source.notes


def test_mixed_examples_keep_their_order():
    dataset = made([50] * 10)
    assert dataset.train.images[:, 0].tolist() == list(range(500))
    assert dataset.source.notes == ()


def test_a_sorted_archive_with_a_limit_has_every_class(tmp_path):
    for split in ("train", "test"):
        np.savez(tmp_path / split, x=np.zeros((200, 4, 4), np.uint8), y=np.repeat(np.arange(10), 20))
    dataset = data.load(f"npz:{tmp_path}", limit=30, validation=0.34)
    assert split_counts(dataset.test, 10) == [3] * 10
    assert split_counts(dataset.train, 10) == [2] * 10
    assert split_counts(dataset.validation, 10) == [1] * 10


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.floats(0, 1))
def test_shares_keep_proportions(counts, part):
    counts = np.array(counts)
    total = int(part * counts.sum())
    taken = shares(counts, total)
    assert taken.sum() == total
    assert (taken >= 0).all()
    assert (taken <= counts).all()
    if total >= np.count_nonzero(counts):
        assert (taken[counts > 0] > 0).all()
    ideal = counts * total / max(counts.sum(), 1)
    assert (taken <= np.maximum(np.ceil(ideal), 1)).all()


@pytest.mark.parametrize(("counts", "limit", "kept"), [([90, 9, 1], 10, [8, 1, 1]), ([5, 5], 100, [5, 5])])
def test_a_limit_is_stratified(counts, limit, kept):
    limited = made(counts).limit(limit)
    assert split_counts(limited.train, len(counts)) == kept
    assert (np.diff(limited.train.images[:, 0]) > 0).all()  # in their order


def test_a_limit_below_the_number_of_classes_names_who_is_missing():
    limited = made([10, 5, 5, 1]).limit(2)
    assert "the train split has no examples of c2, c3" in limited.source.notes


def test_a_hold_out_is_stratified_and_leaves_a_class_of_one_in_training():
    held = made([80, 19, 1]).hold_out(0.2)
    assert split_counts(held.validation, 3) == [16, 4, 0]
    assert split_counts(held.train, 3) == [64, 15, 1]
    assert "the validation split has no examples of c2" in held.source.notes
    both = np.concatenate([held.train.images, held.validation.images])[:, 0]
    assert sorted(both) == list(range(100))
    assert not np.array_equal(
        made([80, 20]).hold_out(0.2, seed=1).train.images, made([80, 20]).hold_out(0.2).train.images
    )


def test_published_sets_keep_their_order_and_their_draws():
    own = made([70, 30])
    published = dataclasses.replace(own, source=dataclasses.replace(own.source, kind="raw folder"))
    assert published.limit(7).train.images[:, 0].tolist() == list(range(7))
    order = np.random.default_rng(3).permutation(100)
    held = published.hold_out(0.25, seed=3)
    assert held.validation.images[:, 0].tolist() == sorted(order[:25])
    assert held.train.images[:, 0].tolist() == sorted(order[25:])


def test_imbalance_is_said_and_forgotten_when_it_is_gone():
    dataset = made([950, 50])
    note = "the train split is imbalanced: 950 examples of c0, 50 of c1; top1 can hide the small classes"
    assert sum(line.startswith(note) for line in dataset.source.notes) == 1
    assert made([50, 10]).source.notes == ()
    limited = dataset.limit(2)
    assert not any("imbalanced" in line for line in limited.source.notes)
