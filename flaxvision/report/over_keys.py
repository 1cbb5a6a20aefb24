"""The objective over each varied key, of tables too long to be read row by row: a point a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.overview import BEST, BLUE, LOG_RANGE, ORANGE, leaves_out
from flaxvision.report.style import INK, new_panels, note, shorten
from flaxvision.sweep.results import Cell, SweepResult, ranked
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 1.9  # inches of a panel
NAMED = 8  # values that are not numbers, or too few to be an axis, have a place and a name each
MEDIAN = 3  # cells of one value from which on their median is drawn
VECTORS = 500  # points of a panel; more are drawn as pixels, also in SVG


def draw_over_keys(result: SweepResult) -> Figure | None:
    """A panel for each key: every cell's mean, the best ones marked, the medians of the cells that share a value.

    None where the table's own figure shows every cell. A loss far above those of the better half is left out, as a
    seed on its way to infinity is, and counted.
    """
    metric = formats.shown_metric(result)
    scored = [cell for cell in result.cells if cell.mean(metric) is not None]
    if not leaves_out(result) or not scored:
        return None
    scale, means = metric_of(metric).scale, {cell: cell.mean(metric) or 0.0 for cell in scored}
    shown = [cell for cell in scored if means[cell] <= _most(list(means.values()), metric)]
    best = ranked(shown, metric)[:BEST]
    values = np.array([scale * means[cell] for cell in shown])
    with style.figure_style():
        figure, panels = new_panels(len(result.keys), HEIGHT, sharey=True)
        if not metric_of(metric).percent and values.min() > 0 and values.max() > LOG_RANGE * values.min():
            panels[0].set_yscale("log")
            panels[0].set_ylim(values.min() / 1.2, values.max() * 1.2)
            style.plain_logarithmic(panels[0].yaxis)
        for axes, key in zip(panels, result.keys, strict=True):
            _draw(axes, key, shown, values, [shown.index(cell) for cell in best])
            if axes.yaxis.get_tick_params().get("labelleft", True):
                axes.set_ylabel(formats.metric_name(metric))
        absent = len(result.cells) - len(shown)
        counted = f"{len(shown):,} cells" + f"; {absent:,} more diverged, failed or are far above these" * bool(absent)
        lines = "; line: the median of a value's cells" * any(axes.lines for axes in panels)
        note(panels[0], f"{counted}\norange: the best {len(best)}{lines}", (0, 1), (0, 4), va="bottom")
    return figure


def _most(means: Sequence[float], metric: str) -> float:
    """The largest mean for which the axis makes room."""
    from flaxvision.report.plots import OFF

    return math.inf if metric_of(metric).percent else OFF * sorted(means)[(len(means) - 1) // 2]


def _draw(axes: Axes, key: str, cells: Sequence[Cell], values: np.ndarray, best: Sequence[int]) -> None:
    places = places_on(axes, [cell.where.get(key, "") for cell in cells])
    many = len(cells) > VECTORS
    axes.scatter(places, values, 7, color=BLUE, alpha=0.35, linewidths=0, rasterized=many)
    axes.scatter(places[best], values[best], 11, color=ORANGE, linewidths=0, zorder=3)
    shared = [place for place in np.unique(places) if np.count_nonzero(places == place) >= MEDIAN]
    if len(shared) > 1:
        axes.plot(shared, [np.median(values[places == place]) for place in shared], color=INK, linewidth=0.9)
    axes.grid(axis="y")
    axes.set_xlabel(shorten(formats.key_label([key])))


def places_on(axes: Axes, labels: Sequence[str]) -> np.ndarray:
    """Where values stand on the horizontal axis, which is set for them.

    By their size, or in their order where they are few or no numbers.
    """
    different = formats.distinct(labels)
    try:
        numbers = np.array([float(label) for label in labels])
    except ValueError:
        numbers = np.array([])
    if len(different) <= NAMED or not len(numbers) or not np.isfinite(numbers).all():
        axes.set_xlim(-0.5, len(different) - 0.5)
        step = -(-len(different) // NAMED)
        axes.set_xticks(range(0, len(different), step), [shorten(text, 12) for text in different[::step]])
        position = {label: float(place) for place, label in enumerate(different)}
        return np.array([position[label] for label in labels])
    if numbers.min() > 0 and numbers.max() > LOG_RANGE * numbers.min():
        axes.set_xscale("log")
        axes.set_xlim(numbers.min() / 1.1, numbers.max() * 1.1)
        style.plain_logarithmic(axes.xaxis)
    return numbers
