"""The table as a picture: dots with intervals, or a heatmap for two keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats
from flaxvision.report.style import (
    COLUMN,
    FAINT,
    GRID,
    INK,
    OKABE_ITO,
    PAGE,
    new_figure,
    plain_logarithmic,
    shorten,
    style,
)
from flaxvision.sweep.results import Cell, SweepResult
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_RANGE = 20  # losses that span more than this factor get a logarithmic axis


def draw_overview(result: SweepResult) -> Figure:
    """The objective of every cell, with the published numbers."""
    with style():
        if len(result.keys) == 2 and not any(cell.stage == "final" for cell in result.cells):
            return _draw_heatmap(result)
        return _draw_dots(result)


def _draw_dots(result: SweepResult) -> Figure:
    """Top to bottom in the order of the spec: seeds, mean, deviation; published number and its tolerance."""
    from matplotlib.ticker import MaxNLocator

    metric = formats.shown_metric(result)
    scale = metric_of(metric).scale
    cells = [cell for cell in result.cells if cell.values(metric) or cell.diverged or cell.failed] or list(result.cells)
    names = [shorten(formats.cell_label(cell, result.keys), 40) for cell in cells]
    figure = new_figure(PAGE if max(map(len, names)) > 16 else COLUMN, 0.85 + 0.19 * len(names))
    axes = figure.add_subplot()
    for y, cell in enumerate(cells):
        _draw_cell(axes, y, cell, metric, scale)
    values = [scale * value for cell in cells for value in cell.values(metric)]
    if not metric_of(metric).percent and values and min(values) > 0 and max(values) > LOG_RANGE * min(values):
        axes.set_xscale("log")
        plain_logarithmic(axes.xaxis)
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
    axes.annotate(
        shorten(formats.key_label(result.keys), 40), (0, 1), (-4, 1), "axes fraction", textcoords="offset points",
        ha="right", va="bottom", fontsize=6.5, color=FAINT,
    )  # fmt: skip
    _explain(figure, result, metric)
    return figure


def _draw_cell(axes: Axes, y: int, cell: Cell, metric: str, scale: float) -> None:
    published = formats.verdict_on(cell, metric)
    if published:
        low, high = (scale * (published.published + sign * published.tolerance) for sign in (-1, 1))
        axes.plot([low, high], [y, y], color=GRID, linewidth=7, solid_capstyle="butt", zorder=1)
        axes.plot(
            scale * published.published, y, "D", color="none", markeredgecolor=OKABE_ITO[1], markersize=5, zorder=4
        )
    mean, std = cell.mean(metric), cell.std(metric)
    if mean is not None:
        if std is not None:
            axes.plot([scale * (mean - std), scale * (mean + std)], [y, y], color=OKABE_ITO[0], linewidth=1.2, zorder=2)
            seeds = [scale * value for value in cell.values(metric)]
            axes.plot(seeds, [y + 0.27] * len(seeds), ".", color=FAINT, markersize=2.5, zorder=2, alpha=0.8)
        axes.plot(scale * mean, y, "o", color=OKABE_ITO[0], markersize=3.5, zorder=3)
    axes.annotate(
        _text(cell, metric), (1, y), (6, 0), ("axes fraction", "data"), textcoords="offset points",
        va="center_baseline", fontsize=7, annotation_clip=False,
    )  # fmt: skip


def _text(cell: Cell, metric: str) -> str:
    mean = cell.mean(metric)
    if mean is None:
        return formats.without_number(cell)
    return formats.number(metric, mean, cell.std(metric)) + formats.mark(cell)


def _explain(figure: Figure, result: SweepResult, metric: str) -> None:
    from matplotlib.lines import Line2D

    blue = OKABE_ITO[0]
    handles = [Line2D([], [], color=blue, marker="o", markersize=3.5, linestyle="", label="ours")]
    if any(cell.std(metric) is not None for cell in result.cells):
        handles = [
            Line2D([], [], color=blue, marker="o", markersize=3.5, linewidth=1.2, label="mean ± std"),
            Line2D([], [], color=FAINT, marker=".", markersize=3, linestyle="", label="seed"),
        ]
    if any(formats.verdict_on(cell, metric) for cell in result.cells):
        look: dict[str, Any] = {"marker": "D", "markersize": 5, "markerfacecolor": "none"}
        handles.append(
            Line2D([], [], color=GRID, linewidth=6, label="published, tolerance", markeredgecolor=OKABE_ITO[1], **look)
        )
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _draw_heatmap(result: SweepResult) -> Figure:
    """First key down, second across; darker is better; the values stand in the cells."""
    metric = formats.shown_metric(result)
    down, across = result.keys
    cells = {(cell.where.get(down, ""), cell.where.get(across, "")): cell for cell in result.cells}
    rows, columns = (formats.distinct(pair[i] for pair in cells) for i in (0, 1))
    shades = _shades({place: cell.mean(metric) for place, cell in cells.items()}, metric_of(metric).lower_is_better)
    widest = max((len(_text(cell, metric)) for cell in result.cells), default=0)
    width = COLUMN if widest * len(columns) <= 50 else PAGE
    short = widest * len(columns) > 110
    figure = new_figure(width, 0.75 + 0.42 * len(rows))
    axes = figure.add_subplot()
    grid = np.array([[shades.get((row, column), np.nan) for column in columns] for row in rows])
    edges = [np.arange(count + 1) - 0.5 for count in (len(columns), len(rows))]
    axes.pcolormesh(
        *edges, np.ma.masked_invalid(grid), cmap="Blues", vmin=0, vmax=1.25, edgecolor="white", linewidth=1.5
    )
    axes.invert_yaxis()
    axes.set_xticks(range(len(columns)), [shorten(column, 14) for column in columns])
    axes.set_yticks(range(len(rows)), [shorten(row, 20) for row in rows])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(formats.key_label([across]))
    axes.set_ylabel(formats.key_label([down]))
    best = formats.best_cells(result, metric)
    published = False
    for (row, column), cell in cells.items():
        place = columns.index(column), rows.index(row)
        published |= _write(axes, place, cell, metric, cell in best, shades.get((row, column), 0) > 0.85, short)
    note = f"{formats.metric_name(metric)}; darker is better" + ("; in brackets: published" if published else "")
    axes.annotate(
        note, (1, 0), (0, -4), "axes fraction", textcoords="offset points",
        ha="right", va="top", fontsize=6.5, color=FAINT,
    )  # fmt: skip
    return figure


def _shades(means: dict[tuple[str, str], float | None], lower: bool) -> dict[tuple[str, str], float]:
    """0 for the worst cell to 1 for the best, by the logarithm of the error: one outlier leaves the rest apart."""
    errors = {place: max(mean if lower else 1 - mean, 1e-6) for place, mean in means.items() if mean is not None}
    logs = {place: np.log(error) for place, error in errors.items()}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    return {
        place: 0.05 + 0.95 * float((high - log) / (high - low)) if high > low else 0.4 for place, log in logs.items()
    }


def _write(axes: Axes, place: tuple[int, int], cell: Cell, metric: str, best: bool, light: bool, short: bool) -> bool:
    """The cell's number, and the published one under it; whether there is such. `short`: without the deviation."""
    published = formats.verdict_on(cell, metric)
    text = _text(cell, metric)
    text = text.partition(" ±")[0] if short else text
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if light else INK}
    axes.text(
        place[0], place[1] - (0.16 if published else 0), text, fontsize=6.5, weight="bold" if best else "normal", **look
    )
    if published:
        axes.text(place[0], place[1] + 0.2, f"({formats.given(metric, published.published)})", fontsize=6, **look)
    return published is not None
