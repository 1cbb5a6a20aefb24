"""Sizes of effects: differences between groups of runs, with confidence intervals."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from flaxvision.report import FAINT, GRID, INK, OKABE_ITO, PAGE, figure_style, new_figure

Values = Mapping[Hashable, np.ndarray]  # cell -> a number a run


class Size(NamedTuple):
    """A difference of means, and half of its 95 % confidence interval (infinite without repeated runs)."""

    difference: float
    half: float


class Effect(NamedTuple):
    """What some cells have beyond others."""

    name: str
    cells: tuple[Hashable, ...]
    others: tuple[Hashable, ...]
    paired: bool = False  # one cell on each side, whose runs belong together one by one: absolute differences

    def size(self, values: Values) -> Size:
        """Cells count equally; runs within a cell are taken to vary equally in all of them (Student's t)."""
        sides = [[values[cell] for cell in side] for side in (self.cells, self.others)]
        if self.paired:
            sides = [[np.abs(sides[0][0] - sides[1][0])], [np.zeros(1)]]
        one, other = (float(np.mean([runs.mean() for runs in side])) for side in sides)
        std, freedom = pooled_std([runs for side in sides for runs in side])
        if not freedom:
            return Size(one - other, float("inf"))
        variance = std**2 * sum(1 / (len(runs) * len(side) ** 2) for side in sides for runs in side)
        return Size(one - other, float(stdtrit(freedom, 0.975)) * variance**0.5)

    def explains(self, values: Values, gap: float, share: float = 0.5) -> str:
        """Whether it makes at least that share of a gap: the verdict if the whole interval agrees."""
        difference, half = self.size(values)
        part = abs(gap) if self.paired else gap
        low, high = sorted(((difference - half) / part, (difference + half) / part))
        return "supported" if low >= share else "not supported" if high < share else "not decided"


def pooled_std(groups: Iterable[np.ndarray]) -> tuple[float, int]:
    """The standard deviation within groups, and its degrees of freedom (infinite where there are none)."""
    groups = list(groups)
    freedom = sum(len(runs) - 1 for runs in groups)
    squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in groups)
    return ((squares / freedom) ** 0.5 if freedom else float("inf")), freedom


def by_seed(values: Values) -> float:
    """What 95 % of pairs of runs of one cell differ by at most."""
    return 1.96 * 2**0.5 * pooled_std(values.values())[0]


def draw_effects(effects: Sequence[Effect], panels: Mapping[str, tuple[Values, float]], gap_name: str) -> Figure:
    """Each effect as a point with its interval; a panel a measure: title -> (values, gap). The band is `by_seed`."""
    with figure_style():
        figure = new_figure(PAGE, 0.8 + 0.2 * len(effects))
        for axes, (title, (values, gap)) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False).flat, panels.items(), strict=True
        ):
            if np.isfinite(spread := by_seed(values)):
                axes.axvspan(-spread, spread, color=GRID, linewidth=0)
            axes.axvline(0, color=FAINT, linewidth=0.6)
            axes.plot(gap, 0, "D", ms=4, color=OKABE_ITO[1])
            for place, effect in enumerate(effects, 1):
                difference, half = effect.size(values)
                interval = half if np.isfinite(half) else None
                axes.errorbar(difference, place, xerr=interval, fmt="o", ms=3.5, color=OKABE_ITO[0])
            axes.set_xlabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_yticks(range(len(effects) + 1), [gap_name, *(effect.name for effect in effects)])
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.spines["left"].set_visible(False)
        axes.set_ylim(len(effects) + 0.5, -0.5)
    return figure
