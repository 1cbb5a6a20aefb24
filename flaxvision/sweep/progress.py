"""What a sweep says while it runs: a line that moves on a terminal, lines one after the other elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flaxvision._text import visible
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from flaxvision.sweep.trials import Record
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress

EVERY = 30.0  # seconds between two lines where there is no terminal


class Watcher:
    """Sees the trials of a sweep train and end, and says nothing; those that follow say something.

    A `with` block holds each stage of the sweep, begun by `begin`.
    """

    directory: Path | None = None  # of the run, once there is one
    undo = ""  # what sets a terminal right that shows something that moves

    def begin(self, cohorts: Sequence[Cohort], objective: str) -> None:
        """Take in what is about to be trained."""
        self.directory = cohorts[0].files.directory
        self.objective, self.lower = objective, metric_of(objective).lower_is_better
        self.parts = dict.fromkeys(map(id, cohorts), 0.0)  # cohort -> how much of its work is done, from 0 to 1
        self.sizes = {id(cohort): len(cohort.trials) for cohort in cohorts}
        self.trials = sum(self.sizes.values())
        self.ended = self.failed = 0
        self.best: tuple[float, str] | None = None
        self.began = time.monotonic()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def callbacks(self, cohort: Cohort) -> Iterable[Callback]:
        """What is told of a cohort's progress."""

        def move(progress: Progress) -> None:
            if progress.note:
                self.note(f"{subject([trial.id for trial in cohort.trials])} {progress.note}")
            self.parts[id(cohort)] = progress.step / progress.steps
            self.moved()

        return [move]

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """Take in what a cohort left."""
        self.parts[id(cohort)] = 1.0
        self.ended += len(records)
        for record in records:
            cell = [f"{key} {label}" for key, label in record["cell"].items()]
            named = ", ".join([*cell, f"seed {record['seed']}"])
            if record["status"] == "failed":
                self.failed += 1
                self.say(f"trial {record['id']} ({named}) failed: {record['message']}")
            elif record["status"] == "ok" and record["stage"] != "pretrain":
                value = record["final"].get(self.objective)
                sign = 1 if self.lower else -1
                if value is not None and (self.best is None or sign * value < sign * self.best[0]):
                    self.best = value, named
        self.moved()

    def moved(self) -> None:
        """Something is further than before."""

    def say(self, line: str) -> None:
        """Something to be read at once."""

    def note(self, line: str) -> None:
        """Something to be read at once that is no failure."""
        self.say(line)

    @property
    def share(self) -> float:
        """How much of all work is done, from 0 to 1."""
        return sum(share * self.sizes[key] for key, share in self.parts.items()) / self.trials

    def line(self, between: str = ", ") -> str:
        """Trials done, time left, the best so far.

        "3/12 trials, 41 %, 0:35 left, best test top-1 97.10 % (learning_rate 0.1)"
        """
        from flaxvision.report import formats

        share = self.share
        parts = [f"{self.ended}/{self.trials} trials", f"{100 * share:.0f} %"]
        if 0 < share < 1:
            parts.append(f"{clock((time.monotonic() - self.began) * (1 - share) / share)} left")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best:
            value, trial = self.best
            name = formats.metric_name(self.objective, unit=False)
            parts.append(f"best {name} {formats.with_unit(self.objective, value)} ({trial})")
        return between.join(parts)


class Failures(Watcher):
    """Says only which trials failed."""

    def note(self, line: str) -> None:
        pass

    def say(self, line: str) -> None:
        print(visible(line), file=sys.stderr, flush=True)


class Lines(Watcher):
    """Plain lines, by default on standard error: at the start, at each tenth, at the end, and after `every` seconds."""

    def __init__(self, file: TextIO | None = None, every: float = EVERY):
        self.file, self.every = file, every
        self.lock = threading.Lock()

    def begin(self, cohorts: Sequence[Cohort], objective: str) -> None:
        super().begin(cohorts, objective)
        self.tenths = 0
        what = {"pretrain": "pretraining", "final": "final stage"}.get(cohorts[0].trials[0].stage, "training")
        programs = len({trial.program for cohort in cohorts for trial in cohort.trials})
        counts = [f"{n} {noun}{'s' * (n != 1)}" for n, noun in ((self.trials, "trial"), (programs, "program"))]
        self.say(f"{self.directory}: {what}, {', '.join(counts)}")

    def __enter__(self) -> Watcher:
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _tick(self) -> None:
        """Say something also while nothing ends, such as during a long compilation."""
        while not self.over.wait(self.every):
            self.say(self.line())

    def moved(self) -> None:
        tenths = 10 if self.ended == self.trials else min(9, int(10 * self.share + 1e-9))
        if tenths > self.tenths:
            self.tenths = tenths
            self.say(self.line())

    def say(self, line: str) -> None:
        with self.lock:
            print(visible(line), file=self.file or sys.stderr, flush=True)


class Bar(Watcher):
    """One line on a terminal that moves."""

    undo = "\r\x1b[K\x1b[?25h"  # to the line's beginning, clear it, show the cursor

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    def begin(self, cohorts: Sequence[Cohort], objective: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        super().begin(cohorts, objective)
        text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        self.bar = Progress(BarColumn(bar_width=16), text, console=self.console, transient=True, expand=True)
        self.task = self.bar.add_task(self.line(" · "), total=1.0)

    def __enter__(self) -> Watcher:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def moved(self) -> None:
        self.bar.update(self.task, description=self.line(" · "), completed=self.share)

    def say(self, line: str) -> None:
        self.console.print(visible(line), markup=False, highlight=False)


def watcher(quiet: bool = False) -> Watcher:
    """What suits standard error: `Bar` on a terminal, else `Lines`; quiet: failures only."""
    if quiet:
        return Failures()
    from rich.console import Console

    return Bar() if Console(stderr=True).is_terminal else Lines()


def clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds.

    >>> clock(35.2), clock(3725)
    ('0:35', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def subject(ids: Sequence[str]) -> str:
    """Trials as the subject of a sentence, in the singular."""
    if len(ids) == 1:
        return f"trial {ids[0]}"
    more = f" and {len(ids) - 2} more" if len(ids) > 2 else ""
    return f"the cohort of {'trials ' + ', '.join(ids[:2]) + more}"
