"""Trains a few steps of every program of a sweep, to time them and to have them compiled; it keeps nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from flaxvision._interrupts import stop_if_asked
from flaxvision.errors import UserError
from flaxvision.sweep import store
from flaxvision.sweep.arrange import Arrangement
from flaxvision.sweep.config import TrialConfig
from flaxvision.sweep.executors import attempt
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.finished import Finished
from flaxvision.sweep.foresee import Pace, workers_of
from flaxvision.sweep.own_cores import own_cores
from flaxvision.sweep.trials import Trial
from flaxvision.sweep.work import Cohort
from flaxvision.sweep.workers import Worker

if TYPE_CHECKING:
    from flaxvision.training.callbacks import Callback, Progress

SECONDS = 2.0  # that each program is timed
WHOLE_EPOCH = 20.0  # seconds after which its first epoch is not waited for, and its evaluation not compiled


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """How far a cohort was."""

    seconds: float  # since it began
    step: int
    ends: bool  # whether an epoch ended there, with its evaluation


@dataclasses.dataclass(frozen=True, slots=True)
class Seen(Finished):
    """What was seen of a cohort's training."""

    marks: tuple[Mark, ...] = ()
    steps: int = 0  # that the whole training has
    whole: float | None = None  # seconds that it took; None: it was ended

    @property
    def first(self) -> Mark:
        """The end of the first epoch, or where that was not seen of the first call."""
        return next((mark for mark in self.marks if mark.ends), self.marks[0])

    @property
    def step(self) -> float:
        """Seconds of a step, with its share of the evaluations if two of them were seen."""
        ends = [mark for mark in self.marks if mark.ends]
        first, last = (ends[0], ends[-1]) if len(ends) > 1 else (self.marks[0], ends[-1] if ends else self.marks[-1])
        if last.step == first.step:  # as on an accelerator, where an epoch is one call
            return last.seconds / last.step
        return (last.seconds - first.seconds) / (last.step - first.step)

    @property
    def training(self) -> float:
        """Seconds of the whole training."""
        return self.step * self.steps if self.whole is None else self.whole


class _Enough(BaseException):  # so that no trial takes it for its own
    """Ends a training of which enough was seen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample(Cohort):
    """A cohort of which a part is trained, in any process, to see how long it takes."""

    limit: float = SECONDS  # seconds from its first call on
    epoch: bool = False  # whether its first epoch is enough

    def run(self, callbacks: Iterable[Callback] = ()) -> list[Finished]:
        """Train, and give what was seen."""
        marks: list[Mark] = []
        steps, began = 0, time.perf_counter()

        def look(progress: Progress) -> None:
            nonlocal steps
            if progress.note:
                return
            steps = progress.steps
            marks.append(Mark(time.perf_counter() - began, progress.step, bool(progress.metrics)))
            over = marks[-1].seconds - marks[0].seconds > self.limit and len(marks) > 2
            if progress.step < progress.steps and (over or (self.epoch and progress.metrics)):
                raise _Enough

        whole = None
        with contextlib.suppress(_Enough):
            records = [each.write(self.files) for each in Cohort.run(self, [look])]
            store.append_record(self.files.directory, *records)
            whole = time.perf_counter() - began
        return [Seen({}, marks=tuple(marks), steps=steps, whole=whole)]


class Forgetting(Cohort):
    """Forgets the programs of networks in a process, but for those in the cache on disk."""

    def run(self, callbacks: Iterable[Callback] = ()) -> list[Finished]:
        """Forget them."""
        from flaxvision.training.engine import engine_for
        from flaxvision.training.scoring import evaluation_for

        engine_for.cache_clear()
        evaluation_for.cache_clear()
        return []


Slot = Callable[[Cohort], list[Finished]]  # where one cohort trains at a time


def measure(
    arranged: Arrangement, files: RunFiles, say: Callable[[str], object], seconds: float = SECONDS
) -> tuple[dict[str, Pace], float]:
    """Time the programs of a sweep, and leave them in the cache of compiled programs.

    Each is compiled; then loaded from the cache, as the sweep will do; then trained for so many seconds, by as many
    workers at a time as the sweep will have.

    Args:
        arranged: The cohorts, and how they will run: not by Ray.
        files: Where data lie.
        say: Is told what is being measured.
        seconds: Of training that are timed of each program.

    Returns:
        The pace of each program, and the seconds until worker processes are as far as they are for a second program.
    """
    samples = {cohort[0].program: cohort for cohort in reversed(arranged.cohorts)}  # the first cohort of each
    paces: dict[str, Pace] = {}
    start = 0.0
    with tempfile.TemporaryDirectory() as folder, _slots(arranged) as (slots, started):
        elsewhere = dataclasses.replace(files, directory=Path(folder))
        (Path(folder) / "trials").mkdir()
        for number, (program, trials) in enumerate(reversed(samples.items()), 1):
            stop_if_asked()
            say(f"measuring program {number} of {len(samples)}")
            shared = tuple(map(_without_pretraining, trials)), elsewhere, arranged.mode, None
            first_epoch = Sample(*shared, limit=WHOLE_EPOCH, epoch=True)
            _seen(slots[:1], first_epoch)
            others = _seen(slots[1:], first_epoch) if started else []
            for slot in slots:
                slot(Forgetting(*shared))
            loaded = _seen(slots, first_epoch)
            steady = _seen(slots, Sample(*shared, limit=seconds))
            step = fmean(seen.step for seen in steady)
            loading = fmean(seen.first.seconds - step * seen.first.step for seen in loaded)
            paces[program] = Pace(fmean(seen.training for seen in steady), max(0.0, loading))
            if number == 1 and others:
                start = started + fmean(seen.first.seconds for seen in others)
                start -= fmean(seen.first.seconds for seen in loaded)
    return paces, max(start, started)


@contextlib.contextmanager
def _slots(arranged: Arrangement) -> Iterator[tuple[Sequence[Slot], float]]:
    """Where cohorts train, as many as do so at a time, and the seconds that the start of processes took."""
    count = workers_of(arranged)
    if arranged.executor != "processes":
        yield [attempt] * count, 0.0
        return
    began = time.perf_counter()
    with own_cores(count) as taken:
        workers = [Worker(core) for core in taken]
        try:
            for worker in workers:
                worker.wait()
            started = time.perf_counter() - began
            yield [functools.partial(worker.run, report=lambda _: None) for worker in workers], started
        finally:
            for worker in workers:
                worker.end()


def _seen(slots: Sequence[Slot], sample: Sample) -> list[Seen]:
    """What is seen of a sample in several slots side by side."""
    if not slots:
        return []
    with ThreadPoolExecutor(len(slots)) as pool:
        found = [each for given in pool.map(lambda slot: slot(sample), slots) for each in given]
    for each in found:
        if not isinstance(each, Seen):
            raise UserError(f"a trial fails as soon as it is measured: {each.record['message']}")
    return [each for each in found if isinstance(each, Seen)]


def _without_pretraining(trial: Trial) -> Trial:
    """A trial that starts from weights which are not there yet, from others; its steps take as long."""
    if not trial.starts_pretrained:
        return trial
    left = {key: value for key, value in trial.settings.items() if key not in ("warm_start", "warm_start_only")}
    return dataclasses.replace(trial, config=TrialConfig.of(left))
