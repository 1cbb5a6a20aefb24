"""Two clusters in the plane, one around the other: what a linear model cannot tell apart and a small network can.

After the planar classifier of a lab report whose `train.npz` and `valid.npz` are not published: 504 test points of
which 247 are of one class, a boundary at radius 7 with a small gap. Radii and spread are chosen so that the report's
three models do as they did there (Adam 1e-3, batch 8, 10 epochs): Linear(2, 1) never learns, 2-16-16-1 reaches 100 %,
polar coordinates and Linear(2, 1) rise slowly to about 90 %.
"""

from __future__ import annotations

import numpy as np

from flaxvision.data import arrays
from flaxvision.data.dataset import Dataset

CLASSES = ("inner", "outer")
RADII = ((0.0, 6.6), (7.4, 12.0))  # of each class, uniform between the two
TRAIN, TEST = (1008, 1008), (257, 247)  # points of each class


def two_clusters(seed: int = 0) -> Dataset:
    """2,016 training and 504 test points, float32 (N, 2), labels 0 (inside the circle) and 1 (around it)."""
    rng = np.random.default_rng(seed)
    train, test = _draw(rng, TRAIN), _draw(rng, TEST)
    return arrays.build("two_clusters", {"train": train, "test": test}, classes=CLASSES, kind="generated", mixed=True)


def _draw(rng: np.random.Generator, counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.repeat(np.arange(2), counts))
    low, high = np.array(RADII).T
    radius = rng.uniform(low[labels], high[labels])
    angle = rng.uniform(-np.pi, np.pi, len(labels))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), labels
