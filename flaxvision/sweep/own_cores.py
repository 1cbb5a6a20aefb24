"""Processor cores for worker processes, which the workers of other sweeps on the same machine do not have."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flaxvision._locks import try_lock
from flaxvision.runtime import cores


@contextlib.contextmanager
def own_cores(most: int) -> Iterator[list[int]]:
    """Cores that no other sweep has taken, at most so many, and no more than `flaxvision.runtime.cores` counts.

    They are this one's until the end of the block, or of its process. Where all are taken, it shares some.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores()
    count, start = min(most, len(cores())), os.getpid() % len(allowed)
    in_turn = allowed[start:] + allowed[:start]  # containers of one machine do not see each other's locks
    taken: list[int] = []
    with contextlib.ExitStack() as held:
        for core in in_turn:
            if len(taken) < count:
                with contextlib.suppress(OSError):
                    if try_lock(held, _lock_of(core)):
                        taken.append(core)
        yield taken + [core for core in in_turn if core not in taken][: count - len(taken)]


def _lock_of(core: int) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    return Path(tempfile.gettempdir()) / f"flaxvision-{user}-core-{core}.lock"
