"""Figures that several experiments draw: lines with bands over seeds, and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report.labels import End, label_ends
from flaxvision.report.style import COLUMN, PAGE, colors, new_figure, plain_logarithmic, style

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
    log: bool = False,
    heading: str = "",
    limits: tuple[float, float] | None = None,
    columns: int = 2,
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
        log: Whether the vertical axis is logarithmic.
        heading: A word above the names.
        limits: Of the vertical axis.
        columns: Panels side by side.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    color_of = dict(zip(names, colors(names), strict=True))
    several = any(np.ndim(v) == 2 and len(v) > 1 for lines in panels.values() for v in lines.values())
    with style():
        columns = min(len(panels), columns)
        rows = -(-len(panels) // columns)
        figure = new_figure(COLUMN if columns == 1 else PAGE, 2.3 * rows + 0.2)
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=limits is not None).flat)
        for axes in grid[len(panels) :]:
            axes.remove()
        ends: list[tuple[Axes, list[End]]] = []
        for axes, (title, lines) in zip(grid, panels.items(), strict=False):
            for name, values in ((dashed or {}).get(title) or {}).items():
                _band(axes, x, values, color_of.get(name, "#222222"), linestyle=(0, (2.5, 1.5)), linewidth=0.9)
            panel = [
                End(*_band(axes, x, values, color_of[name]), name if len(lines) > 1 or name else "", color_of[name])
                for name, values in lines.items()
            ]
            axes.set_title(title, loc="left")
            axes.set_xlabel(xlabel)
            axes.grid(axis="y")
            axes.margins(x=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
            if log:
                axes.set_yscale("log")
            if limits:
                axes.set_ylim(limits)
            if log:  # its ticks depend on the limits
                plain_logarithmic(axes.yaxis)
            ends.append((axes, panel if any(end.text for end in panel) else []))
        grid[0].set_ylabel(ylabel)
        handles: list[Any] = []
        if dashed:
            gray = {"color": "#6b6b6b"}
            handles = [
                Line2D([], [], label=solid_means, **gray),
                Line2D([], [], label=dashed_means, linestyle=(0, (2.5, 1.5)), linewidth=0.9, **gray),
            ]
        if several:
            handles.append(Patch(color="#6b6b6b", alpha=0.25, linewidth=0, label="± std over seeds"))
        if handles:
            figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        label_ends(ends, heading)
    return figure


def _band(axes: Axes, x: np.ndarray | None, values: np.ndarray, color: str, **look: Any) -> tuple[float, float]:
    """Draw one line and its band; returns where it ends."""
    rows = np.atleast_2d(np.asarray(values, float))
    places = np.arange(1, rows.shape[1] + 1) if x is None else np.asarray(x)[: rows.shape[1]]
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
    """Confusion matrices side by side, rows true and columns predicted, the errors in colour."""
    with style():
        few = len(classes) <= 12
        width = COLUMN if len(matrices) == 1 else PAGE
        figure = new_figure(width, width / len(matrices) + 0.25)
        most = max(1, max(int((m * ~np.eye(len(m), dtype=bool)).max()) for m in matrices.values()))
        for axes, (title, matrix) in zip(
            figure.subplots(1, len(matrices), squeeze=False).flat, matrices.items(), strict=True
        ):
            diagonal = np.eye(len(matrix), dtype=bool)
            axes.imshow(np.where(diagonal, np.nan, matrix), cmap="Oranges", vmin=0, vmax=most)
            axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
            axes.set_yticks(range(len(classes)), classes)
            axes.tick_params(length=0, labelsize=7 if few else 4)
            axes.spines[:].set_visible(False)
            axes.set(xlabel="predicted", ylabel="true")
            axes.set_title(title, loc="left")
            for i, row in enumerate(matrix if few else ()):
                for j, count in enumerate(row):
                    if count:
                        color = "#6b6b6b" if i == j else "white" if count > 0.6 * most else "#222222"
                        axes.text(j, i, f"{int(count)}", ha="center", va="center", fontsize=5.5, color=color)
    return figure
