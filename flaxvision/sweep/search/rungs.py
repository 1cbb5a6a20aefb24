"""Trains a batch of trials, as populations of one program each, and ends the worse ones early."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flaxvision._interrupts import stop_if_asked
from flaxvision.errors import UserError
from flaxvision.runtime import cores
from flaxvision.sweep.arrange import arrange
from flaxvision.sweep.devices import devices_for
from flaxvision.sweep.executors import in_threads, reason
from flaxvision.sweep.inputs import create_model, dataset_of, identity_of, recipe_of
from flaxvision.sweep.search.records import PRUNED
from flaxvision.sweep.spec import BATCH, Search, Spec
from flaxvision.sweep.trials import Trial, by_program
from flaxvision.sweep.work import Cohort, scores_of
from flaxvision.sweep.workers import every_so_often
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from flaxvision.sweep.executors import Callbacks, Report
    from flaxvision.sweep.files import RunFiles
    from flaxvision.training import Population
    from flaxvision.training.callbacks import Callback, Progress
    from flaxvision.training.recipe import Recipe


OF_SEARCH = "search-"  # what folders of checkpoints begin with


@dataclasses.dataclass(slots=True, eq=False)
class Reached:
    """How far a trial is; none equals another."""

    trial: Trial
    status: str = "ok"
    rungs: list[tuple[int, float | None]] = dataclasses.field(default_factory=list)  # as in its record
    scores: dict[str, float | None] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""
    trace: str = ""

    @property
    def value(self) -> float:
        """What it reached by the objective."""
        return math.nan if not self.rungs or self.rungs[-1][1] is None else self.rungs[-1][1]


@dataclasses.dataclass(slots=True, eq=False)
class Part:
    """Trials of a batch that train together, each until it ends."""

    cohort: Cohort
    objective: str
    going: dict[int, Reached]  # member of the population -> how far it is; those that have ended are gone
    population: Population | None = None  # None: not begun, or all have ended
    report: Report = print  # is told how far it is; another one at each rung
    held: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)  # its population's devices

    @property
    def folder(self) -> str:
        """Of its checkpoints, in that of the run's."""
        return f"{OF_SEARCH}{self.cohort.name}"

    def train(self, until: int | None, report: Report) -> None:
        """Train until so many epochs are over, or to the end; an error ends its trials, and no others."""
        from flaxvision.training.compiling import compiled_seconds

        before, compiled = time.perf_counter(), compiled_seconds()
        self.report = report
        try:
            self._train(until)
        except Exception as error:
            trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            for each in self.going.values():
                each.status, each.message, each.trace = "failed", reason(error), trace
        took = time.perf_counter() - before - (compiled_seconds() - compiled)
        for each in self.going.values():
            each.seconds += max(0.0, took) / len(self.going)

    def _begin(self) -> Population:
        from flaxvision.training import Population

        trials, files = self.cohort.trials, self.cohort.files
        dataset = dataset_of(trials[0], files)
        models = [create_model(trial, dataset) for trial in trials]
        recipes = [recipe_of(trial, files) for trial in trials]
        identities = [identity_of(trial, files) for trial in trials]
        told = every_so_often(lambda progress: self.report(progress))
        taken = self.held.enter_context(devices_for(len(models), self.cohort.devices))
        devices = BATCH if self.cohort.devices == BATCH else taken
        keep, mode = self.cohort.keep(self.folder, identities, taken), self.cohort.mode
        population = Population(models, dataset, recipes, mode=mode, devices=devices, callbacks=[told], checkpoint=keep)
        self.population = population
        self._drop_ended(population)
        seconds = population.seconds  # those before an interruption
        for member, each in self.going.items():
            each.seconds = seconds[member]
        return population

    def _train(self, until: int | None) -> None:
        """One that goes on from a checkpoint may be further than that, where fewer went on than still go here.

        It knows what all of them had reached until then. Where it does not, as other trials went on, it begins anew.
        """
        population = self.population or self._begin()
        until = population.epochs if until is None else min(until, population.epochs)
        known = population.members if population.epoch < until else population.scores(until)
        if not self.going.keys() <= set(known):
            self.end()
            self.forget()
            population = self._begin()
        if population.epoch < until:
            population.train(until - population.epoch)
            until = population.epoch  # or sooner, where all have stopped
        newest, selected = population.scores(until), population.scores(until, selected=True)
        for member, each in self.going.items():
            if each.rungs and each.rungs[-1][0] == until:
                continue
            scores = scores_of(newest[member])
            if scores.get(self.objective) is not None:  # else it diverged, whatever it had reached before
                scores = scores_of(selected[member])
            each.scores = {k: value for k, value in scores.items() if not k.startswith("test_")}
            each.rungs.append((until, each.scores.get(self.objective)))
            if not math.isfinite(each.value):
                each.status = "diverged"

    def keep(self, chosen: Sequence[Reached]) -> None:
        """Go on with those that are chosen; the others have ended."""
        left = {member: each for member, each in self.going.items() if each in chosen}
        population = self.population
        for member in self.going.keys() - left.keys():
            each = self.going[member]
            if each.status == "ok" and population is not None and each.rungs[-1][0] < population.epochs:
                each.status = PRUNED
        self.going = left
        if not left:
            self.end()
        elif population is not None:
            self._drop_ended(population)

    def _drop_ended(self, population: Population) -> None:
        """Drop members that have ended; one that is further on may have none of those that still go."""
        left = [member for member in population.members if member in self.going]
        if left and len(left) < len(population.members):
            population.keep(left)

    def end(self) -> None:
        """Let go of the population, its memory and its devices."""
        self.population = None
        self.held.close()

    def forget(self) -> None:
        """Delete its checkpoints."""
        shutil.rmtree(self.cohort.files.checkpoints / self.folder, ignore_errors=True)


def duration_of(recipe: Recipe, examples: int) -> int:
    """The epochs of a recipe, begun ones too."""
    return -(-recipe.total_steps(examples) // recipe.steps_per_epoch(examples))


def share_out(
    trials: Sequence[Trial], spec: Spec, files: RunFiles, executor: str, checkpoint_every: float
) -> list[Part]:
    """Trials as parts: on a CPU one a core of each program, on an accelerator as large ones as there is memory for."""
    import jax

    platform = jax.default_backend()
    if executor == "vmap" or platform != "cpu":
        arranged = arrange(trials, files, "vmap" if executor == "vmap" else "auto", platform)
        mode, groups = arranged.mode, [list(group) for group in arranged.cohorts]
    else:
        at_once = 1 if executor == "loop" else len(cores())
        mode, groups = "auto", by_program(trials, -(-len(trials) // at_once))
    cohorts = [Cohort(tuple(group), files, mode, None, checkpoint_every, devices=spec.devices) for group in groups]
    return [Part(cohort, spec.objective, dict(enumerate(map(Reached, cohort.trials)))) for cohort in cohorts]


def forget_checkpoints(files: RunFiles) -> None:
    """Delete those of a batch that is over, and of one that was shared out in another way."""
    for folder in files.checkpoints.glob(f"{OF_SEARCH}*"):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # there were none, or there are others
        files.checkpoints.rmdir()


def train_batch(parts: Sequence[Part], search: Search, executor: str, callbacks: Callbacks) -> list[Reached]:
    """Train a batch: after each of its rungs the best of all parts go on.

    Args:
        parts: Of `share_out`.
        search: Says after how many epochs how many go on.
        executor: As of `flaxvision.sweep.run`; "loop" trains one part after the other, others in threads.
        callbacks: What is told of a part's progress, by its cohort.

    Returns:
        What each trial reached, in no order.
    """
    everyone = [each for part in parts for each in part.going.values()]
    lower = metric_of(parts[0].objective).lower_is_better if parts else True
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.callback(part.end)
        for until in (*search.halving, None):
            if not (going := [part for part in parts if part.going]):
                break
            _train_all(going, until, executor, callbacks)
            began = sum(len(part.going) for part in going)
            standing = [each for part in going for each in part.going.values() if each.status == "ok"]
            standing.sort(key=lambda each: each.value if lower else -each.value)
            most = len(standing) if until is None else -(-began // search.factor)
            for part in going:
                part.keep(standing[:most])
    return everyone


def _to_all(listeners: Sequence[Callback]) -> Report:
    def tell(progress: Progress) -> None:
        for listener in listeners:
            listener(progress)

    return tell


def _train_all(parts: Sequence[Part], until: int | None, executor: str, callbacks: Callbacks) -> None:
    of = {id(part.cohort): part for part in parts}
    if executor in ("loop", "vmap"):
        for part in parts:
            stop_if_asked()
            part.train(until, _to_all(tuple(callbacks(part.cohort))))
    else:
        cohorts = [part.cohort for part in parts]
        for _ in in_threads(cohorts, callbacks, lambda cohort, report: of[id(cohort)].train(until, report)):
            pass
