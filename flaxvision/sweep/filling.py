"""Trains what a table lacks: shares it out as before, keeps what comes, forgets checkpoints of what is over."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flaxvision.sweep import store
from flaxvision.sweep.arrange import (
    Arranged,
    Arrangement,
    asked_for,
    go_on,
    platform_of,
    read_arrangement,
    recorded,
    renewed,
    write_arrangement,
)
from flaxvision.sweep.executors import execute
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.logged import TrialLogs
from flaxvision.sweep.parts import of_part
from flaxvision.sweep.plan import Plan
from flaxvision.sweep.progress import Watcher, subject
from flaxvision.sweep.records import TRIALS
from flaxvision.sweep.results import Outcome
from flaxvision.sweep.trials import Record, Trial
from flaxvision.sweep.work import Cohort, name_of

if TYPE_CHECKING:
    from flaxvision.training.callbacks import Callback


@dataclasses.dataclass(slots=True, eq=False)
class Training:
    """Trains trials of a sweep, each once."""

    plan: Plan
    files: RunFiles
    executor: str  # of `flaxvision.sweep.run`, as are the next three
    checkpoint_every: float
    watch: Watcher
    logs: TrialLogs
    planned: Callable[[Plan], object]
    done: dict[str, Record]  # by id, those on record at first
    used: list[str] = dataclasses.field(default_factory=list)  # executors, in words
    told: bool = False

    def __call__(self, wanted: Sequence[Trial]) -> dict[str, Outcome]:
        """The outcomes of trials by id; those that are not done are trained."""
        left = [trial for trial in wanted if trial.id not in self.done]
        if left:
            self.begins()
            self.watch.stage("arranging trials")
            stages = {trial.stage for trial in left}
            kept = [self.done[t.id] for t in wanted if t.id in self.done and t.stage in stages]
            self._train(self._arrange(wanted, left), kept)
        return {trial.id: store.outcome_of(self.done[trial.id], self.files) for trial in wanted}

    def begins(self) -> None:
        """Say once what will run."""
        if not self.told:
            self.planned(self.plan)
        self.told = True

    def _arrange(self, wanted: Sequence[Trial], left: Sequence[Trial]) -> Arrangement:
        """Share out what is left as before, where it was, else as one that trains all that is wanted; and keep how."""
        stage, stages = wanted[-1].stage, self._stages()
        ids, before = {trial.id for trial in left}, stages.get(stage)
        platform = platform_of(self.executor)
        whole = [trial for trial in wanted if trial.id in ids or trial.stage == stage]
        arranged = go_on(before, whole, ids, self.files, self.executor, platform)
        names = {name_of([trial.id for trial in cohort]) for cohort in arranged.cohorts}
        for cohort in before.cohorts if before else ():
            folder = self.files.checkpoints / name_of(cohort)
            if folder.exists() and folder.name not in names and ids.intersection(cohort):
                self.watch.note(f"{subject(cohort)} begins anew: its cohort has changed")
                shutil.rmtree(folder, ignore_errors=True)
        self._keep(renewed(stages, stage, recorded(arranged, before, self.executor, platform)))
        return arranged

    def keep_asked(self, stage: str) -> None:
        """Keep which executor a stage that shares out its trials by itself was asked for."""
        self._keep(renewed(self._stages(), stage, asked_for(self.executor)))

    def _stages(self) -> dict[str, Arranged]:
        """How the stages on record are shared out."""
        stages = read_arrangement(self.files.directory, self.files.part)
        if stages is None:
            self.watch.note("arrangement.json is damaged, or of another version: trials are shared out as in a new run")
        return stages or {}

    def _keep(self, stages: dict[str, Arranged]) -> None:
        write_arrangement(self.files.directory, stages, self.files.part)

    def _train(self, arranged: Arrangement, kept: Sequence[Record]) -> None:
        files, spec, watch, logs = self.files, self.plan.spec, self.watch, self.logs

        def callbacks(cohort: Cohort) -> list[Callback]:
            return [*watch.callbacks(cohort), *logs.callbacks(cohort)]

        shared = files, arranged.mode, spec.convergence_threshold, self.checkpoint_every
        seconds = [len(trials) * arranged.seconds.get(trials[0].program, 0.0) for trials in arranged.cohorts]
        work = [
            Cohort(trials, *shared, each, spec.devices) for trials, each in zip(arranged.cohorts, seconds, strict=True)
        ]
        watch.begin(work, spec.objective, kept)
        for cohort, finished in execute(work, arranged.executor, callbacks):
            for each in finished:
                store.check_unchanged(each.record, self.plan.identity)
            records = [each.write(files) for each in finished]
            store.append_record(files.directory, *records, name=of_part(TRIALS, files.part))
            self.done |= {record["id"]: record for record in records}
            if cohort.pretrains and records[0]["status"] != "failed":
                store.take_weights(records[0], files, files.pretrained)
            self._forget(cohort, records)
            watch.end(cohort, records)
            logs.end(cohort, records)
        together = arranged.executor == "threads" and max(map(len, arranged.cohorts)) > 1
        self.used.append(f"{arranged.executor}, cohorts by vmap" if together else arranged.executor)

    def _forget(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """Delete the checkpoints of trials that are over; one that failed alone goes on when the run is resumed."""
        over = {record["id"] for record in records if record["status"] != "failed"}
        for name in over | ({cohort.name} if len(cohort.trials) > 1 else set()):
            shutil.rmtree(self.files.checkpoints / name, ignore_errors=True)
        if self.files.part is None:  # another part may be about to keep one
            with contextlib.suppress(OSError):  # where others are kept, or none ever was
                self.files.checkpoints.rmdir()

    def forget_others(self) -> None:
        """Delete checkpoints that a kill left of trials that are over, or of cohorts that are no more.

        Those that were not asked for this time, or failed, are not over: they go on when they are asked for again.
        """
        over = {name for name, record in self.done.items() if record["status"] != "failed"}
        cohorts = [cohort for stage in self._stages().values() for cohort in stage.cohorts]
        kept = {name_of(cohort) for cohort in cohorts if not over.issuperset(cohort)} | (self.done.keys() - over)
        folder = self.files.checkpoints
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # of others
            folder.rmdir()
