"""The seconds that a thread spends on compilation, so that a trial's time is that of its training."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future

import jax
from jax.stages import Compiled

from flaxvision.training.history import Timing

COMPILING = "/jax/core/compile/"  # JAX's events of tracing, lowering and compiling start so


class _Spans(threading.local):
    """A thread's compilations as (start, end), disjoint and in order."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []
        self.before = 0.0  # seconds of those that were dropped from the list


_spans = _Spans()
_calls: weakref.WeakKeyDictionary[Callable, dict[Hashable, threading.Lock | None]] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def compiled_seconds() -> float:
    """The seconds that this thread has compiled so far; the difference of two calls is what lies between them."""
    _listen()
    _spans.before += sum(end - start for start, end in _spans.found)
    _spans.found.clear()
    return _spans.before


class Clock:
    """The seconds of a run, shared equally by the members that train; those between two trainings do not count."""

    def __init__(self) -> None:
        self.total, self.compiling = 0.0, 0.0  # a member's, until the last lap
        self.first = 0.0  # a member's seconds of the first lap
        self.laps: list[tuple[float, int]] = []  # of each: seconds, and training examples of all members
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._since, self._compiled, self._waited = time.perf_counter(), compiled_seconds(), 0.0

    def wait(self, compiling: Future[Compiled]) -> None:
        """Wait for what another thread compiles."""
        since = time.perf_counter()
        compiling.result()
        self._waited += time.perf_counter() - since

    def seconds(self, members: int) -> tuple[float, float]:
        """A member's seconds until now, and of these for compiling, where so many train since the last lap.

        Where none does any more, what passes since is nobody's.
        """
        if not members:
            return self.total, self.compiling
        compiling = compiled_seconds() - self._compiled + self._waited
        return self.total + (time.perf_counter() - self._since) / members, self.compiling + compiling / members

    def lap(self, members: int, examples: int) -> None:
        """An epoch of so many members, and so many examples of each, is over."""
        seconds = time.perf_counter() - self._since
        self.first = self.first if self.laps else seconds / members
        self.laps.append((seconds, members * examples))
        self.total, self.compiling = self.seconds(members)
        self.start()

    def timing(self) -> Timing:
        """What took how long."""
        steady = self.laps[1:] or self.laps
        seconds, examples = sum(lap[0] for lap in steady), sum(lap[1] for lap in steady)
        return Timing(self.total, self.compiling, self.first, examples / seconds if steady else 0.0)


@contextlib.contextmanager
def compiling_once(function: Callable, *signature: Hashable) -> Iterator[None]:
    """The call of a compiled function: its first one compiles, and the time that other threads wait for that counts."""
    with _guard:
        calls = _calls.setdefault(function, {})
        lock = calls.setdefault(signature, threading.Lock())
    if lock is None:  # there was a call
        yield
        return
    since = time.perf_counter()
    with lock:
        _add(since)
        yield
        calls[signature] = None


@functools.cache
def _listen() -> None:
    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(COMPILING):
            _add(time.perf_counter() - duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)


def _add(start: float) -> None:
    """Note what ends now; what encloses earlier ones, as a trace does those within it, replaces them."""
    end = time.perf_counter()
    while _spans.found and _spans.found[-1][0] >= start:
        _spans.found.pop()
    start = max(start, _spans.found[-1][1]) if _spans.found else start
    _spans.found.append((start, end))
