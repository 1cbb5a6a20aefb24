"""What a sweep says while it runs: a line that moves on a terminal, lines one after the other elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flaxvision._text import visible
from flaxvision.sweep.status import RUNNING, STAGES, Best, Status
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from flaxvision.sweep.trials import Record
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress

EVERY = 30.0  # seconds between two lines where there is no terminal
WIDE = 100  # columns from which on a terminal has room for a bar, too


class Watcher:
    """Sees a sweep go on, and says nothing; those that follow say something.

    A `with` block holds the whole sweep: `stage` names what is done in it, `begin` begins to train.
    """

    directory: Path | None = None  # of the run, once there is one
    undo = ""  # what sets a terminal right that shows something that moves
    doing = ""
    since = 0.0  # by the clock of `time.monotonic`, when that began
    trials = kept = ended = failed = 0
    more = 0  # trials of the same stage that follow those that begin
    best: Best | None = None
    work = 0.0  # of what is trained now: trials, those that are half done as halves, long ones as more than one
    counting = threading.Lock()  # cohorts may train in threads

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

    def starting(self) -> contextlib.AbstractContextManager[object]:
        """Holds what takes seconds before anything is known of the sweep."""
        return contextlib.nullcontext()

    def stage(self, doing: str) -> None:
        """Something else begins that takes its time."""
        self.doing, self.since = doing, time.monotonic()

    def expect(self, more: int) -> None:
        """So many trials follow those that begin next, which nobody knows yet."""
        self.more = more

    def open(self, directory: Path) -> None:
        """All is checked, and the run's folder is there."""
        self.directory = directory

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        """Take in what is about to be trained, and what is there of the same stage."""
        self.directory = cohorts[0].files.directory
        self.parts = dict.fromkeys(map(id, cohorts), 0.0)  # cohort -> how much of it is done, from 0 to 1
        self.ends = dict.fromkeys(map(id, cohorts), 0)  # cohort -> how many of its trials ended
        self.weights = _weights(cohorts)
        self.work = 0.0
        self.count(objective, sum(len(cohort.trials) for cohort in cohorts) + self.more, kept)
        self.stage(STAGES[cohorts[-1].trials[-1].stage])

    def count(self, objective: str, new: int, kept: Sequence[Record]) -> None:
        """Count from so many trials that are yet to be trained, and those that an earlier run left."""
        self.objective, self.lower = objective, metric_of(objective).lower_is_better
        self.ended = self.kept = len(kept)
        self.trials = self.kept + new
        self.failed, self.best = 0, None
        for record in kept:
            self._take(record)

    def callbacks(self, cohort: Cohort) -> Iterable[Callback]:
        """What is told of a cohort's progress."""

        def move(progress: Progress) -> None:
            if progress.note:
                self.note(f"{subject([trial.id for trial in cohort.trials])} {progress.note}")
            self._advance(cohort, progress.step / progress.steps)
            self.moved()

        return [move]

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """Take in trials of a cohort that are over."""
        self.ends[id(cohort)] += len(records)
        self._advance(cohort, max(self.parts[id(cohort)], self.ends[id(cohort)] / len(cohort.trials)))
        self.ended += len(records)
        for record in records:
            self._take(record)
            if record["status"] == "failed":
                cell = [f"{key} {label}" for key, label in record["cell"].items()]
                named = ", ".join([*cell, f"seed {record['seed']}"])
                self.say(f"trial {record['id']} ({named}) failed: {record['message']}")
        self.moved()

    def _advance(self, cohort: Cohort, part: float) -> None:
        with self.counting:
            self.work += (part - self.parts[id(cohort)]) * self.weights[id(cohort)]
            self.parts[id(cohort)] = part

    def _take(self, record: Record) -> None:
        if record["status"] == "failed":
            self.failed += 1
        elif record["status"] == "ok" and record["stage"] != "pretrain":
            value, sign = record["final"].get(self.objective), 1 if self.lower else -1
            if value is not None and (self.best is None or sign * value < sign * self.best.value):
                self.best = Best(self.objective, value, record["cell"])

    def moved(self) -> None:
        """Something is further than before."""

    def say(self, line: str) -> None:
        """Something to be read at once."""

    def note(self, line: str) -> None:
        """Something to be read at once that is no failure."""
        self.say(line)

    @property
    def status(self) -> Status:
        """How far the sweep is."""
        new, seconds = self.trials - self.kept, time.monotonic() - self.since
        share = min(1.0, self.work / new) if new else 1.0
        return Status(
            state=RUNNING,
            doing=self.doing,
            trials=self.trials,
            ended=self.ended,
            failed=self.failed,
            share=(self.kept + new * share) / self.trials if self.trials else 0.0,
            seconds=seconds,
            seconds_left=seconds * (1 - share) / share if 0 < share < 1 else None,
            best=self.best,
        )

    def line(self, between: str = ", ") -> str:
        """How far the sweep is, in a line.

        "3/12 trials, 41 %, 35 s left, best 97.1 % (learning_rate 0.1)"
        """
        return self.status.line(between)


class Together(Watcher):
    """Several watchers of one sweep."""

    def __init__(self, *watchers: Watcher):
        self.watchers = watchers
        self.block = contextlib.ExitStack()

    def __enter__(self) -> Watcher:
        for watcher in self.watchers:
            self.block.enter_context(watcher)
        return self

    def __exit__(self, *error: Any) -> None:
        self.block.__exit__(*error)

    def stage(self, doing: str) -> None:
        for watcher in self.watchers:
            watcher.stage(doing)

    def expect(self, more: int) -> None:
        for watcher in self.watchers:
            watcher.expect(more)

    def open(self, directory: Path) -> None:
        for watcher in self.watchers:
            watcher.open(directory)

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        for watcher in self.watchers:
            watcher.begin(cohorts, objective, kept)

    def callbacks(self, cohort: Cohort) -> Iterable[Callback]:
        return [callback for watcher in self.watchers for callback in watcher.callbacks(cohort)]

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        for watcher in self.watchers:
            watcher.end(cohort, records)

    def say(self, line: str) -> None:
        for watcher in self.watchers:
            watcher.say(line)

    def note(self, line: str) -> None:
        for watcher in self.watchers:
            watcher.note(line)


class Failures(Watcher):
    """Says only which trials failed."""

    def note(self, line: str) -> None:
        pass

    def say(self, line: str) -> None:
        print(visible(line), file=sys.stderr, flush=True)


class Lines(Watcher):
    """Plain lines, by default on standard error: at every stage, at each tenth of the trials, after `every` seconds."""

    def __init__(self, file: TextIO | None = None, every: float = EVERY):
        self.file, self.every = file, every
        self.lock = threading.Lock()
        self.over = threading.Event()

    def open(self, directory: Path) -> None:
        super().open(directory)
        self.say(f"run folder: {directory}")

    def stage(self, doing: str) -> None:
        super().stage(doing)
        if self.directory and doing not in STAGES.values():
            self.say(doing)

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        super().begin(cohorts, objective, kept)
        self.tenths = int(10 * self.status.share)
        self.say(_beginning(self, cohorts))

    def __enter__(self) -> Watcher:
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _tick(self) -> None:
        """Say something also while nothing ends, such as during a long compilation."""
        while not self.over.wait(self.every):
            if self.directory:
                self.say(self.line())

    def moved(self) -> None:
        tenths = 10 if self.ended == self.trials else min(9, int(10 * self.status.share + 1e-9))
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

    def starting(self) -> contextlib.AbstractContextManager[object]:
        return self.console.status("starting")

    def open(self, directory: Path) -> None:
        super().open(directory)
        self.say(f"run folder: {directory}")

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        super().begin(cohorts, objective, kept)
        self.say(_beginning(self, cohorts))

    def __enter__(self) -> Watcher:
        from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task
        from rich.progress import Progress as RichProgress
        from rich.table import Column
        from rich.text import Text

        watch = self

        class Line(ProgressColumn):
            """How far the sweep is, at every refresh, as time goes on while nothing moves."""

            def render(self, task: Task) -> Text:
                return Text(visible(watch.line(" · ")))

        line = Line(Column(no_wrap=True, overflow="ellipsis"))
        wide = [BarColumn(bar_width=16)] if self.console.width >= WIDE else []
        columns = (SpinnerColumn(), *wide, line)
        self.bar = RichProgress(*columns, console=self.console, transient=True, expand=True, refresh_per_second=4)
        self.task = self.bar.add_task("", total=1.0)
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def moved(self) -> None:
        self.bar.update(self.task, completed=self.status.share)

    def say(self, line: str) -> None:
        self.console.print(visible(line), markup=False, highlight=False)


def _weights(cohorts: Sequence[Cohort]) -> dict[int, float]:
    """How many trials of usual length each cohort is worth, by its id; all together are as many as there are."""
    trials, seconds = (sum(values) for values in ([len(c.trials) for c in cohorts], [c.seconds for c in cohorts]))
    if not all(cohort.seconds for cohort in cohorts):
        return {id(cohort): float(len(cohort.trials)) for cohort in cohorts}
    return {id(cohort): cohort.seconds * trials / seconds for cohort in cohorts}


def _beginning(watch: Watcher, cohorts: Sequence[Cohort]) -> str:
    """What a stage begins with: "training, 20 trials, 4 programs"."""
    programs = len({trial.program for cohort in cohorts for trial in cohort.trials})
    new = watch.trials - watch.kept
    counts = [f"{n} {noun}{'s' * (n != 1)}" for n, noun in ((new, "trial"), (programs, "program"))]
    before = [f"{watch.kept} more from before"] * bool(watch.kept)
    return ", ".join([watch.doing, *counts, *before])


def watcher(quiet: bool = False) -> Watcher:
    """What suits standard error: `Bar` on a terminal, else `Lines`; quiet: failures only."""
    if quiet:
        return Failures()
    from rich.console import Console

    return Bar() if Console(stderr=True).is_terminal else Lines()


def subject(ids: Sequence[str]) -> str:
    """Trials as the subject of a sentence, in the singular."""
    if len(ids) == 1:
        return f"trial {ids[0]}"
    more = f" and {len(ids) - 2} more" if len(ids) > 2 else ""
    return f"the cohort of {'trials ' + ', '.join(ids[:2]) + more}"
