"""Figures that several experiments draw: lines with bands over seeds, and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import (
    COLUMN,
    DASHED,
    FAINT,
    INK,
    End,
    colors,
    draw_matrix,
    explain_lines,
    figure_style,
    label_ends,
    new_panels,
    plain_logarithmic,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_lines(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    ylabel: str,
    *,
    xlabel: str = "epoch",
    x: np.ndarray | None = None,
    dashed: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    dashed_means: str = "train",
    solid_means: str = "test",
    levels: Mapping[str, Mapping[str, float]] | None = None,
    each: bool = False,
    log: bool = False,
    heading: str = "",
    limits: tuple[float, float] | None = None,
    columns: int = 2,
    height: float = 2.3,
) -> Figure:
    """Lines with bands of one standard deviation over seeds, named at their ends; a panel a key of `panels`.

    Args:
        panels: Title -> {name: values}; values are (points,) or (seeds, points). One panel is a column wide, more
            share a page's width. Lines of one name have one colour in all panels.
        ylabel: What is drawn, with its unit.
        xlabel: What the points are.
        x: Their places, (points,); None counts from 1.
        dashed: Lines of the same names and colours, drawn dashed.
        dashed_means: What dashed lines are, for the key above the panels.
        solid_means: What solid lines are.
        levels: Title -> {name: value} of thin grey lines from side to side.
        each: Whether to draw a line a seed in place of mean and band.
        log: Whether the vertical axis is logarithmic.
        heading: A word above the names.
        limits: Of the vertical axis.
        columns: Panels side by side.
        height: Of a panel, in inches.
    """
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    color_of = dict(zip(names, colors(names), strict=True))
    several = not each and any(np.ndim(v) == 2 and len(v) > 1 for lines in panels.values() for v in lines.values())
    with figure_style():
        figure, grid = new_panels(len(panels), height, columns, sharey=limits is not None)
        ends: list[tuple[Axes, list[End]]] = []
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            axes.set_yscale("log" if log else "linear")
            for name, values in ((dashed or {}).get(title) or {}).items():
                _draw_line(axes, x, values, color_of.get(name, INK), each, **DASHED)
            panel = [
                End(*_draw_line(axes, x, values, color_of[name], each), name, color_of[name])
                for name, values in lines.items()
            ]
            for name, value in ((levels or {}).get(title) or {}).items():
                axes.axhline(value, color=FAINT, linewidth=0.6, zorder=1)
                panel.append(End(panel[0].x, value, name, FAINT))
            axes.set_title(title, loc="left")
            if len(ends) >= len(panels) - columns:  # nothing below it
                axes.set_xlabel(xlabel)
            axes.grid(axis="y")
            axes.margins(x=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
            if limits:
                axes.set_ylim(limits)
            if log:  # its ticks depend on the limits
                plain_logarithmic(axes.yaxis)
            ends.append((axes, [end for end in panel if end.text]))
        grid[0].set_ylabel(ylabel)
        explain_lines(figure, solid_means, dashed_means if dashed else "", band=several)
        label_ends(ends, heading)
    return figure


def _draw_line(
    axes: Axes, x: np.ndarray | None, values: np.ndarray, color: str, each: bool, **look: Any
) -> tuple[float, float]:
    """Draw a mean and its band, or `each` seed; returns where the mean, or the middle seed, ends."""
    rows = np.atleast_2d(np.asarray(values, float))
    places = np.arange(1, rows.shape[1] + 1) if x is None else np.asarray(x)[: rows.shape[1]]
    if each:
        axes.plot(places, rows.T, color=color, **{"linewidth": 0.8, **look})
        return float(places[-1]), float(np.sort(rows[:, -1])[len(rows) // 2])
    mean = rows.mean(axis=0)
    axes.plot(places, mean, color=color, **look)
    if len(rows) > 1:
        std = rows.std(axis=0, ddof=1)
        low = mean - std
        if axes.get_yscale() == "log":
            low = np.where(low > 0, low, mean**2 / (mean + std))  # as far below as above, by factors
        axes.fill_between(places, low, mean + std, color=color, alpha=0.18, linewidth=0)
    return float(places[-1]), float(mean[-1])


def draw_confusions(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Confusion matrices, two side by side, rows true and columns predicted, the errors in colour."""
    with figure_style():
        figure, grid = new_panels(len(matrices), COLUMN + 0.2)
        most = max(1, max(int((m * ~np.eye(len(m), dtype=bool)).max()) for m in matrices.values()))
        for axes, (title, matrix) in zip(grid, matrices.items(), strict=True):
            draw_matrix(axes, matrix, classes, most)
            axes.set_title(title, loc="left")
    return figure
