"""How often a sweep calls a cell worse than the best: where all cells are equal, and where one is worse.

    python experiments/null_differences.py

Draws tables of made accuracies and asks `flaxvision.sweep.differences`, which marks the cells of every report, as well
as the tests that one would take from scipy. Tables of equal cells tell false marks: of equal and of different spreads,
of seeds that are not normal, on few test images. Tables with one worse cell tell what is found. Two minutes on two CPU
cores; `--quick` takes seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from common import Study, read_options
from scipy import stats

from flaxvision.sweep._differences import LEVEL, differences
from flaxvision.sweep.results import Cell, Outcome

SIZES = ((2, 3), (3, 3), (4, 3), (4, 5), (10, 3), (10, 5), (36, 3), (36, 5))  # cells, seeds
WORSE = (2.0, 4.0, 8.0)  # standard deviations of a seed by which one cell is worse
METRIC = "test_top1"
Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # a table, (cells, seeds)


def _spreads(generator: np.random.Generator, spreads: Sequence[float] | np.ndarray, seeds: int) -> np.ndarray:
    return generator.standard_normal((len(spreads), seeds)) * np.asarray(spreads)[:, None]


NULLS: dict[str, Draw] = {
    "equal spreads": lambda g, k, n: g.standard_normal((k, n)),
    "seeds that all cells share": lambda g, k, n: g.standard_normal((k, n)) + 3 * g.standard_normal(n),
    "one cell 5 times as wide": lambda g, k, n: _spreads(g, [5.0] + [1.0] * (k - 1), n),
    "one cell 50 times as wide": lambda g, k, n: _spreads(g, [50.0] + [1.0] * (k - 1), n),
    "half of them 5 times as wide": lambda g, k, n: _spreads(g, [5.0] * (k // 2) + [1.0] * (k - k // 2), n),
    "half of them 50 times as wide": lambda g, k, n: _spreads(g, [50.0] * (k // 2) + [1.0] * (k - k // 2), n),
    "one cell a tenth as wide": lambda g, k, n: _spreads(g, [0.1] + [1.0] * (k - 1), n),
    "lognormal spreads": lambda g, k, n: _spreads(g, np.exp(g.standard_normal(k)), n),
    "Student's t of 3 degrees": lambda g, k, n: g.standard_t(3, (k, n)),
    "mostly good, seldom bad": lambda g, k, n: -g.exponential(1.0, (k, n)),
    "mostly bad, seldom good": lambda g, k, n: g.exponential(1.0, (k, n)),
    "whole numbers of images": lambda g, k, n: np.round(g.standard_normal((k, n))),
}


@dataclasses.dataclass(frozen=True)
class Test:
    """One way to tell cells from the best."""

    name: str
    marks: Callable[[np.ndarray], np.ndarray]  # of a table (cells, seeds): which cells it calls worse


def ours(table: np.ndarray) -> np.ndarray:
    """The library's, on cells as a sweep has them."""
    cells = [
        Cell("sweep", {"cell": str(i)}, tuple(_outcome(seed, value) for seed, value in enumerate(row)), ())
        for i, row in enumerate(table)
    ]
    found = differences(cells, METRIC)
    return np.array([cell in found.others and found.others[cell].real for cell in cells])


def _outcome(seed: int, value: float) -> Outcome:
    return Outcome("", "sweep", (), seed, "ok", {}, final={METRIC: float(value)})


def _pair_values(table: np.ndarray) -> tuple[np.ndarray, int]:
    """The p of a paired t-test of every cell against the best, 1 for that itself, and which it is."""
    best = int(table.mean(axis=1).argmax())
    rest = table - table[best]
    errors = rest.std(axis=1, ddof=1) / np.sqrt(table.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stats.t.sf(np.abs(rest.mean(axis=1)) / errors, table.shape[1] - 1)
    return np.where(np.isnan(p), 1.0, p), best


def holm(table: np.ndarray) -> np.ndarray:
    """Paired t-tests against the best with Holm's correction for these."""
    p, best = _pair_values(table)
    order = [i for i in np.argsort(p) if i != best]
    marks = np.zeros(len(p), bool)
    for rank, i in enumerate(order):
        if p[i] > (1 - LEVEL) / (len(order) - rank):
            break
        marks[i] = True
    return marks


def bonferroni(table: np.ndarray) -> np.ndarray:
    """Paired t-tests against the best, corrected for all pairs of cells."""
    p, _ = _pair_values(table)
    return p < (1 - LEVEL) / (len(p) * (len(p) - 1) / 2)


def tukey(table: np.ndarray) -> np.ndarray:
    """Tukey's range with one spread for all cells, seeds as blocks."""
    k, n = table.shape
    means = table.mean(axis=1)
    rest = table - means[:, None] - table.mean(axis=0) + table.mean()
    freedom = (k - 1) * (n - 1)
    spread = np.sqrt((rest**2).sum() / freedom / n)
    return means.max() - means > _range(k, freedom) * spread


_RANGES: dict[tuple[int, int], float] = {}


def _range(cells: int, freedom: int) -> float:
    key = cells, freedom
    if key not in _RANGES:
        _RANGES[key] = float(stats.studentized_range.isf(1 - LEVEL, cells, freedom))
    return _RANGES[key]


TESTS = (
    Test("ours", ours),
    Test("paired t, Holm", holm),
    Test("paired t, all pairs", bonferroni),
    Test("Tukey, one spread", tukey),
)


def main(arguments: list[str] | None = None) -> None:
    options = read_options("null_differences", __doc__, arguments)
    sizes, tables = (SIZES, 2000) if not options.quick else (((4, 3), (6, 5)), 100)
    about = (
        f"Shares of {tables:,} made tables, each of so many cells and seeds. False marks: of tables whose cells are "
        "all equal, those in which any is called worse than the best, which shall be "
        f"{100 * (1 - LEVEL):.0f} % at most. Found: of tables in which one cell is worse, by so many standard "
        "deviations of a seed, those in which it is called worse. Holm: paired t-tests against the best, corrected for "
        "as many; all pairs: corrected for all pairs of cells; Tukey: one spread for all cells."
    )
    study = Study(options, "", "Which cells are called worse than the best", about)
    study.config |= {"sizes": sizes, "tables": tables}
    random = np.random.default_rng(0)
    rates = {}  # (null, size, test) -> share
    for null, draw in NULLS.items():
        for size in sizes:
            drawn = [draw(random, *size) for _ in range(tables)]
            for test in TESTS:
                rates[null, size, test.name] = np.mean([test.marks(table).any() for table in drawn])
    found = {}
    for worse in WORSE:
        for size in sizes:
            drawn = [random.standard_normal(size) for _ in range(tables)]
            for table in drawn:
                table[0] -= worse
            for test in TESTS:
                found[worse, size, test.name] = np.mean([test.marks(table)[0] for table in drawn])
    names = [f"{cells} cells, {seeds} seeds" for cells, seeds in sizes]
    for test in TESTS:
        rows = [[null, *(f"{100 * rates[null, size, test.name]:.1f}" for size in sizes)] for null in NULLS]
        study.table(f"False marks (%): {test.name}", ["all cells equal", *names], rows)
    rows = [
        [f"{worse:g}", test.name, *(f"{100 * found[worse, size, test.name]:.0f}" for size in sizes)]
        for worse in WORSE
        for test in TESTS
    ]
    study.table("Found (%)", ["worse by", "test", *names], rows)
    error = np.sqrt(LEVEL * (1 - LEVEL) / tables)
    most = {test.name: max(rates[null, size, test.name] for null in NULLS for size in sizes) for test in TESTS}
    study.claim(
        "At most 5 % of tables of equal cells get a mark",
        most["ours"] <= 1 - LEVEL + 3 * error,
        f"at most {100 * most['ours']:.1f} % (three standard errors of such a share are {300 * error:.1f} points); "
        + ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in most.items() if name != "ours"),
    )
    print(study.write())


if __name__ == "__main__":
    main()
