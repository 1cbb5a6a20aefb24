"""Which devices a cohort trains on: several trials have some each, a single one has the next in turn."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

_lock = threading.Lock()
_now: collections.Counter[int] = collections.Counter()  # cohorts that train alone on a device, by its id
_ever: collections.Counter[int] = collections.Counter()  # likewise, those of before too


@contextlib.contextmanager
def devices_for(trials: int, shared: str) -> Iterator[tuple[jax.Device, ...]]:
    """The devices that so many trials may have while they train together.

    Args:
        trials: How many there are.
        shared: What several devices share, see `flaxvision.sweep.spec.Spec.devices`.
    """
    import jax

    local = tuple(jax.local_devices())
    if trials > 1 or shared == "batch" or len(local) == 1:
        yield local
        return
    with _lock:
        device = min(local, key=lambda device: (_now[device.id], _ever[device.id]))
        _now[device.id] += 1
        _ever[device.id] += 1
    try:
        yield (device,)
    finally:
        with _lock:
            _now[device.id] -= 1
