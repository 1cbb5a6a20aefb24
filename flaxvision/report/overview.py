"""The table as a picture: dots with intervals, or a heatmap for two keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.style import COLUMN, FAINT, GRID, INK, OKABE_ITO, PAGE, new_figure, note, shorten
from flaxvision.sweep.results import Cell, SweepResult
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_RANGE = 20  # losses that span more than this factor get a logarithmic axis
BLUE, ORANGE = OKABE_ITO[:2]


def draw_overview(result: SweepResult) -> Figure:
    """The objective of every cell, with the published numbers."""
    two_way = len(result.keys) == 2 and not any(cell.stage == "final" for cell in result.cells)
    with style.figure_style():
        return (_draw_heatmap if two_way else _draw_dots)(result, formats.shown_metric(result))


def _draw_dots(result: SweepResult, metric: str) -> Figure:
    """Top to bottom in the order of the spec: seeds, mean, deviation; published number and its tolerance."""
    from matplotlib.ticker import MaxNLocator

    cells = [cell for cell in result.cells if cell.values(metric) or cell.diverged or cell.failed] or list(result.cells)
    names = [shorten(formats.cell_label(cell, result.keys), 40) for cell in cells]
    figure = new_figure(PAGE if max(map(len, names)) > 16 else COLUMN, 0.85 + 0.19 * len(names))
    axes = figure.add_subplot()
    for y, cell in enumerate(cells):
        _draw_cell(axes, y, cell, metric)
    values = [metric_of(metric).scale * value for cell in cells for value in cell.values(metric)]
    if not metric_of(metric).percent and values and min(values) > 0 and max(values) > LOG_RANGE * min(values):
        axes.set_xscale("log")
        style.plain_logarithmic(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if not values:
        axes.set_xticks([])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(formats.metric_name(metric))
    note(axes, shorten(formats.key_label(result.keys), 40), (0, 1), (-4, 1), ha="right", va="bottom")
    _explain(figure, result, metric)
    return figure


def _draw_cell(axes: Axes, y: int, cell: Cell, metric: str) -> None:
    scale = metric_of(metric).scale
    published = formats.verdict_on(cell, metric)
    if published:
        low, high = (scale * (published.published + sign * published.tolerance) for sign in (-1, 1))
        axes.plot([low, high], [y, y], color=GRID, linewidth=7, solid_capstyle="butt", zorder=1)
        middle = scale * published.published
        axes.plot(middle, y, "D", color="none", markeredgecolor=ORANGE, markersize=5, zorder=4)
    mean, std = cell.mean(metric), cell.std(metric)
    if mean is not None:
        if std is not None:
            axes.plot([scale * (mean - std), scale * (mean + std)], [y, y], color=BLUE, linewidth=1.2, zorder=2)
            seeds = [scale * value for value in cell.values(metric)]
            axes.plot(seeds, [y + 0.27] * len(seeds), ".", color=FAINT, markersize=2.5, zorder=2, alpha=0.8)
        axes.plot(scale * mean, y, "o", color=BLUE, markersize=3.5, zorder=3)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center_baseline", "annotation_clip": False}
    note(axes, _text(cell, metric), (1, y), (6, 0), fontsize=7, color=INK, **place)


def _text(cell: Cell, metric: str) -> str:
    return formats.score(cell, metric) + formats.mark(cell) * (cell.mean(metric) is not None)


def _explain(figure: Figure, result: SweepResult, metric: str) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 3.5}
    handles = [Line2D([], [], linestyle="", label="ours", **dot)]
    if any(cell.std(metric) is not None for cell in result.cells):
        seed = Line2D([], [], color=FAINT, marker=".", markersize=3, linestyle="", label="seed")
        handles = [Line2D([], [], linewidth=1.2, label="mean ± std", **dot), seed]
    if any(formats.verdict_on(cell, metric) for cell in result.cells):
        diamond: dict[str, Any] = {"marker": "D", "markersize": 5, "markerfacecolor": "none", "markeredgecolor": ORANGE}
        handles.append(Line2D([], [], color=GRID, linewidth=6, label="published, tolerance", **diamond))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _draw_heatmap(result: SweepResult, metric: str) -> Figure:
    """First key down, second across; darker is better; the values stand in the cells."""
    rows, columns, cells = formats.two_way(result.cells, result.keys)
    shades = _shades({place: cell.mean(metric) for place, cell in cells.items()}, metric_of(metric).lower_is_better)
    widest = len(columns) * max((len(_text(cell, metric)) for cell in result.cells), default=0)
    figure = new_figure(COLUMN if widest <= 50 else PAGE, 0.75 + 0.42 * len(rows))
    axes = figure.add_subplot()
    grid = np.ma.masked_invalid([[shades.get((row, column), np.nan) for column in columns] for row in rows])
    edges = [np.arange(count + 1) - 0.5 for count in (len(columns), len(rows))]
    axes.pcolormesh(*edges, grid, cmap="Blues", vmin=0, vmax=1.25, edgecolor="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xticks(range(len(columns)), [shorten(column, 14) for column in columns])
    axes.set_yticks(range(len(rows)), [shorten(row, 20) for row in rows])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(formats.key_label(result.keys[:1]))
    axes.set_xlabel(formats.key_label(result.keys[1:]))
    best = formats.best_cells(result, metric)
    for (row, column), cell in cells.items():
        x, y, published = columns.index(column), rows.index(row), formats.verdict_on(cell, metric)
        text = _text(cell, metric)
        text = text.partition(" ±")[0] if widest > 110 else text
        middle: dict[str, Any] = {"ha": "center", "va": "center"}
        middle["color"] = "white" if shades.get((row, column), 0) > 0.85 else INK
        weight = "bold" if cell in best else "normal"
        axes.text(x, y - (0.16 if published else 0), text, fontsize=6.5, weight=weight, **middle)
        if published:
            axes.text(x, y + 0.2, f"({formats.given(metric, published.published)})", fontsize=6, **middle)
    brackets = "; in brackets: published" * any(formats.verdict_on(cell, metric) for cell in cells.values())
    said = f"{formats.metric_name(metric)}; darker is better{brackets}"
    note(axes, said, (1, 0), (0, -4), ha="right", va="top")
    return figure


def _shades(means: dict[tuple[str, str], float | None], lower: bool) -> dict[tuple[str, str], float]:
    """0 for the worst cell to 1 for the best, by the logarithm of the error: one outlier leaves the rest apart."""
    errors = {place: max(mean if lower else 1 - mean, 1e-6) for place, mean in means.items() if mean is not None}
    logs = {place: np.log(error) for place, error in errors.items()}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    return {
        place: 0.05 + 0.95 * float((high - log) / (high - low)) if high > low else 0.4 for place, log in logs.items()
    }
