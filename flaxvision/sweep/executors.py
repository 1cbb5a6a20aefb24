"""Ways to run cohorts: one after the other, in threads or worker processes, or as Ray tasks."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError, check_choice
from flaxvision.runtime import cores

if TYPE_CHECKING:
    from flaxvision.sweep.work import Cohort
    from flaxvision.training._fit import Callback, Progress

EXECUTORS = ("auto", "loop", "threads", "processes", "unroll", "vmap", "ray")
EVERY = 0.2  # seconds between two reports of a worker
Records = list[dict[str, Any]]


def check_executor(executor: str) -> None:
    """Raise `UserError` for an unknown executor, or one that is not installed."""
    check_choice("executor", executor, EXECUTORS)
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("--executor ray needs Ray: pip install 'flaxvision[ray]'")


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
        yield from _ray(cohorts)
    else:
        for cohort in cohorts:
            yield cohort, cohort.run(callbacks(cohort))


class _Ended(Exception):
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
        try:
            yield from _collect(cohorts, lambda i: pool.submit(_run_reporting, i, cohorts[i], put), reports, callbacks)
        finally:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _processes(
    cohorts: Sequence[Cohort], callbacks: Callable[[Cohort], Iterable[Callback]]
) -> Iterator[tuple[Cohort, Records]]:
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    free, reports = context.Queue(), context.Queue()
    for core in cores():
        free.put(core)
    workers = min(len(cores()), len(cohorts))
    with concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (free, reports)) as pool:
        try:
            yield from _collect(cohorts, lambda i: pool.submit(_run_in_worker, i, cohorts[i]), reports, callbacks)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError("a worker process died, perhaps for want of memory: add --resume to go on") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else what waits is run before the error is told
            raise


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


_reports: Any = None  # the queue of a worker process


def _begin(free: Any, reports: Any) -> None:
    """Give a worker a core of its own, before JAX counts them, and the settings of a process that only trains."""
    from flaxvision import runtime

    global _reports
    _reports = reports
    threading.Thread(target=_end_with_parent, daemon=True).start()
    core = free.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    runtime.prepare()


def _end_with_parent() -> None:
    """Leave no worker behind when the process that started it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(number: int, cohort: Cohort) -> Records:
    return _run_reporting(number, cohort, _reports.put)


def _run_reporting(number: int, cohort: Cohort, put: Callable[[tuple[int, Progress]], None]) -> Records:
    """Run a cohort, putting its number and its progress every so often."""
    last, examples = time.monotonic(), 0

    def report(progress: Progress) -> None:
        nonlocal last, examples
        examples += progress.examples
        if time.monotonic() - last > EVERY or progress.step == progress.steps:
            put((number, dataclasses.replace(progress, examples=examples)))
            last, examples = time.monotonic(), 0

    return cohort.run([report])


def _ray(cohorts: Sequence[Cohort]) -> Iterator[tuple[Cohort, Records]]:
    """Each cohort is a task of one processor core, or of one GPU where the cluster has any.

    Tasks write into the run directory, so the nodes of a cluster share its file system. A task whose node is lost is
    run again elsewhere, by Ray's own rule.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster: {line}: start one by 'ray start --head', or unset RAY_ADDRESS") from error
    task = ray.remote(num_gpus=1 if ray.cluster_resources().get("GPU") else 0)(_task)
    ready, held = _in_turn(cohorts)
    waiting = {task.remote(cohorts[number]): cohorts[number] for number in ready}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            cohort = waiting.pop(done)
            yield cohort, ray.get(done)
            if cohort.pretrains:
                waiting |= {task.remote(cohorts[number]): cohorts[number] for number in held}
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise UserError(f"Ray lost a trial ({type(error).__name__}): add --resume to go on") from error
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished, force=True)


def _task(cohort: Cohort) -> Records:
    from flaxvision.sweep.work import look_again

    look_again(cohort.trials, cohort.places)  # Ray may have kept this process since an earlier sweep
    return cohort.run()
