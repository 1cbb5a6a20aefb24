"""Chance in users' code: the generators of PyTorch, Python and numpy, seeded for a while and then as they were."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, all three draw from this seed."""
    python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (users' code draws from it)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(int(seed))
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002


def states() -> bytes:
    """Of the generators: equal as long as nobody draws."""
    return pickle.dumps((torch.get_rng_state().numpy(), random.getstate(), np.random.get_state()))  # noqa: NPY002
