"""Worker processes that train cohorts: a core each, fed with pickles through their standard streams.

They never import the script that started the sweep, so it needs no `if __name__ == "__main__":`, and may as well be
standard input or a notebook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing.spawn
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxvision._interrupts import SIGNALS, unheard
from flaxvision._own_code import Copies, copies_taken, take_copies
from flaxvision.errors import UserError
from flaxvision.runtime import Setting, hand_on, handed_on

if TYPE_CHECKING:
    from flaxvision.sweep.finished import Finished
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback, Progress

_START = """\
import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from flaxvision.sweep.workers import serve; serve()"""
EVERY = 0.2  # seconds between two reports of a cohort's progress


class WorkerDied(Exception):
    """A worker ended while it trained; the message says by what."""


class Worker:
    """A process that runs one cohort after the other, with a processor core for itself."""

    def __init__(self, core: int):
        self.killed_before = _memory_kills()
        self.ready = False
        executable = multiprocessing.spawn.get_executable() or sys.executable
        try:
            command, pipe = [executable, "-c", _START], subprocess.PIPE
            with unheard():
                self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
            self._send(sys.path)
            self._send((core, surroundings()))
        except (OSError, TypeError) as error:
            raise UserError(f"worker processes cannot be started ({error}): use --executor threads") from error

    def wait(self) -> None:
        """Wait until it can train. `UserError`: it cannot."""
        self._receive()
        self.ready = True

    def run(self, cohort: Cohort, report: Callable[[Progress], object]) -> list[Finished]:
        """Train a cohort; `report` is told of its progress. `UserError`: it never began; `WorkerDied`: it ended."""
        self._send(cohort)
        while True:
            kind, value = self._receive()
            if kind == "finished":
                return value
            if kind == "progress":
                report(value)
            self.ready = True

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was never sent
                assert pipe is not None
                pipe.close()

    def _send(self, value: object) -> None:
        assert self.process.stdin is not None
        try:
            content = pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"executor 'processes' cannot hand its workers what to train ({error}): use executor 'threads'"
            ) from error
        try:
            self.process.stdin.write(content)
            self.process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._death() from error

    def _receive(self) -> tuple[str, Any]:
        assert self.process.stdout is not None
        try:
            return pickle.load(self.process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise self._death() from error

    def _death(self) -> WorkerDied | UserError:
        said = ending(self.process.wait(), _memory_kills() > self.killed_before)
        self.end()
        if self.ready:
            return WorkerDied(said)
        return UserError(f"worker processes do not start here: {said}; use --executor threads")


def ending(code: int, memory: bool = False) -> str:
    """How a worker ended, by its exit status and whether the kernel meanwhile killed processes for want of memory.

    >>> print(ending(3), ending(-11), ending(-9), ending(-9, memory=True), sep="; ")
    the worker process ended with exit status 3; the worker process was ended by SIGSEGV; the worker process was ended \
by SIGKILL; the worker process was ended by SIGKILL, out of memory: a smaller batch_size needs less
    """
    if code >= 0:
        return f"the worker process ended with exit status {code}"
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(-code, f"signal {-code}")
    why = ", out of memory: a smaller batch_size needs less"
    return f"the worker process was ended by {name}{why if memory and name == 'SIGKILL' else ''}"


def _memory_kills() -> int:
    """How many processes Linux has killed for want of memory, on this machine and in this container; 0 elsewhere."""
    kills = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with contextlib.suppress(OSError, ValueError):
            rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
            kills += sum(int(row[1]) for row in rows if row[0] in ("oom_kill", "oom_group_kill"))
    return kills


Surroundings = tuple[dict[str, Setting], Copies | None]


def surroundings() -> Surroundings:
    """What other processes of this sweep are to have as this one has it: JAX's settings, and whose code is taken."""
    return handed_on(), copies_taken()


def take_surroundings(around: Surroundings) -> None:
    """Have what `surroundings` gave in another process; before anything is computed."""
    settings, copies = around
    hand_on(settings)
    take_copies(copies)


def every_so_often(put: Callable[[Progress], object]) -> Callback:
    """A callback that puts the progress of a cohort some times a second, and at the end of each epoch."""
    last, examples = time.monotonic(), 0

    def report(progress: Progress) -> None:
        nonlocal last, examples
        examples += progress.examples
        if time.monotonic() - last > EVERY or progress.step == progress.steps or progress.note or progress.metrics:
            put(dataclasses.replace(progress, examples=examples))
            last, examples = time.monotonic(), 0

    return report


def serve() -> None:
    """What a worker does: train each cohort that comes in, until nothing comes any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed here is not taken for an answer
    for number in SIGNALS:  # the process that started it decides
        signal.signal(number, signal.SIG_IGN)

    def answer(kind: str, value: object = None) -> None:
        try:
            answers.write(pickle.dumps((kind, value)))
            answers.flush()
        except OSError:  # the process that started it was killed
            os._exit(1)

    core, around = _take()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})  # before JAX counts the cores
    from flaxvision import runtime
    from flaxvision.sweep.executors import attempt

    take_surroundings(around)
    runtime.prepare()
    answer("ready")
    cohorts: queue.SimpleQueue[Cohort] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[cohorts.put], daemon=True).start()
    while True:
        answer("finished", attempt(cohorts.get(), [every_so_often(lambda progress: answer("progress", progress))]))


def _listen(put: Callable[[Cohort], None]) -> None:
    """Take in cohorts."""
    while True:
        try:
            put(_take())
        except Exception:  # such as a class that is not there
            traceback.print_exc()
            os._exit(2)


def _take() -> Any:
    """What comes in; without the process that sends it, end at once: nobody waits for what is trained."""
    try:
        return pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):  # it was killed, perhaps in the middle of a message
        os._exit(1)
