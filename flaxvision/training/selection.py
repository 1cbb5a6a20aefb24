"""Which epoch's parameters a run keeps."""

from __future__ import annotations

import dataclasses
import math

from flaxvision.training.state import TrainState


@dataclasses.dataclass(slots=True)
class Best:
    """One member's selection: the best value so far, where it was, and the parameters that will be kept."""

    value: float = -math.inf  # of the selection metric, larger is better
    at: int = 0  # its epoch, from 1
    epoch: int = 0  # the epoch, from 1, whose parameters are kept
    stopped: bool = False
    state: TrainState | None = None  # None: those of the last step
