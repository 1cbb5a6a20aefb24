"""What a run tells those who watch it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What a callback is told: after every compiled call, and with `metrics` after every epoch."""

    step: int  # updates done
    steps: int  # updates in all
    epoch: int  # the epoch at hand, from 1
    examples: int  # training examples since the last report, over all members
    # A member's metrics of the epoch that just ended, {} for one that had stopped before; () within an epoch.
    metrics: tuple[dict[str, float], ...] = ()
    note: str = ""  # what there is to say of the run, such as "goes on from epoch 12"


Callback = Callable[[Progress], "bool | None"]  # returning True stops the run after the epoch at hand
