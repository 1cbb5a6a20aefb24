"""What a sweep writes while it runs: status.json, and the page that refreshes itself."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flaxvision._files import write_atomically
from flaxvision.sweep import store
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.progress import Watcher, subject
from flaxvision.sweep.results import Outcome, SweepResult, cells_of
from flaxvision.sweep.search.found import searched
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.status import DONE, FAILED, INTERRUPTED, RUNNING, STAGES, Status
from flaxvision.sweep.trials import Trial

if TYPE_CHECKING:
    from flaxvision.sweep.trials import Record
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress

STATUS_EVERY = 2.0  # seconds between two looks at the status
PAGE_EVERY = 10.0  # and between two pages
SHARE = 0.02  # of the time that pages may take from the training


class Live(Watcher):
    """Keeps status.json and, if it is to, report.html, in a thread that looks every `STATUS_EVERY` seconds.

    The page shows the trials that are over: it is the report's own, without figures. When training ends it stays as it
    is, and the report takes its place.
    """

    def __init__(
        self,
        spec: Spec,
        trials: Sequence[Trial],
        done: Mapping[str, Record],
        files: RunFiles,
        provenance: dict[str, Any],
        complain: Callable[[str], None],
        *,
        page: bool,
    ):
        trials = [trial for trial in trials if trial.stage != "search"]  # which only stand for its space
        self.spec, self.planned, self.files, self.provenance = spec, trials, files, provenance
        self.complain, self.page = complain, page
        self.records = dict(done)  # by id, as are the next
        self.outcomes: dict[str, Outcome] = {}
        self.at: dict[str, str] = {}  # cohort -> how far it is
        self.state = RUNNING
        self.next_page = 0.0  # by the clock of `time.monotonic`
        self.over = threading.Event()
        self.writing = threading.Lock()
        kept = [self.records[trial.id] for trial in trials if trial.id in self.records]
        self.count(spec.objective, len(trials) - len(kept), kept)

    def __enter__(self) -> Watcher:
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        self.thread.join()
        training, self.doing = self.doing in STAGES.values(), ""
        self.state = DONE if kind is None else FAILED if issubclass(kind, Exception) else INTERRUPTED
        with contextlib.suppress(Exception):  # such as a disk that is full, of which the sweep itself has told
            self.status.write(self.files.directory)
            if self.page and training:
                self._write_page()

    def stage(self, doing: str) -> None:
        with self.writing:  # what is being written is whole before what comes next, such as the report
            super().stage(doing)

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        super().begin(cohorts, objective, kept)
        if self.spec.search:  # whose trials nobody knew before
            self.records |= {record["id"]: record for record in kept}
            new = [trial for cohort in cohorts for trial in cohort.trials]
            self.planned = [trial for trial in (*map(Trial.of_record, kept), *new) if trial.stage == "sweep"]
        self._write(at_once=True)

    def callbacks(self, cohort: Cohort) -> Iterable[Callback]:
        name = subject([trial.id for trial in cohort.trials])

        def note(progress: Progress) -> None:
            with self.counting:
                self.at[cohort.name] = f"{name}: epoch {progress.epoch}, {progress.step / progress.steps:.0%}"

        return [*super().callbacks(cohort), note]

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        super().end(cohort, records)
        self.records |= {record["id"]: record for record in records}
        with self.counting:
            self.at.pop(cohort.name, None)

    def say(self, line: str) -> None:
        pass

    @property
    def status(self) -> Status:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        with self.counting:
            running = tuple(self.at.values())
        return dataclasses.replace(super().status, state=self.state, running=running, updated=now)

    def _tick(self) -> None:
        while not self.over.wait(STATUS_EVERY):
            self._write()

    def _write(self, *, at_once: bool = False) -> None:
        """Write what is due, or all; once that fails, say so and leave it."""
        with self.writing:
            if self.over.is_set() or not self.doing:
                return
            try:
                self.status.write(self.files.directory)
                began = time.monotonic()
                if self.page and self.doing in STAGES.values() and (at_once or self.next_page <= began):
                    self._write_page()
                    took = time.monotonic() - began
                    self.next_page = began + max(PAGE_EVERY, took / SHARE)
            except Exception as error:
                self.over.set()
                self.complain(f"the page of the running sweep is not kept up: {error}")

    def _write_page(self) -> None:
        from flaxvision.report import report_html

        write_atomically(self.files.directory / "report.html", report_html(self._result(), {}, status=self.status))

    def _result(self) -> SweepResult:
        """The table of the trials that are over."""
        for trial in self.planned:
            if trial.id in self.records and trial.id not in self.outcomes:
                self.outcomes[trial.id] = store.outcome_of(self.records[trial.id], self.files, lazily=True)
        ended = [trial for trial in self.planned if trial.id in self.outcomes]
        return SweepResult(
            name=self.spec.name,
            title=self.spec.heading,
            description=self.spec.description,
            keys=self.spec.keys,
            cells=cells_of(self.spec, ended, self.outcomes),
            objective=self.spec.objective,
            winner=None,
            classes=(),
            provenance=self.provenance,
            directory=self.files.directory,
            convergence_threshold=self.spec.convergence_threshold,
            search=searched(self.spec, [record for record in self.records.values() if record["stage"] == "search"]),
        )
