"""How long the training of a sweep will take, told before it begins: by the cost model, or from what was measured."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence

from flaxvision.runtime import cores
from flaxvision.sweep.arrange import Arrangement
from flaxvision.sweep.status import duration
from flaxvision.sweep.trials import Trial

ACTUAL = 1.6  # a training takes so many times what its operations would: evaluation, Python, cores that wait
OF_CORES = 2  # that `arrange.cost_of` counts with
LOADING = 0.5, 5.0  # seconds that a program takes from the cache, and to compile
ONCE = 0.5  # seconds that the first cohort of a process takes more than others, such as for imports
GUESSED, ONE_BY_ONE, SIDE_BY_SIDE = 2.0, 1.3, 1.5  # the ends of a range are the estimate over this and times this


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """What cohorts of one program take, in seconds."""

    training: float  # each of them, once the program is there
    loading: float  # the program, from the cache; or until it is compiled


@dataclasses.dataclass(frozen=True, slots=True)
class Foreseen:
    """How long training will take, in seconds, about."""

    low: float
    likely: float
    high: float

    def __str__(self) -> str:
        ends = [duration(_rounded(end)) for end in (self.low, self.high)]
        return ends[0] if ends[0] == ends[1] else " to ".join(ends)

    def __add__(self, other: Foreseen) -> Foreseen:
        return Foreseen(self.low + other.low, self.likely + other.likely, self.high + other.high)


def guessed(arranged: Arrangement) -> Foreseen:
    """The range by the cost model, of a CPU."""
    workers = workers_of(arranged)
    scale = ACTUAL * min(workers, OF_CORES)  # so many share the cores that the model counts with

    def total(scale: float, loading: float) -> float:
        paces = {
            cohort[0].program: Pace(scale * len(cohort) * arranged.seconds[cohort[0].program], loading)
            for cohort in arranged.cohorts
        }
        return ONCE + span(arranged.cohorts, paces, workers, apart=arranged.executor == "processes")

    return Foreseen(total(scale / GUESSED, LOADING[0]), total(scale, LOADING[0]), total(scale * GUESSED, LOADING[1]))


def measured(arranged: Arrangement, paces: Mapping[str, Pace], start: float) -> Foreseen:
    """The range from paces by program; `start` seconds pass before a worker process is there."""
    workers = workers_of(arranged)
    likely = ONCE + start + span(arranged.cohorts, paces, workers, apart=arranged.executor == "processes")
    within = ONE_BY_ONE if workers == 1 else SIDE_BY_SIDE
    return Foreseen(likely / within, likely, likely * within)


def workers_of(arranged: Arrangement) -> int:
    """How many cohorts train at a time."""
    return min(len(cores()), len(arranged.cohorts)) if arranged.executor in ("threads", "processes") else 1


def span(cohorts: Iterable[Sequence[Trial]], paces: Mapping[str, Pace], workers: int, *, apart: bool) -> float:
    """Seconds from the first cohort's begin to the last one's end, where each takes the first worker that is free.

    A program is loaded once for all workers, or where these are processes `apart` by each that needs it.
    """
    free = [(0.0, worker) for worker in range(workers)]
    there: dict[tuple[str, int], float] = {}  # program, worker (0: all) -> since when it is loaded
    last = 0.0
    for cohort in cohorts:
        began, worker = heapq.heappop(free)
        program, pace = cohort[0].program, paces[cohort[0].program]
        loaded = there.setdefault((program, worker if apart else 0), began + pace.loading)
        ended = max(began, loaded) + pace.training
        heapq.heappush(free, (ended, worker))
        last = max(last, ended)
    return last


def _rounded(seconds: float) -> float:
    """Seconds to two digits, which is more than is known.

    >>> _rounded(83.4), _rounded(7.31), _rounded(4321.0)
    (83.0, 7.0, 4300.0)
    """
    return round(seconds, min(0, 2 - len(str(int(seconds)))))
