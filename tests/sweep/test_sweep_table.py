from __future__ import annotations

import numpy as np
import pytest

from flaxvision.sweep.results import Cell, Outcome, best_cell, converged, nearest_to_mean

pytestmark = pytest.mark.quick


def cell(name: str, *values: float | None, metric: str = "test_top1", diverged: tuple[int, ...] = ()) -> Cell:
    outcomes = tuple(
        Outcome(
            id=f"{name}{seed}",
            stage="sweep",
            cell=(("variant", name),),
            seed=seed,
            status="diverged" if seed in diverged else "ok",
            config={},
            parameters=1,
            final={metric: value},
            best_epoch=seed + 1,
            converged_epoch=None,
            seconds=1.0,
            history={},
        )
        for seed, value in enumerate(values)
    )
    return Cell("sweep", {"variant": name}, outcomes, ())


def test_mean_and_sample_deviation():
    one = cell("a", 0.8117, 0.7826, 0.7972, 0.8159, 0.8039)  # report D's five runs: 0.8023 ± 0.0131
    assert one.mean("test_top1") == pytest.approx(0.80226)
    assert one.std("test_top1") == pytest.approx(0.0131, abs=5e-5)
    assert (one.n, one.mean("best_epoch"), one.mean("val_top1"), one.std("val_top1")) == (5, 3.0, None, None)
    assert cell("a", 0.5).std("test_top1") is None
    assert cell("a", 0.5, None).mean("test_top1") == 0.5


@pytest.mark.parametrize(
    ("metric", "cells", "best"),
    [
        ("test_top1", {"a": (0.5, 0.7), "b": (0.9, 0.5)}, "b"),
        ("test_loss", {"a": (0.5, 0.6), "b": (0.9, 0.5)}, "a"),
        ("test_top1", {"a": (0.5,), "b": (0.5,)}, "a"),
        ("test_loss", {"a": (None,), "b": (9.0,)}, "b"),
    ],
)
def test_best_cell(metric, cells, best):
    made = [cell(name, *values, metric=metric) for name, values in cells.items()]
    assert best_cell(made, metric).where == {"variant": best}


def test_diverged_trials_come_last():
    bad, good = cell("bad", 0.9, 0.9, diverged=(0, 1)), cell("good", 0.1, 0.2)
    assert best_cell([bad, good], "test_top1") is good
    assert best_cell([bad], "test_top1") is None
    assert nearest_to_mean(cell("a", 0.5, 0.1, 0.8, diverged=(0,)), "test_top1").seed == 2  # the mean is 0.467


def test_nearest_to_mean():
    assert nearest_to_mean(cell("a", 0.1, 0.4, 0.9), "test_top1").seed == 1
    # A final stage without a validation split is judged on the test split.
    assert nearest_to_mean(cell("a", 3.0, 1.0, 1.9, metric="test_loss"), "val_loss").seed == 2


@pytest.mark.parametrize(
    ("accuracy", "threshold", "epoch"),
    [
        ([0.5, 0.8, 0.85, 0.851, 0.852], 0.01, 3),
        ([0.1, 0.1, 0.1], 0.01, 1),
        ([0.1, 0.2, 0.3], 0.01, 3),
        ([0.1, 0.2, 0.2, 0.1], 0.05, 4),
        ([0.4], 0.01, 1),
        ([0.8401, 0.8411, 0.8421, 0.8425], 0.001, 3),  # ten of 10,000 images reach a threshold of 0.001
    ],
)
def test_converged(accuracy, threshold, epoch):
    assert converged(np.array(accuracy), threshold) == epoch
    assert converged(np.array(accuracy, np.float32), threshold) == epoch
