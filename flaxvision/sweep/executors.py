"""Ways to run cohorts: one after the other, in threads or worker processes; `tasks` has those of Ray.

A trial that fails costs no other one: its record says why.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import queue
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flaxvision._interrupts import stop_if_asked
from flaxvision._text import visible
from flaxvision.errors import UserError, check_choice
from flaxvision.runtime import cores
from flaxvision.sweep.finished import Finished
from flaxvision.sweep.own_cores import own_cores
from flaxvision.sweep.workers import EVERY, Worker, WorkerDied, every_so_often

if TYPE_CHECKING:
    from flaxvision.sweep.trials import Record, Trial
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress

    Callbacks = Callable[[Cohort], Iterable[Callback]]
    Trained = Iterator[tuple[Cohort, list[Finished]]]
    Report = Callable[[Progress], object]

T = TypeVar("T")
CHECKPOINT_EVERY = 60.0  # seconds
EXECUTORS = ("auto", "loop", "threads", "processes", "vmap", "ray")
LONGEST = 400  # characters of a message
_PACKAGES = (Path(__file__).parents[1], Path(__file__).parents[2] / "export")
_OURS = (*map(str, _PACKAGES), *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}, "<")


def check_executor(executor: str) -> None:
    """Raise `UserError` for an unknown executor, or one that is not installed or cannot be reached."""
    check_choice("executor", executor, EXECUTORS)
    if executor == "ray":
        from flaxvision.sweep.cluster import check_reachable

        if importlib.util.find_spec("ray") is None:
            raise UserError("--executor ray needs Ray: pip install 'flaxvision[ray]'")
        check_reachable()


def check_functions(names: Iterable[str], executor: str) -> None:
    """Raise `UserError` for functions of one's own that other processes lack: those of a script or notebook itself."""
    for name in filter(of_script, names) if executor in ("processes", "ray") else ():
        raise UserError(
            f"executor {executor!r} cannot use {name!r}, as workers do not import the script: put it into a file of "
            "its own, or use executor 'threads'"
        )


def of_script(name: str) -> bool:
    """Whether a function of one's own, as `own_functions` gives it, is of the script or notebook that runs."""
    return name.startswith("__main__:")


def execute(cohorts: Sequence[Cohort], executor: str, callbacks: Callbacks) -> Trained:
    """Run cohorts, yielding each with its trials as they end; `callbacks` gives the callbacks of a cohort.

    Cohorts that start from pretrained weights begin when the caller has written what the cohort that pretrains leaves;
    those that run one after the other keep the order given, in which it is the first. A cohort of Ray's may come
    several times, each time with other trials of it.
    """
    apart = {"threads": _threads, "processes": _processes}.get(executor)
    if executor == "ray":
        from flaxvision.sweep.tasks import run_on_cluster

        yield from run_on_cluster(cohorts, callbacks)
    elif apart is not None:
        yield from apart(cohorts, callbacks)
    else:
        for cohort in cohorts:
            yield cohort, attempt(cohort, callbacks(cohort))


def attempt(cohort: Cohort, callbacks: Iterable[Callback] = ()) -> list[Finished]:
    """A cohort's trials, also those that fail; of a cohort that fails each trial is tried alone.

    Only an `Exception` is a trial's own: an interrupt ends the sweep.
    """
    callbacks = tuple(callbacks)
    if cohort.starts_pretrained and not cohort.files.pretrained.exists():
        return [failure(trial, "not trained, as the pretraining that it starts from failed") for trial in cohort.trials]
    try:
        return cohort.run(callbacks)
    except Exception as error:
        if len(cohort.trials) == 1:
            trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            return [failure(cohort.trials[0], reason(error), trace)]
    return [finished for single in singly(cohort) for finished in attempt(single, callbacks)]


def singly(cohort: Cohort) -> list[Cohort]:
    """A cohort of each trial."""
    return [dataclasses.replace(cohort, trials=(trial,)) for trial in cohort.trials]


def failure(trial: Trial, message: str, trace: str = "") -> Finished:
    """A trial that could not be trained; it is tried again when the run is resumed."""
    record: Record = {**trial.about, "status": "failed", "message": message}
    if trace:
        record["traceback"] = trace
    return Finished({**record, "config": trial.as_json()})


def reason(error: BaseException) -> str:
    """What went wrong, in one line: the kind of error, its message, and the place in code of the user's own.

    >>> reason(MemoryError()), reason(KeyError("width"))
    ('out of memory: a smaller batch_size, network or data set needs less', "KeyError: 'width'")
    """
    text = visible(" ".join(str(error).split()))
    if len(text) > LONGEST:
        text = f"{text[:LONGEST].rstrip()}…"
    if out_of_memory(error):
        said = f" ({text})" if text else ""
        return f"out of memory{said}: a smaller batch_size, network or data set needs less"
    if isinstance(error, UserError):
        return text
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(_OURS):
            where = f" ({Path(frame.filename).name}, line {frame.lineno})"
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is one of memory: Python's, NumPy's or XLA's."""
    while error is not None:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Ended(BaseException):  # so that no trial takes it for its own
    """Ends what a thread still trains when nobody waits for it any more."""


def _threads(cohorts: Sequence[Cohort], callbacks: Callbacks) -> Trained:
    """A thread a core: compiled programs run, and are compiled, outside Python's lock, and all threads share them."""
    return in_threads(cohorts, callbacks, lambda cohort, report: attempt(cohort, [every_so_often(report)]))


def in_threads(
    cohorts: Sequence[Cohort], callbacks: Callbacks, run: Callable[[Cohort, Report], T]
) -> Iterator[tuple[Cohort, T]]:
    """Each cohort with what `run` gives of it in a thread; its next report ends it once nobody waits for it."""
    ended = threading.Event()

    def run_until_ended(cohort: Cohort, report: Report) -> T:
        def put(progress: Progress) -> None:
            if ended.is_set():
                raise _Ended
            report(progress)

        return run(cohort, put)

    return _in_pool(cohorts, callbacks, run_until_ended, ended.set)


def _processes(cohorts: Sequence[Cohort], callbacks: Callbacks) -> Trained:
    """A worker process a core, each fed by a thread.

    One that dies is replaced, and the trials of its cohort are tried singly.
    """
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    workers: dict[int, Worker] = {}  # core -> its worker
    ended = threading.Event()

    def run(cohort: Cohort, report: Report) -> list[Finished]:
        core = free.get()
        try:
            worker = workers.get(core) or workers.setdefault(core, Worker(core))
            if ended.is_set():
                worker.end()
            return worker.run(cohort, report)
        except WorkerDied as death:
            workers.pop(core).end()
            if len(cohort.trials) == 1 or ended.is_set():
                return [failure(cohort.trials[0], str(death))]
        finally:
            free.put(core)
        return [finished for single in singly(cohort) for finished in run(single, report)]

    def end() -> None:
        ended.set()
        for worker in list(workers.values()):
            worker.end()

    with own_cores(len(cohorts)) as taken:
        for core in taken:
            free.put(core)
        yield from _in_pool(cohorts, callbacks, run, end)


def _in_pool(
    cohorts: Sequence[Cohort],
    callbacks: Callbacks,
    run: Callable[[Cohort, Report], T],
    end: Callable[[], None],
) -> Iterator[tuple[Cohort, T]]:
    """Each cohort with what `run` gives of it in a thread, of which there is one a core; `end` stops what still runs.

    What `run` reports goes to the cohort's callbacks, in this thread.
    """
    reports: queue.SimpleQueue[tuple[Cohort, Progress]] = queue.SimpleQueue()
    listeners = {id(cohort): tuple(callbacks(cohort)) for cohort in cohorts}
    ready, held = in_turn(cohorts)
    with ThreadPoolExecutor(min(len(cores()), len(cohorts))) as pool:

        def submit(cohort: Cohort) -> Future[T]:
            return pool.submit(run, cohort, lambda progress: reports.put((cohort, progress)))

        try:
            running = {submit(cohort): cohort for cohort in ready}
            while running:
                stop_if_asked()
                done, _ = wait(running, EVERY, FIRST_COMPLETED)
                while not reports.empty():
                    told, progress = reports.get()
                    for listener in listeners[id(told)]:
                        listener(progress)
                for future in sorted(done, key=lambda future: future.exception() is not None):  # keep what ended well
                    cohort = running.pop(future)
                    yield cohort, future.result()
                    if cohort.pretrains:
                        running |= {submit(waiting): waiting for waiting in held}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            end()


def in_turn(cohorts: Sequence[Cohort]) -> tuple[list[Cohort], list[Cohort]]:
    """The cohorts that may begin, the pretraining first, and those that wait for it."""
    ordered = sorted(cohorts, key=lambda cohort: not cohort.pretrains)
    if not any(cohort.pretrains for cohort in ordered):
        return ordered, []
    held = [cohort for cohort in ordered if cohort.starts_pretrained]
    return [cohort for cohort in ordered if not cohort.starts_pretrained], held
