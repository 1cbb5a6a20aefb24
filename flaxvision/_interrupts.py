"""Signals that end a program: they are noted when they come, and obeyed where nothing is half done.

Python raises `KeyboardInterrupt` wherever its main thread happens to be. A callback of the garbage collector, such as
JAX's, drops it, and while a compiler runs it does not come at all. Here `stop_if_asked` raises it, at safe places; a
program of our own that comes to none of them in time, or is signalled a second time, is ended from another thread. That
loses no more than SIGKILL does: every file is whole, and what is recorded is on disk.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from flaxvision._text import SUBSTITUTE

GRACE = 2.0  # seconds in which a program ends by itself
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_noted: list[int] = []  # signals that came and were not yet obeyed
_last = threading.Lock()  # taken by whoever says the last words


def noted() -> bool:
    """Whether a signal has come."""
    return bool(_noted)


def stop_if_asked() -> None:
    """Raise `KeyboardInterrupt` if a signal has come; to be called where ending loses nothing."""
    if _noted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it Ctrl-C waits for the next `stop_if_asked`, or for the end of the block; a second one raises at once.

    Where somebody else handles it, as `ending` does, nothing changes.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def note(number: int, _: object) -> None:
        if _noted:
            raise KeyboardInterrupt
        _noted.append(number)

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield
        stop_if_asked()
    except Exception:
        stop_if_asked()  # what fails after a signal fails of it
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _noted.clear()


@contextlib.contextmanager
def ending(last_words: Callable[[str], str]) -> Iterator[None]:
    """From it on a signal ends the process with one line on standard error, and status 128 + signal.

    By `stop_if_asked` or an error in the block, after `GRACE` seconds, or at once where it is signalled again. Signals
    that the process ignores, as under nohup, stay ignored. The line is `last_words` of "interrupted", or of "ended by
    SIGTERM".
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def watch() -> None:  # a thread is told at once, whatever the main thread is at
        number = _next(ours)
        ours.settimeout(GRACE)
        with contextlib.suppress(TimeoutError):
            _next(ours)
        _end(number, last_words)

    atexit.register(_ignore)  # and called last
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: _noted.append(number))
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except (KeyboardInterrupt, Exception):
        if not _noted:
            raise
        _end(_noted[0], last_words)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within it a process that this thread starts hears no such signal: who started it decides when it ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore() -> None:
    """Leave the process to its own status: Python's last acts take handlers away, and a signal would change it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _next(stream: socket.socket) -> int:
    """Wait for a signal."""
    while True:
        (number,) = stream.recv(1)
        if number in SIGNALS:
            return number


def _end(number: int, last_words: Callable[[str], str]) -> NoReturn:
    """End the process, past all that still runs in it; what other threads hold cannot hold it up."""
    if _last.acquire(blocking=False):
        backstop = threading.Timer(1.0, os._exit, [128 + number])  # for a reader who does not read
        backstop.daemon = True
        backstop.start()
        how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        with contextlib.suppress(Exception):  # a terminal that was closed
            line = f"{last_words(how)}\n".encode(sys.stderr.encoding or "utf-8", SUBSTITUTE)
            os.write(sys.stderr.fileno(), line)
    os._exit(128 + number)
