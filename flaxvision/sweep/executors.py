"""Ways to run cohorts: in this process, in worker processes, or as Ray tasks."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flaxvision.errors import UserError, check_choice

if TYPE_CHECKING:
    from flaxvision.sweep.work import Cohort
    from flaxvision.training._fit import Callback

EXECUTORS = ("auto", "loop", "unroll", "vmap", "processes", "ray")
Records = list[dict[str, Any]]


def check_executor(executor: str) -> None:
    """Raise `UserError` for an unknown executor, or one that is not installed."""
    check_choice("executor", executor, EXECUTORS)
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("--executor ray needs Ray: pip install 'flaxvision[ray]'")


def plan(executor: str, platform: str) -> tuple[str, int]:
    """The mode and the most members of a cohort for an executor on a platform.

    Unrolled members share a loop but not their operations: a handful is enough to hide the loop's cost. Vmapped ones
    fill a GPU, whose memory bounds them.
    """
    if executor == "loop":
        return "unroll", 1
    if executor == "vmap" or (executor == "auto" and platform != "cpu"):
        return "vmap", 64
    return "unroll", 6


def execute(
    cohorts: Sequence[Cohort], executor: str, callbacks: Callable[[Cohort], Iterable[Callback]]
) -> Iterator[tuple[Cohort, Records]]:
    """Run cohorts, yielding each with its records as it ends.

    `callbacks` gives the callbacks of a cohort that runs in this process.
    """
    if executor == "processes":
        yield from _processes(cohorts)
    elif executor == "ray":
        yield from _ray(cohorts)
    else:
        for cohort in cohorts:
            yield cohort, cohort.run(callbacks(cohort))


def _processes(cohorts: Sequence[Cohort]) -> Iterator[tuple[Cohort, Records]]:
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    free = context.Queue()
    for core in cores:
        free.put(core)
    workers = min(len(cores), len(cohorts))
    with concurrent.futures.ProcessPoolExecutor(workers, context, _pin, (free,)) as pool:
        futures = {pool.submit(cohort.run): cohort for cohort in cohorts}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError("a worker process died, perhaps for want of memory: add --resume to go on") from error


def _pin(free: Any) -> None:
    """Give a worker a core of its own, before JAX counts them, and the settings of a process that only trains."""
    from flaxvision import runtime

    core = free.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    runtime.prepare()


def _ray(cohorts: Sequence[Cohort]) -> Iterator[tuple[Cohort, Records]]:
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    task = ray.remote(_task)
    waiting = {task.remote(cohort): cohort for cohort in cohorts}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done[0]), ray.get(done[0])


def _task(cohort: Cohort) -> Records:
    return cohort.run()
