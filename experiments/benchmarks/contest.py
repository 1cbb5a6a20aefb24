"""Contestants in processes of their own, timed in turn: what one machine does in one run, block by block.

A contestant is a function that gets ready, calls `turn()`, and then calls it again after every block of work, until it
returns False. While one contestant computes, the others wait: waiting threads of PyTorch and of XLA hinder each other
within a process, and a machine whose speed drifts is equally unfair to all.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from common import Options, cached, commit

from flaxvision.sweep import device

Turn = Callable[[], bool]
Contestant = Callable[..., None]  # contestant(turn, **arguments)
Entry = tuple[Contestant, Mapping[str, Any]]  # and its arguments
Numbers = TypeVar("Numbers")  # a dataclass of numbers and tuples of numbers
PAUSE = 0.05  # seconds between two blocks, in which threads stop spinning


@dataclasses.dataclass(frozen=True)
class Times:
    """What a contestant took."""

    ready: float  # seconds from the start of its process to its first turn: imports, data, the model
    first: float  # seconds of the first block, compilation included
    blocks: tuple[float, ...]  # seconds of the blocks that count
    memory: float  # most memory of the process, in MB

    @property
    def median(self) -> float:
        """Seconds of a block."""
        return float(np.median(self.blocks))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds of a block, 25 % and 75 %."""
        low, high = np.percentile(self.blocks, [25, 75])
        return float(low), float(high)

    @property
    def compilation(self) -> float:
        """What the first block took beyond a usual one, in seconds."""
        return max(0.0, self.first - self.median)


def contest(
    contestants: Mapping[str, Entry],
    *,
    repeats: int = 7,
    warm_up: int = 1,
    patience: float | None = None,
    in_turn: bool = False,
) -> dict[str, Times]:
    """Time contestants block by block in turn.

    Args:
        contestants: Name -> (function, its arguments); functions are importable, arguments can be pickled.
        repeats: Blocks that count.
        warm_up: Blocks after the first that do not.
        patience: Seconds for all to get ready, and as many for their first blocks, at the same time; whoever takes
            longer is left out. None: one after the other, however long it takes.
        in_turn: Whether only getting ready is done at the same time; then each has so many seconds for its first block.

    Returns:
        Name -> times; a contestant that failed is left out, and its error printed.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Any, Connection]] = {}
    ready: dict[str, float] = {}
    blocks: dict[str, list[float]] = {name: [] for name in contestants}

    def hear(names: Iterable[str], patience: float | None = None) -> dict[str, float]:
        until, heard = time.monotonic() + (patience or 0), {}
        for name in names:
            process, pipe = running[name]
            try:
                waits = patience is None or pipe.poll(max(0.0, until - time.monotonic()))
                message = pipe.recv() if waits else "it took too long"
            except EOFError:
                message = "the process died"
            if isinstance(message, str):
                print(f"{name} is left out: {message.strip().splitlines()[-1]}", flush=True)
                process.kill()
                process.join()
                del running[name]
            else:
                heard[name] = message
        return heard

    def block(names: Sequence[str], patience: float | None = None) -> None:
        for name in names:
            running[name][1].send(True)
        for name, seconds in hear(names, patience).items():
            blocks[name].append(seconds)

    for name, (function, arguments) in contestants.items():
        ours, theirs = context.Pipe()
        began = time.time()  # another process reads it
        process = context.Process(target=_compete, args=(theirs, function, dict(arguments), began), daemon=False)
        process.start()
        theirs.close()
        running[name] = process, ours
        if patience is None:
            ready |= hear([name])
    if patience is not None:
        ready |= hear(contestants, patience)
        for names in [[name] for name in running] if in_turn else [list(running)]:
            block(names, patience)
    for _ in range((patience is None) + warm_up + repeats):
        for name in list(running):
            block([name])
            time.sleep(PAUSE)
    found: dict[str, Times] = {}
    for name, (process, pipe) in list(running.items()):
        pipe.send(False)
        for memory in hear([name]).values():
            found[name] = Times(ready[name], blocks[name][0], tuple(blocks[name][1 + warm_up :]), memory)
        process.join()
    return found


def timed(
    options: Options, key: Mapping[str, Any], contestants: Mapping[str, Entry], *, repeats: int, **settings: Any
) -> dict[str, Times]:
    """A contest, `kept`; settings are those of `contest`."""
    measure = functools.partial(contest, contestants, repeats=repeats, **settings)
    return kept(options, {**key, "repeats": repeats}, Times, measure)


def kept(
    options: Options, key: Mapping[str, Any], kind: type[Numbers], measure: Callable[[], dict[str, Numbers]]
) -> dict[str, Numbers]:
    """What `measure` gives, kept for the same commit, machine and `key`: an interrupted benchmark goes on.

    Code that is not committed is measured anew.
    """
    if commit() == "unknown" or "+" in commit():
        return measure()

    def arrays() -> dict[str, np.ndarray]:
        return {
            f"{name}/{field.name}": np.asarray(getattr(numbers, field.name))
            for name, numbers in measure().items()
            for field in dataclasses.fields(kind)
        }

    found: dict[str, dict[str, Any]] = {}
    for path, array in cached(options, {**key, "commit": commit(), "device": device()}, arrays).items():
        name, field = path.rsplit("/", 1)
        found.setdefault(name, {})[field] = tuple(array.tolist()) if array.ndim else array.item()
    return {name: kind(**fields) for name, fields in found.items()}


def _compete(pipe: Connection, function: Contestant, arguments: dict[str, Any], started: float) -> None:
    began = 0.0

    def turn() -> bool:
        nonlocal began
        pipe.send(time.perf_counter() - began if began else time.time() - started)
        go = pipe.recv()
        began = time.perf_counter()
        return go

    try:
        function(turn, **arguments)
        pipe.send(_memory())
    except Exception:
        pipe.send(traceback.format_exc())


def _memory() -> float:
    """Most resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # the kernel's other count starts at the memory of the process that started this one
        return next(float(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
