"""The seconds that a thread spends on compilation, so that a trial's time is that of its training."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator

import jax

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
    jax.monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    """Note an event that ends now; one that encloses earlier ones, as a trace does those within it, replaces them."""
    if not event.startswith(COMPILING):
        return
    _add(time.perf_counter() - duration_secs)


def _add(start: float) -> None:
    end = time.perf_counter()
    while _spans.found and _spans.found[-1][0] >= start:
        _spans.found.pop()
    start = max(start, _spans.found[-1][1]) if _spans.found else start
    _spans.found.append((start, end))
