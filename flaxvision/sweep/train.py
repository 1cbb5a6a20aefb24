"""Trains what is not on record: shares trials out, keeps what ends, and what is not over when the sweep is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence

from flaxvision.sweep.arrange import Arrangement, go_on, read_arrangement, recorded, write_arrangement
from flaxvision.sweep.executors import execute
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.plan import Plan
from flaxvision.sweep.progress import Watcher, subject
from flaxvision.sweep.results import Outcome
from flaxvision.sweep.store import append_record, check_unchanged, outcome_of
from flaxvision.sweep.trials import Record, Trial
from flaxvision.sweep.work import Cohort, name_of


@dataclasses.dataclass(slots=True, eq=False)
class Training:
    """Trains trials of a sweep, each once."""

    plan: Plan
    files: RunFiles
    executor: str  # of `flaxvision.sweep.run`, as are the next three
    checkpoint_every: float
    watch: Watcher
    planned: Callable[[Plan], object]
    done: dict[str, Record]  # by id, those on record at first
    used: list[str] = dataclasses.field(default_factory=list)  # executors, in words

    def __call__(self, wanted: Sequence[Trial]) -> dict[str, Outcome]:
        """The outcomes of trials by id; those that are not done are trained."""
        left = [trial for trial in wanted if trial.id not in self.done]
        if left:
            if not self.used:
                self.planned(self.plan)
            self._train(self._arrange(left, wanted[-1].stage))
        return {trial.id: outcome_of(self.done[trial.id], self.files) for trial in wanted}

    def _arrange(self, left: Sequence[Trial], stage: str) -> Arrangement:
        """Share trials out as before, where they were, and keep how."""
        import jax

        platform, directory = jax.default_backend(), self.files.directory
        stages = read_arrangement(directory)
        before = stages.get(stage)
        arranged = go_on(before, left, self.files, self.executor, platform)
        names = {name_of([trial.id for trial in cohort]) for cohort in arranged.cohorts}
        ids = {trial.id for trial in left}
        for cohort in before.cohorts if before else ():
            folder = self.files.checkpoints / name_of(cohort)
            if folder.exists() and folder.name not in names and ids.intersection(cohort):
                self.watch.note(f"{subject(cohort)} begins anew: what was trained together is no longer")
                shutil.rmtree(folder, ignore_errors=True)
        write_arrangement(directory, {**stages, stage: recorded(arranged, before, self.executor, platform)})
        return arranged

    def _train(self, arranged: Arrangement) -> None:
        files, spec, watch = self.files, self.plan.spec, self.watch
        shared = files, arranged.mode, spec.convergence_threshold, self.checkpoint_every
        work = [Cohort(trials, *shared) for trials in arranged.cohorts]
        watch.begin(work, spec.objective)
        with watch:
            for cohort, records in execute(work, arranged.executor, watch.callbacks):
                for record in records:
                    check_unchanged(record, self.plan.identity)
                append_record(files.directory, *records)
                self.done |= {record["id"]: record for record in records}
                if cohort.pretrains and files.weights(cohort.trials[0].id).exists():
                    shutil.copyfile(files.weights(cohort.trials[0].id), files.pretrained)
                self._forget(cohort, records)
                watch.end(cohort, records)
        together = arranged.executor == "threads" and max(map(len, arranged.cohorts)) > 1
        self.used.append(f"{arranged.executor}, cohorts by vmap" if together else arranged.executor)

    def _forget(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """Delete the checkpoints of trials that are over; one that failed alone goes on when the run is resumed."""
        over = {record["id"] for record in records if record["status"] != "failed"}
        for name in over | ({cohort.name} if len(cohort.trials) > 1 else set()):
            shutil.rmtree(self.files.checkpoints / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # where others are kept, or none ever was
            self.files.checkpoints.rmdir()
