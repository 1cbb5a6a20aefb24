"""A progress bar for `fit` and sweeps, with throughput and time left."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from flaxvision.training.callbacks import Callback, Progress


class ProgressBar:
    """A callback that draws one line on stderr while its `with` block runs.

    Args:
        name: What stands before the bar.
        parts: How many runs of about equal length the block holds; call `part` for each.

    >>> from flaxvision.training import ProgressBar
    >>> with ProgressBar("mnist") as bar:  # doctest: +SKIP
    ...     fv.fit(model, dataset, recipe, callbacks=[bar])
    """

    def __init__(self, name: str = "training", parts: int = 1):
        console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=parts, rate="", scores="")
        self.done: list[float] = []  # of each part that was begun, from 0 to 1
        self.examples = 0
        self.since = time.perf_counter()

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def part(self, name: str) -> Callback:
        """Begin another run, which may go on beside those before it; returns its callback."""
        self.done.append(0.0)
        self.bar.update(self.task, description=name)
        return functools.partial(self._move, len(self.done) - 1, name)

    def __call__(self, progress: Progress) -> None:
        """Move the bar of a single run to `progress`."""
        self.done = self.done or [0.0]
        self._move(0, None, progress)

    def _move(self, part: int, name: str | None, progress: Progress) -> None:
        self.examples += progress.examples
        self.done[part] = progress.step / progress.steps
        rate = self.examples / (time.perf_counter() - self.since)
        self.bar.update(self.task, description=name, completed=sum(self.done), rate=f"{rate:,.0f} examples/s")
        if progress.metrics:
            finite = [{name: x for name, x in each.items() if math.isfinite(x)} for each in progress.metrics]
            best = max(finite, key=lambda metrics: metrics.get("test_top1", -math.inf))
            scores = ", ".join(f"{name} {value:.3f}" for name, value in best.items())
            self.bar.update(self.task, scores=f"epoch {progress.epoch}: {scores}")
