from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def assert_near():
    """Arrays are equal up to a tolerance of the largest value expected, or of one."""

    def check(ours, theirs, tolerance):
        for a, b in zip(ours, theirs, strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert a.shape == b.shape
            assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())

    return check
