"""How far a sweep is: what terminals, status.json and the page that refreshes itself tell of it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from flaxvision._files import write_atomically
from flaxvision.training.metrics import metric_of

STATUS = "status.json"
RUNNING, DONE, INTERRUPTED, FAILED = "running", "done", "interrupted", "failed"
STAGES = {
    "pretrain": "pretraining",
    "search": "searching",
    "sweep": "training",
    "final": "training the final stage",
}  # what trials do in each


@dataclasses.dataclass(frozen=True, slots=True)
class Best:
    """The best trial so far."""

    metric: str
    value: float
    cell: Mapping[str, str]  # varied key -> value as typed

    @property
    def text(self) -> str:
        """It in a few words: "best 97.1 % (learning_rate 0.1)"."""
        found = metric_of(self.metric)
        name = "" if found.key == "top1" else f"{self.metric.partition('_')[0]} {found.label} "
        value = f"{100 * self.value:.1f} %" if found.percent else f"{self.value:#.4g}"
        cell = ", ".join(f"{key} {label}" for key, label in self.cell.items())
        return f"best {name}{value}" + (f" ({cell})" if cell else "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A sweep at a moment; as JSON it is what status.json holds."""

    state: str  # "running", "done", "interrupted" or "failed"; one that was killed stays "running"
    doing: str  # "training", "writing tables and figures", …; "" when nothing is done any more
    trials: int = 0  # of the stage at hand: the sweep, what it starts from, or what follows it
    ended: int = 0  # of these, those that are over, also in earlier runs
    failed: int = 0  # of these, those that ended by an error
    share: float = 0.0  # of the work, from 0 to 1
    seconds: float = 0.0  # since the stage began
    seconds_left: float | None = None  # about; None: not known
    best: Best | None = None
    running: tuple[str, ...] = ()  # a line for each cohort that trains
    updated: str = ""  # when that was, with its time zone
    process: int = dataclasses.field(default_factory=os.getpid)
    host: str = dataclasses.field(default_factory=platform.node)

    def line(self, between: str = " · ") -> str:
        """It in a line: "7/24 trials · 31 % · 2 min 10 s left · best 97.1 % (learning_rate 0.1)"."""
        if self.doing and self.doing not in STAGES.values():
            return f"{self.doing}{between}{duration(self.seconds)}"
        if not self.trials:
            return ""
        parts = [f"{self.ended}/{self.trials} trials", f"{100 * self.share:.0f} %"]
        if self.doing and self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        elif self.doing and self.ended < self.trials:
            parts.append(f"{duration(self.seconds)} so far")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best:
            parts.append(self.best.text)
        return between.join(parts)

    def write(self, directory: Path) -> None:
        """Write it to a run directory.

        Raises:
            UserError: If it cannot be written.
        """
        write_atomically(directory / STATUS, json.dumps(dataclasses.asdict(self), indent=2, default=dict) + "\n")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours as people say them.

    >>> duration(35.2), duration(130), duration(3725)
    ('35 s', '2 min 10 s', '1 h 02 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
