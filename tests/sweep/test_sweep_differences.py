"""Which cells are told from the best: against scipy, under equality, and where one is worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from flaxvision.report import results_markdown
from flaxvision.sweep._differences import LEVEL, differences
from flaxvision.sweep.results import Cell, Outcome, SweepResult

METRIC = "test_top1"


def cells_of(table: np.ndarray, metric: str = METRIC, name: str = "cell") -> tuple[Cell, ...]:
    """Cells whose seeds have these numbers, (cells, seeds); NaN: the seed failed."""

    def outcome(where: dict[str, str], seed: int, value: float) -> Outcome:
        status, final = ("failed", {}) if np.isnan(value) else ("ok", {metric: float(value)})
        return Outcome(f"{name}{seed}", "sweep", tuple(where.items()), seed, status, {}, final=final, best_epoch=1)

    cells = []
    for i, row in enumerate(table):
        where = {name: str(i)}
        cells.append(Cell("sweep", where, tuple(outcome(where, seed, value) for seed, value in enumerate(row)), ()))
    return tuple(cells)


def result_of(cells: tuple[Cell, ...], metric: str = METRIC, **changes) -> SweepResult:
    winner = cells[0].outcomes[0]
    keys = tuple(cells[0].where)
    return SweepResult("x", "X", "", keys, cells, metric, winner, ("a", "b"), {}, Path(), **changes)


def test_two_cells_are_a_paired_t_test():
    table = np.random.default_rng(0).normal(0.9, 0.01, (2, 5)) + np.array([[0.0], [-0.005]])
    best = int(table.mean(axis=1).argmax())
    expected = stats.ttest_rel(table[1 - best], table[best]).confidence_interval(LEVEL)
    cells = cells_of(table)
    found = differences(cells, METRIC)
    (difference,) = found.others.values()
    assert found.best is cells[best]
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert difference.mean == pytest.approx(table[1 - best].mean() - table[best].mean())
    assert found.tied(cells[1 - best]) == (expected.low <= 0 <= expected.high)


@pytest.mark.parametrize(("cells", "seeds"), [(4, 3), (8, 5)])
@pytest.mark.parametrize("spread", [1, 20])
def test_of_equal_cells_few_tables_call_one_worse(cells, seeds, spread):
    """Of 400 tables 5 % with three standard errors are 8.3 %; `experiments/null_differences.py` draws more."""
    random = np.random.default_rng(cells + spread)
    spreads = np.where(np.arange(cells) < cells // 2, spread, 1)[:, None]
    marked = 0
    for _ in range(400):
        found = differences(cells_of(0.5 + 0.01 * spreads * random.standard_normal((cells, seeds))), METRIC)
        marked += any(difference.real for difference in found.others.values())
    assert marked / 400 <= 0.083


def test_what_is_worse_is_found_beside_wild_and_tied_cells():
    random, found = np.random.default_rng(0), np.zeros(4)
    for _ in range(50):
        table = 0.9 + 0.003 * random.standard_normal((4, 3))
        table[1] -= 0.03  # ten deviations
        table[2] = 0.2 + 0.1 * random.standard_normal(3)  # a rate at which some seeds collapse
        cells = cells_of(table)
        others = differences(cells, METRIC).others
        found += [cell in others and others[cell].real for cell in cells]
    assert found[1] >= 48
    assert found[2] >= 48
    assert found[[0, 3]].sum() <= 5


def test_accuracies_on_few_images_are_often_equal_by_chance():
    table = np.array([[0.90, 0.91, 0.90], [0.89, 0.90, 0.89]])  # always one of 100 images: no spread, and no proof
    assert differences(cells_of(table), METRIC).tied(cells_of(table)[1]) is False  # cells are compared by identity
    cells = cells_of(table)
    assert differences(cells, METRIC).tied(cells[1])
    equal = cells_of(np.array([[0.9, 0.9], [0.9, 0.9]]))
    assert differences(equal, METRIC).tied(equal[1])


def test_of_losses_the_lowest_is_the_best():
    cells = cells_of(np.array([[0.5, 0.51, 0.49], [0.1, 0.11, 0.09]]), "test_loss")
    found = differences(cells, "test_loss")
    assert found.best is cells[1]
    assert found.others[cells[0]].mean == pytest.approx(0.4)
    assert found.others[cells[0]].real


def test_seeds_pair_and_failed_ones_are_left_out():
    rough = np.array([0.1, 0.5, 0.9, 0.3])  # what a seed does to all cells
    table = 0.01 * np.arange(3)[:, None] + rough + 0.001 * np.random.default_rng(0).standard_normal((3, 4))
    table[0, 1] = np.nan
    cells = cells_of(table)
    found = differences(cells, METRIC)
    assert found.best is cells[2]
    assert found.others[cells[0]].seeds == 3
    assert found.others[cells[0]].mean == pytest.approx(np.nanmean(table[0] - table[2]))
    assert not any(map(found.tied, cells))  # although the seeds of a cell are far apart


def test_how_many_seeds_would_decide():
    random = np.random.default_rng(1)
    cells = cells_of(np.stack([0.9 + 0.01 * random.standard_normal(3), 0.89 + 0.01 * random.standard_normal(3)]))
    found = differences(cells, METRIC)
    (difference,) = found.others.values()
    assert not difference.real
    values = np.array([a.final[METRIC] - b.final[METRIC] for a, b in zip(*(c.outcomes for c in cells), strict=True)])
    reach = [n for n in range(2, 200) if stats.t.isf(0.025, n - 1) * values.std(ddof=1) / n**0.5 < abs(values.mean())]
    (enough,) = map(found.enough, found.others)
    assert enough is not None
    assert reach[0] <= enough <= 1.3 * reach[0] + 3
    markdown = results_markdown(result_of(cells))
    said = "If means and spreads stay as they are, what is open takes about"
    assert f"{said} {enough} seeds for {'1' if found.best is cells[0] else '0'}." in markdown
    assert "≈ not distinguishable from the best" in markdown


def test_one_seed_decides_nothing():
    cells = cells_of(np.array([[0.9], [0.5]]))
    found = differences(cells, METRIC)
    assert not found.decided
    assert not found.tied(cells[1])
    text = results_markdown(result_of(cells))
    assert "One seed a cell cannot tell a difference from chance: give three seeds or more (--seeds 3)." in text
    assert "≈" not in text


def test_one_cell_or_none_has_nothing_to_be_compared_with():
    for table in (np.array([[0.9, 0.8]]), np.full((2, 2), np.nan)):
        assert differences(cells_of(table), METRIC).best is None
