"""Every trial of a sweep as a run of a tool that draws numbers while they come in."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from flaxvision.logs._callback import plain_settings
from flaxvision.logs._logger import About, Logger, Opens, opens
from flaxvision.sweep.executors import reason
from flaxvision.sweep.results import Problem
from flaxvision.sweep.store import outcome_of
from flaxvision.sweep.trials import Record, Trial
from flaxvision.training.history import History

if TYPE_CHECKING:
    from flaxvision.sweep.files import RunFiles
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress


class TrialLogs:
    """Logs trials with some tools; one that fails is a problem of the sweep, and is told nothing more.

    Args:
        tools: Names of `flaxvision.logs.LOGGERS`, or functions that make a `Logger` of an `About`.

    Raises:
        UserError: If there is no such tool, or its package is not installed.
    """

    def __init__(self, tools: Iterable[str | Opens]):
        self.tools = {tool if isinstance(tool, str) else getattr(tool, "__name__", str(tool)): tool for tool in tools}
        self.opens = {name: opens(tool) for name, tool in self.tools.items()}
        self.running: dict[str, _Running] = {}  # by the trial's id
        self.problems: list[Problem] = []

    def callbacks(self, cohort: Cohort) -> list[Callback]:
        """What is told of a cohort's progress."""

        def told(progress: Progress) -> None:
            runs = [self._of(trial, cohort.files) for trial in cohort.trials]
            # Of a cohort that failed the trials are tried one by one, and whose numbers these are is not said.
            for run, metrics in zip(runs, progress.metrics, strict=False) if len(progress.metrics) == len(runs) else ():
                if metrics and progress.step > run.step:
                    self._log(run, metrics, progress.step, time.monotonic() - run.began)

        return [told] if self.opens else []

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """Log what was not told of trials that ended, and how they ended."""
        for record in records if self.opens else ():
            run = self._of(Trial.of_record(record), cohort.files)
            steps = record.get("epoch_steps", [])
            if steps and steps[-1] > run.step:
                history = History(dict(outcome_of(record, cohort.files).history))
                for epoch, (step, seconds) in enumerate(zip(steps, record["epoch_seconds"], strict=True), start=1):
                    if step > run.step:
                        self._log(run, history.row(epoch), step, seconds)
            final = {name: value for name, value in record.get("final", {}).items() if value is not None}
            self._end(run, record["status"], final)

    def close(self) -> None:
        """End the runs whose trials did not come to an end."""
        for run in list(self.running.values()):
            self._end(run, "interrupted", {})

    def _of(self, trial: Trial, files: RunFiles) -> _Running:
        if trial.id not in self.running:
            cell = [f"{key} {label}" for key, label in trial.cell]
            name = ", ".join([*([trial.stage] if trial.stage != "sweep" else []), *cell, f"seed {trial.seed}"])
            directory = files.directory.absolute()
            about = About(name, trial.id, directory.name, plain_settings(trial.as_json()), directory)
            run = self.running[trial.id] = _Running(trial.id)
            for tool, make in list(self.opens.items()):
                self._try(tool, functools.partial(run.begin, tool, make, about))
        return self.running[trial.id]

    def _log(self, run: _Running, metrics: dict[str, float], step: int, seconds: float) -> None:
        run.step = step
        for tool, logger in run.loggers.items():
            self._try(tool, functools.partial(logger.log, metrics, step, seconds))

    def _end(self, run: _Running, status: str, final: dict[str, float]) -> None:
        del self.running[run.id]
        for tool, logger in run.loggers.items():
            self._try(tool, functools.partial(logger.end, status, final))

    def _try(self, tool: str, act: Callable[[], object]) -> None:
        if tool not in self.opens:
            return
        try:
            act()
        except Exception as error:
            del self.opens[tool]
            self.problems.append(Problem(f"log {tool}", reason(error)))


class _Running:
    """A trial that is being logged."""

    def __init__(self, trial_id: str):
        self.id, self.began = trial_id, time.monotonic()
        self.step = 0  # the last one that was logged
        self.loggers: dict[str, Logger] = {}

    def begin(self, tool: str, make: Opens, about: About) -> None:
        """Begin a run of a tool."""
        self.loggers[tool] = make(about)
