"""Cohorts as tasks of a Ray cluster."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flaxvision._interrupts import stop_if_asked
from flaxvision.errors import UserError
from flaxvision.sweep.executors import attempt, failure, in_turn
from flaxvision.sweep.workers import EVERY, Surroundings, surroundings, take_surroundings

if TYPE_CHECKING:
    import ray

    from flaxvision.sweep.executors import Callbacks, Trained
    from flaxvision.sweep.finished import Finished
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Progress


def run_on_cluster(cohorts: Sequence[Cohort], callbacks: Callbacks) -> Trained:
    """Each cohort is a task of one processor core, or of one GPU where the cluster has any.

    Tasks write into the run directory, so the nodes of a cluster share its file system. A task whose node is lost is
    run again elsewhere, by Ray's own rule.
    """
    import ray

    try:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster: {line}: start one by 'ray start --head', or unset RAY_ADDRESS") from error
    task = ray.remote(num_gpus=1 if ray.cluster_resources().get("GPU") else 0)(_task)
    ready, held = in_turn(cohorts)
    around = surroundings()
    waiting = {task.remote(cohort, around): cohort for cohort in ready}
    try:
        while waiting:
            stop_if_asked()
            ended, _ = ray.wait(list(waiting), num_returns=1, timeout=EVERY)
            for done in ended:
                cohort = waiting.pop(done)
                records, said = _from_ray(cohort, done)
                for progress, listener in itertools.product(said, callbacks(cohort)):
                    listener(progress)
                yield cohort, records
                if cohort.pretrains:
                    waiting |= {task.remote(next_one, around): next_one for next_one in held}
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished, force=True)


def _from_ray(cohort: Cohort, done: ray.ObjectRef) -> tuple[list[Finished], list[Progress]]:
    """What a task gives; of one that Ray lost for good, such as by a node without memory, its trials failed."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(done)
    except RayError as error:
        line = str(error).strip().partition("\n")[0]
        message = f"lost by Ray: {type(error).__name__}{': ' if line else ''}{line}"
        return [failure(trial, message) for trial in cohort.trials], []


def _task(cohort: Cohort, around: Surroundings) -> tuple[list[Finished], list[Progress]]:
    """A cohort's records, and what was said of it."""
    from flaxvision.sweep.inputs import look_again

    take_surroundings(around)
    look_again(cohort.trials)  # Ray may have kept this process since an earlier sweep
    said: list[Progress] = []
    records = attempt(cohort, [lambda progress: said.append(progress) if progress.note else None])
    return records, said
