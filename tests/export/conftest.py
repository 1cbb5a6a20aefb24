"""What all tests of exports ask of their networks."""

from __future__ import annotations

import numpy as np


def assert_alive(outputs):
    """Equality says little about a network whose outputs hardly depend on its inputs."""
    assert np.asarray(outputs).std(axis=0).mean() > 1e-3
