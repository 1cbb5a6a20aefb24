"""Ways to run cohorts: one after the other, in threads or worker processes, or as Ray tasks."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError, check_choice
from flaxvision.runtime import cores, hand_on, handed_on
from flaxvision.sweep.attempt import Records, attempt, failure, singly
from flaxvision.sweep.workers import EVERY, Worker, WorkerDied, every_so_often

if TYPE_CHECKING:
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress

CHECKPOINT_EVERY = 60.0  # seconds
EXECUTORS = ("auto", "loop", "threads", "processes", "unroll", "vmap", "ray")


def check_executor(executor: str) -> None:
    """Raise `UserError` for an unknown executor, or one that is not installed."""
    check_choice("executor", executor, EXECUTORS)
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("--executor ray needs Ray: pip install 'flaxvision[ray]'")


def check_models(models: Iterable[str], executor: str) -> None:
    """Raise `UserError` for networks that other processes cannot make: functions of a script or notebook itself."""
    if executor in ("processes", "ray"):
        for model in models:
            if model.startswith("__main__:"):
                raise UserError(
                    f"executor {executor!r} cannot make {model!r}, as workers do not import the script: put the "
                    "function into a file of its own, or use executor 'threads'"
                )


def execute(
    cohorts: Sequence[Cohort], executor: str, callbacks: Callable[[Cohort], Iterable[Callback]]
) -> Iterator[tuple[Cohort, Records]]:
    """Run cohorts, yielding each with its records as it ends; `callbacks` gives the callbacks of a cohort.

    Cohorts that start from pretrained weights begin when the caller has taken the records of the cohort that pretrains;
    those that run one after the other keep the order given, in which it is the first.
    """
    if executor == "threads":
        yield from _threads(cohorts, callbacks)
    elif executor == "processes":
        yield from _processes(cohorts, callbacks)
    elif executor == "ray":
        yield from _ray(cohorts, callbacks)
    else:
        for cohort in cohorts:
            yield cohort, attempt(cohort, callbacks(cohort))


class _Ended(BaseException):  # so that no trial takes it for its own
    """Ends what a thread still trains when nobody waits for it any more."""


def _threads(
    cohorts: Sequence[Cohort], callbacks: Callable[[Cohort], Iterable[Callback]]
) -> Iterator[tuple[Cohort, Records]]:
    """A thread a core: compiled programs run, and are compiled, outside Python's lock, and all threads share them."""
    reports: queue.SimpleQueue = queue.SimpleQueue()
    ended = threading.Event()

    def put(report: tuple[int, Progress]) -> None:
        if ended.is_set():
            raise _Ended
        reports.put(report)

    with concurrent.futures.ThreadPoolExecutor(min(len(cores()), len(cohorts))) as pool:

        def submit(number: int) -> concurrent.futures.Future[Records]:
            listener = every_so_often(lambda progress: put((number, progress)))
            return pool.submit(attempt, cohorts[number], [listener])

        try:
            yield from _collect(cohorts, submit, reports, callbacks)
        finally:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _processes(
    cohorts: Sequence[Cohort], callbacks: Callable[[Cohort], Iterable[Callback]]
) -> Iterator[tuple[Cohort, Records]]:
    """A worker process a core, each fed by a thread.

    One that dies is replaced, and the trials of its cohort are tried singly.
    """
    reports: queue.SimpleQueue = queue.SimpleQueue()
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    workers: dict[int, Worker] = {}  # core -> its worker
    ended = threading.Event()
    count = min(len(cores()), len(cohorts))
    for core in cores()[:count]:
        free.put(core)

    def run(number: int, cohort: Cohort) -> Records:
        core = free.get()
        try:
            worker = workers.get(core) or workers.setdefault(core, Worker(core))
            if ended.is_set():
                worker.end()
            return worker.run(cohort, lambda progress: reports.put((number, progress)))
        except WorkerDied as death:
            workers.pop(core).end()
            if len(cohort.trials) == 1 or ended.is_set():
                return [failure(cohort.trials[0], str(death))]
        finally:
            free.put(core)
        return [record for single in singly(cohort) for record in run(number, single)]

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        try:
            yield from _collect(cohorts, lambda i: pool.submit(run, i, cohorts[i]), reports, callbacks)
        finally:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in list(workers.values()):
                worker.end()


def _collect(
    cohorts: Sequence[Cohort],
    submit: Callable[[int], concurrent.futures.Future[Records]],
    reports: Any,
    callbacks: Callable[[Cohort], Iterable[Callback]],
) -> Iterator[tuple[Cohort, Records]]:
    """Each cohort with its records as its future ends; reports (number of the cohort, progress) go to its callbacks."""
    listeners = [tuple(callbacks(cohort)) for cohort in cohorts]
    ready, held = _in_turn(cohorts)
    running = {submit(number): number for number in ready}
    while running:
        done, _ = concurrent.futures.wait(running, EVERY, concurrent.futures.FIRST_COMPLETED)
        while not reports.empty():
            number, progress = reports.get()
            for listener in listeners[number]:
                listener(progress)
        for future in sorted(done, key=lambda future: future.exception() is not None):  # what ended well is kept
            cohort = cohorts[running.pop(future)]
            yield cohort, future.result()
            if cohort.pretrains:
                running |= {submit(number): number for number in held}


def _in_turn(cohorts: Sequence[Cohort]) -> tuple[list[int], list[int]]:
    """The numbers of the cohorts that may begin, the pretraining first, and of those that wait for it."""
    numbers = sorted(range(len(cohorts)), key=lambda number: not cohorts[number].pretrains)
    if not any(cohort.pretrains for cohort in cohorts):
        return numbers, []
    held = [number for number in numbers if cohorts[number].starts_pretrained]
    return [number for number in numbers if number not in held], held


def _ray(
    cohorts: Sequence[Cohort], callbacks: Callable[[Cohort], Iterable[Callback]]
) -> Iterator[tuple[Cohort, Records]]:
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
    ready, held = _in_turn(cohorts)
    settings = handed_on()
    waiting = {task.remote(cohorts[number], settings): cohorts[number] for number in ready}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            cohort = waiting.pop(done)
            records, said = _from_ray(cohort, done)
            for progress, listener in itertools.product(said, callbacks(cohort)):
                listener(progress)
            yield cohort, records
            if cohort.pretrains:
                waiting |= {task.remote(cohorts[number], settings): cohorts[number] for number in held}
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished, force=True)


def _from_ray(cohort: Cohort, done: Any) -> tuple[Records, list[Progress]]:
    """What a task gives; of one that Ray lost for good, such as by a node without memory, its trials failed."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(done)
    except RayError as error:
        line = str(error).strip().partition("\n")[0]
        message = f"lost by Ray: {type(error).__name__}{': ' if line else ''}{line}"
        return [failure(trial, message) for trial in cohort.trials], []


def _task(cohort: Cohort, settings: dict[str, Any]) -> tuple[Records, list[Progress]]:
    """A cohort's records, and what was said of it."""
    from flaxvision.sweep.inputs import look_again

    hand_on(settings)
    look_again(cohort.trials)  # Ray may have kept this process since an earlier sweep
    said: list[Progress] = []
    records = attempt(cohort, [lambda progress: said.append(progress) if progress.note else None])
    return records, said
