"""What tests of mapped copies share."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(0)


def same(one, other):
    """Two data sets are the same in all that they hold."""
    assert (one.name, one.classes, one.source) == (other.name, other.classes, other.source)
    assert one.splits.keys() == other.splits.keys()
    for name, split in one.splits.items():
        np.testing.assert_array_equal(split.images, other.splits[name].images)
        np.testing.assert_array_equal(split.labels, other.splits[name].labels)
        if split.files is not None:
            assert split.files.tolist() == other.splits[name].files.tolist()


def copies(home):
    return sorted(path.parent for path in home.rglob("about.json"))
