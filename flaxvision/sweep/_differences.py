"""Which cells are really worse than the best: paired differences over seeds, with intervals that hold all at once.

Two things make the usual tests wrong here. The cell to compare with is the best one, which the same numbers chose:
even among equal cells the best and the worst lie far apart, so that corrections for a control chosen beforehand
(Dunnett's, Holm's) tell some from the best in one table of ten, and more. And few seeds measure a spread badly: of
three, one in ten is less than a third of what it should be, while one spread for all cells would be wrong where some
learn and others do not.

So the standard error of a difference takes a quarter of its variance from the usual one of the table, the median (as in
Tusher, Tibshirani and Chu, PNAS 2001), and the threshold is that which 95 % of simulated tables of equal cells stay
below, with as many cells and seeds, be their spreads equal or half of them wild. Of two cells it is the paired t-test.
`experiments/null_differences.py` checks all of that, and compares it with other tests.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from flaxvision.sweep.results import Cell, best_cell
from flaxvision.training.metrics import metric_of

LEVEL = 0.95  # of all intervals of a table at once
USUAL = 0.25  # share of a variance that is the table's
WILD = 50.0  # times the spread of the others that half of the cells have in every second simulated table
TABLES = 10_000  # that are simulated
ELEMENTS = 6_000_000  # numbers in them, about: of large tables fewer are simulated
ROUGH = 10  # times fewer of both where a threshold is only to tell about how many seeds would do
TINY = 1e-5  # steps of accuracies below this are no steps
STEPS = (*range(2, 13), 14, 16, 20, 25, 30)  # numbers of seeds that are tried; after the last the threshold stays
MOST = 1_000  # seeds that anybody would train


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A cell's mean less the best cell's, over the seeds that both have, and how sure that is."""

    seeds: int
    mean: float
    low: float  # the interval, without bounds for a single seed
    high: float
    spread: float = math.nan  # the standard deviation of the difference that the interval rests on

    @property
    def real(self) -> bool:
        """Whether the interval leaves out 0: the cell is distinguishable from the best."""
        return not self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True, slots=True)
class Differences:
    """The cells of a table beside the best one."""

    metric: str
    best: Cell | None  # None: nothing to compare
    others: Mapping[Cell, Difference]  # without cells that share no seed with a number with the best

    def tied(self, cell: Cell | None) -> bool:
        """Whether a cell that shares two seeds or more with the best cannot be distinguished from it."""
        found = self.others.get(cell) if cell is not None else None
        return found is not None and found.seeds > 1 and not found.real

    def enough(self, cell: Cell) -> int | None:
        """With about how many seeds a cell that is `tied` would not be, if means and spreads stayed; None: > `MOST`."""
        found, cells = self.others[cell], len(self.others) + 1
        if not found.mean:
            return None

        def told(seeds: int) -> bool:
            return abs(found.mean) > _usual_threshold(cells, seeds) * found.spread / math.sqrt(seeds)

        steps = [seeds for seeds in STEPS if seeds > found.seeds]
        first = bisect.bisect_left(steps, True, key=told)
        if first < len(steps):
            return steps[first]
        last = _usual_threshold(cells, STEPS[-1])
        seeds = max(found.seeds + 1, math.ceil((last * found.spread / found.mean) ** 2))
        return seeds if seeds <= MOST else None

    @property
    def decided(self) -> bool:
        """Whether any cell has the seeds to be compared."""
        return any(difference.seeds > 1 for difference in self.others.values())


def differences(cells: Sequence[Cell], metric: str) -> Differences:
    """Compare every cell of the grid with the best one: the paired differences of `metric` over seeds.

    Where all cells are equally good, at most 5 % of tables call any of them worse than the best.

    Args:
        cells: Those of a result; that of a final stage is left out.
        metric: Such as "test_top1".

    Returns:
        The best cell and, by cell, the differences of the others to it; empty where there is nothing to compare.

    >>> found = differences(result.cells, "test_top1")  # doctest: +SKIP
    >>> [cell.where for cell in result.cells if found.tied(cell)]  # doctest: +SKIP
    [{'learning_rate': '0.03'}]
    """
    scored = [cell for cell in cells if cell.stage == "sweep" and cell.values(metric)]
    best = best_cell(scored, metric)
    if best is None or len(scored) < 2:
        return Differences(metric, None, {})
    rows = [_by_seed(cell, metric) for cell in scored]
    seeds = sorted({seed for row in rows for seed in row})
    table = np.array([[row.get(seed, np.nan) for seed in seeds] for row in rows])
    step = _step(table) if metric_of(metric).percent else 0.0
    found = _beside(table, np.array(scored.index(best)), step**2 / 6)
    threshold = _threshold(~np.isnan(table)) if (found.counts > 1).any() else math.inf
    others = {}
    for cell, n, mean, error in zip(scored, found.counts, found.means, found.errors, strict=True):
        if cell is best or not n:
            continue
        bound = threshold * error if n > 1 else math.inf
        low, high, spread = mean - bound, mean + bound, error * math.sqrt(n)
        others[cell] = Difference(int(n), float(mean), float(low), float(high), float(spread))
    return Differences(metric, best, others)


def _by_seed(cell: Cell, metric: str) -> dict[int, float]:
    scored = ((o.seed, o.final.get(metric)) for o in cell.outcomes if o.status != "failed")
    return {seed: value for seed, value in scored if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class _Beside:
    """Rows of tables beside a row of each; the best row beside itself is 0, with an error above it."""

    counts: np.ndarray  # seeds that both have, (..., cells)
    means: np.ndarray  # of the differences over these, likewise
    errors: np.ndarray  # their standard errors; infinite for a single seed


def _beside(tables: np.ndarray, best: np.ndarray, rounding: float = 0.0) -> _Beside:
    """The rows of tables (..., cells, seeds), NaN where there is no number, beside those numbered `best` (...)."""
    rest = tables - np.take_along_axis(tables, best[..., None, None], axis=-2)
    there = ~np.isnan(rest)
    counts = there.sum(axis=-1)
    values = np.where(there, rest, 0.0)
    means = values.sum(axis=-1) / np.maximum(counts, 1)
    squares = np.where(there, np.square(values - means[..., None]), 0.0).sum(axis=-1)
    own = np.where(counts > 1, squares / np.maximum(counts - 1, 1) + rounding, np.inf)
    others = own.copy()
    np.put_along_axis(others, best[..., None], np.inf, axis=-1)
    known = np.isfinite(others).sum(axis=-1, keepdims=True)
    usual = np.take_along_axis(np.sort(others, axis=-1), np.maximum(known - 1, 0) // 2, axis=-1)
    variances = (1 - USUAL) * own + USUAL * np.where(np.isfinite(usual), usual, own)
    return _Beside(counts, means, np.sqrt(variances / np.maximum(counts, 1)))


def _step(table: np.ndarray) -> float:
    """The step of which all numbers of a table are multiples, as 0.01 of accuracies on 100 images; 0 if it is tiny.

    Of so coarse numbers several are often equal by chance, so the error of rounding both belongs to the spread of a
    difference: a sixth of the step's square.
    """
    step = 0.0
    for gap in np.diff(np.unique(table[~np.isnan(table)])).tolist():
        while gap > TINY:  # Euclid's algorithm
            rest = step % gap
            step, gap = gap, 0.0 if rest > gap - TINY else rest
    return step


def _threshold(there: np.ndarray) -> float:
    """How many standard errors every cell stays within, in `LEVEL` of tables of equal cells.

    Args:
        there: Which numbers a table has, (cells, seeds).
    """
    cells, seeds = there.shape
    if cells == 2:
        return _of_two(int(there.all(axis=0).sum()))
    return _simulated(there.tobytes(), cells, seeds)


@functools.lru_cache(1024)
def _usual_threshold(cells: int, seeds: int) -> float:
    """About `_threshold` of a table that has all numbers."""
    if cells == 2:
        return _of_two(seeds)
    return _simulated(np.ones((cells, seeds), bool).tobytes(), cells, seeds, ROUGH)


def _of_two(seeds: int) -> float:
    """`_threshold` of two cells, which is Student's."""
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, (1 + LEVEL) / 2))


@functools.lru_cache(1024)
def _simulated(there: bytes, cells: int, seeds: int, fewer: int = 1) -> float:
    """`_threshold` from tables that are drawn, the larger one of those of equal and of different spreads."""
    tables = max(200, min(TABLES, ELEMENTS // (cells * seeds)) // fewer)
    known = np.frombuffer(there, bool).reshape(cells, seeds)
    random = np.random.default_rng(0)
    found = []
    for spread in (1.0, WILD):
        spreads = np.where(np.arange(cells) < cells // 2, spread, 1.0)[:, None]
        most: list[np.ndarray] = []
        size = max(1, ELEMENTS // 6 // (cells * seeds))  # at a time, to be small in memory
        for start in range(0, tables, size):
            drawn = random.standard_normal((min(size, tables - start), cells, seeds)) * spreads
            drawn = np.where(known, drawn, np.nan)
            means = np.where(known, drawn, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
            beside = _beside(drawn, np.where(known.any(axis=-1), means, -np.inf).argmax(axis=-1))
            far, errors = np.abs(beside.means), beside.errors
            most.append(np.divide(far, errors, out=np.zeros_like(far), where=errors > 0).max(axis=-1))
        compared = np.concatenate(most)
        found.append(float(np.quantile(compared[compared > 0], LEVEL)) if compared.any() else math.inf)
    return max(found)
