"""The table as a picture: heat maps for two keys or three, else dots with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.style import COLUMN, FAINT, GRID, INK, OKABE_ITO, PAGE, new_figure, note, shorten
from flaxvision.sweep._differences import Differences, differences
from flaxvision.sweep.results import Cell, SweepResult, ranked
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_RANGE = 20  # losses that span more than this factor get a logarithmic axis
BLUE, ORANGE = OKABE_ITO[:2]
PANELS, ROWS, ACROSS = 6, 16, 10  # heat maps of a figure, and rows and columns of each
DOTS, BEST = 40, 20  # cells of one key, and of several, that are drawn as dots; of more the best


def draw_overview(result: SweepResult) -> Figure:
    """The objective of every cell, with the published numbers and the marks of those as good as the best."""
    metric = formats.shown_metric(result)
    found = differences(result.cells, metric)
    maps = None if any(cell.stage == "final" for cell in result.cells) else _maps(result)
    with style.figure_style():
        return _draw_dots(result, found) if maps is None else _draw_maps(result, found, maps)


def leaves_out(result: SweepResult) -> bool:
    """Whether the figure of the table shows the best cells only."""
    return _maps(result) is None and len(_worth_a_row(result)) > _room(result)


def _worth_a_row(result: SweepResult) -> list[Cell]:
    metric = formats.shown_metric(result)
    cells = [cell for cell in result.cells if cell.values(metric) or cell.diverged or cell.failed]
    return cells or list(result.cells)


def _room(result: SweepResult) -> int:
    return DOTS if len(result.keys) < 2 else BEST


def _draw_dots(result: SweepResult, found: Differences) -> Figure:
    """Top to bottom in the order of the spec: seeds, mean, deviation; published number and its tolerance."""
    from matplotlib.ticker import MaxNLocator

    metric, cells = found.metric, _worth_a_row(result)
    left_out = ""
    if len(cells) > _room(result):
        left_out, cells = f"the best {BEST} of {len(cells):,} cells", ranked(cells, metric)[:BEST]
    names = [shorten(formats.cell_label(cell, result.keys), 40) for cell in cells]
    figure = new_figure(PAGE if max(map(len, names)) > 16 else COLUMN, 0.85 + 0.19 * len(names))
    axes = figure.add_subplot()
    for y, cell in enumerate(cells):
        _draw_cell(axes, y, cell, found)
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
    marks = [left_out] * bool(left_out) + [_TIED] * any(map(found.tied, cells))
    if marks:
        note(axes, "; ".join(marks), (1, 0), (0, -31), ha="right", va="top")
    _explain(figure, cells, metric)
    return figure


_TIED = f"{formats.TIED} not distinguishable from the best"


def _draw_cell(axes: Axes, y: int, cell: Cell, found: Differences) -> None:
    metric = found.metric
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
    note(axes, _text(cell, found), (1, y), (6, 0), fontsize=7, color=INK, **place)


def _text(cell: Cell, found: Differences) -> str:
    scored = cell.mean(found.metric) is not None
    return formats.score(cell, found.metric) + formats.mark(cell) * scored + f" {formats.TIED}" * found.tied(cell)


def _explain(figure: Figure, cells: list[Cell], metric: str) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 3.5}
    handles = [Line2D([], [], linestyle="", label="ours", **dot)]
    if any(cell.std(metric) is not None for cell in cells):
        seed = Line2D([], [], color=FAINT, marker=".", markersize=3, linestyle="", label="seed")
        handles = [Line2D([], [], linewidth=1.2, label="mean ± std", **dot), seed]
    if any(formats.verdict_on(cell, metric) for cell in cells):
        diamond: dict[str, Any] = {"marker": "D", "markersize": 5, "markerfacecolor": "none", "markeredgecolor": ORANGE}
        handles.append(Line2D([], [], color=GRID, linewidth=6, label="published, tolerance", **diamond))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _maps(result: SweepResult) -> dict[str, list[Cell]] | None:
    """The cells of each heat map by its title; None where two keys or three do not make readable ones."""
    if len(result.keys) not in (2, 3):
        return None
    *panel_keys, down, across = result.keys
    found: dict[str, list[Cell]] = {}
    for cell in result.cells:
        title = "".join(f"{formats.key_label([key])} {cell.where.get(key, '')}" for key in panel_keys)
        found.setdefault(title, []).append(cell)
    sides = [{cell.where.get(key, "") for cell in result.cells} for key in (down, across)]
    return found if len(found) <= PANELS and len(sides[0]) <= ROWS and len(sides[1]) <= ACROSS else None


def _draw_maps(result: SweepResult, found: Differences, maps: dict[str, list[Cell]]) -> Figure:
    """Of the last two keys the first down, the second across; the values stand in the cells."""
    metric, keys = found.metric, result.keys[-2:]
    rows, columns, _ = formats.two_way(result.cells, keys)
    shades = _shades({cell: cell.mean(metric) for cell in result.cells}, metric_of(metric).lower_is_better)
    widest = len(columns) * max((len(_text(cell, found)) for cell in result.cells), default=0)
    beside = 1 if len(maps) == 1 or widest > 58 else 2
    width = COLUMN if len(maps) == 1 and widest <= 58 else PAGE
    lines = -(-len(maps) // beside)
    figure = new_figure(width, 0.3 + lines * (0.45 + 0.42 * len(rows)) + 0.2 * (len(maps) > 1) * lines)
    grid = figure.subplots(lines, beside, squeeze=False).ravel()
    for axes in grid[len(maps) :]:
        axes.remove()
    for axes, (title, cells) in zip(grid, maps.items(), strict=False):
        edges = [np.arange(count + 1) - 0.5 for count in (len(columns), len(rows))]
        placed = formats.two_way(cells, keys)[2]
        values = [
            [shades.get(placed[row, column], np.nan) if (row, column) in placed else np.nan for column in columns]
            for row in rows
        ]
        axes.pcolormesh(
            *edges, np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1.25, edgecolor="white", linewidth=1.5
        )
        axes.invert_yaxis()
        axes.set_xticks(range(len(columns)), [shorten(column, 14) for column in columns])
        axes.set_yticks(range(len(rows)), [shorten(row, 20) for row in rows])
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(formats.key_label(keys[:1]))
        axes.set_xlabel(formats.key_label(keys[1:]))
        if title:
            axes.set_title(title, loc="left", fontweight="bold")
        for (row, column), cell in placed.items():
            _write(axes, columns.index(column), rows.index(row), cell, result, found, shades.get(cell, 0), widest > 110)
    brackets = "; in brackets: published" * any(formats.verdict_on(cell, metric) for cell in result.cells)
    tied = f"\n{_TIED}" * any(map(found.tied, result.cells))
    said = f"{formats.metric_name(metric)}; stronger is better{brackets}{tied}"
    note(grid[len(maps) - 1], said, (1, 0), (0, -4), ha="right", va="top")
    return figure


def _write(
    axes: Axes, x: int, y: int, cell: Cell, result: SweepResult, found: Differences, shade: float, short: bool
) -> None:
    """A cell's value, and below it what was published."""
    published = formats.verdict_on(cell, found.metric)
    text = _text(cell, found)
    if short:
        text = text.partition(" ±")[0] + f" {formats.TIED}" * found.tied(cell)
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if shade > 0.85 else INK}
    weight = "bold" if cell in formats.best_cells(result, found.metric) else "normal"
    axes.text(x, y - (0.16 if published else 0), text, fontsize=6.5, weight=weight, **look)
    if published:
        axes.text(x, y + 0.2, f"({formats.given(found.metric, published.published)})", fontsize=6, **look)


def _shades(means: dict[Cell, float | None], lower: bool) -> dict[Cell, float]:
    """0 for the worst cell to 1 for the best, by the logarithm of the error: one outlier leaves the rest apart."""
    errors = {cell: max(mean if lower else 1 - mean, 1e-6) for cell, mean in means.items() if mean is not None}
    logs = {cell: np.log(error) for cell, error in errors.items()}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    return {cell: 0.05 + 0.95 * float((high - log) / (high - low)) if high > low else 0.4 for cell, log in logs.items()}
