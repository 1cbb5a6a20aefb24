"""Signals: noted at any moment, obeyed at the next safe one, or by force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from flaxvision._interrupts import deferred, noted, stop_if_asked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

PROGRAM = """
import gc, sys, time
from flaxvision import _interrupts
from flaxvision.cli.ending import LastWords, exit_status
from flaxvision._interrupts import noted, stop_if_asked

def safe():
    while True:
        stop_if_asked()
        time.sleep(0.01)

def nowhere():
    time.sleep(1000)

def drops():
    gc.callbacks.append(lambda *_: stop_if_asked())
    while True:
        gc.collect()

def fails():
    while not noted():
        time.sleep(0.01)
    raise RuntimeError("the consequence")

def ends():
    while not noted():
        time.sleep(0.01)
    return 7


kind, grace = sys.argv[1:]
_interrupts.GRACE = float(grace)

def program():
    print("ready", flush=True)
    return globals()[kind]()

sys.exit(exit_status(program, LastWords("{} at 5 \\u00b1 1".format), own_process=True))
"""


def started(kind: str, grace: float, ignored: tuple[int, ...] = ()) -> subprocess.Popen:
    """A program that does something for ever, and waits for its end so many seconds."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:  # which a child inherits
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command, pipe = [sys.executable, "-c", PROGRAM, kind, str(grace)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("kind", "number", "grace", "status", "line"),
    [
        ("safe", signal.SIGINT, 1000, 130, "interrupted at 5 +/- 1\n"),
        ("safe", signal.SIGTERM, 1000, 143, "ended by SIGTERM at 5 +/- 1\n"),
        ("fails", signal.SIGHUP, 1000, 129, "ended by SIGHUP at 5 +/- 1\n"),
        ("nowhere", signal.SIGINT, 0.05, 130, "interrupted at 5 +/- 1\n"),
        ("ends", signal.SIGTERM, 1000, 7, ""),  # it was over
    ],
)
def test_a_program_ends_by_itself_or_by_force(kind, number, grace, status, line):
    process = started(kind, grace)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, line)


def test_what_a_callback_of_the_garbage_collector_drops_ends_it_still():
    process = started("drops", 0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted at 5 +/- 1\n" in err  # among what Python says of the callback


def test_a_second_signal_ends_it_at_once():
    process = started("nowhere", 1000)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) in {(130, "interrupted at 5 +/- 1\n"), (143, "ended by SIGTERM at 5 +/- 1\n")}


def test_what_is_ignored_under_nohup_stays_ignored():
    process = started("safe", 1000, (signal.SIGINT, signal.SIGHUP))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "ended by SIGTERM at 5 +/- 1\n")


def test_a_closed_terminal_has_the_status_of_its_signal():
    process = started("safe", 1000)
    process.stderr.close()
    process.stderr = None
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 129


@pytest.fixture
def python_handles():
    """Python's own handler of Ctrl-C, which a test runner may have replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not noted()
    signal.signal(signal.SIGINT, before)


def test_in_a_library_it_waits_for_a_safe_moment(python_handles):
    passed = []

    @deferred()
    @deferred()
    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        passed.append(noted())
        stop_if_asked()
        passed.append("too far")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert passed == [True]


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_it_comes_at_the_end_at_the_latest(python_handles, error):
    @deferred()
    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        if error:
            raise error

    with pytest.raises(KeyboardInterrupt):
        run()
    with deferred():
        stop_if_asked()


def test_a_second_one_is_raised_at_once(python_handles):
    passed = []

    @deferred()
    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        passed.append(1)
        signal.raise_signal(signal.SIGINT)
        passed.append(2)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert passed == [1]


def test_handlers_of_others_and_other_threads_are_left_alone(python_handles):
    seen: list[object] = []

    def handlers() -> None:
        with deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=handlers)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handlers()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen == [signal.default_int_handler, signal.SIG_IGN]
