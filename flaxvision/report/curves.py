"""Loss and accuracy over epochs: a line a cell, a band over its seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.plots import Line, Plot, plot_of
from flaxvision.report.style import CROSS, DASHED, End, explain_lines, label_ends, new_panels, note
from flaxvision.sweep.results import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = 30  # names that one panel holds


def draw_curves(result: SweepResult, kind: str) -> Figure | None:
    """Training dashed, test solid; `kind` is "loss" or "top1"; None if no trial has it."""
    plot = plot_of(result, kind)
    if plot is None:
        return None
    most = max(map(len, plot.panels.values()))
    with style.figure_style():
        height = max(2.3, 0.5 + 0.125 * min(most, LABELS))
        figure, grid = new_panels(len(plot.panels), height, sharex=True, sharey=True)
        if len(grid) > 1 and len(grid) % 2:
            grid[-2].tick_params(labelbottom=True)  # the panel above the gap
        ends = []
        for axes, (title, lines) in zip(grid, plot.panels.items(), strict=True):
            drawn = [_draw_line(axes, line, plot) for line in lines]
            named = np.linspace(0, len(drawn) - 1, min(len(drawn), LABELS)).astype(int)  # as many as have room
            shown = [drawn[i] for i in named] if len(drawn) > 1 or drawn[0].text else []
            ends.append((axes, shown))
            axes.set_title(title, loc="left")
            _set_axes(axes, plot)
        several = any(line.cell.n > 1 for line in plot.lines)
        diverged = any(line.cell.diverged for line in plot.lines)
        explain_lines(figure, plot.split, "train", band=several, cross="diverged" * diverged)
        label_ends(ends, formats.key_label(plot.keys))
        if plot.note:
            note(grid[0], plot.note, (0, 0), (3, 4))
    return figure


def _draw_line(axes: Axes, line: Line, plot: Plot) -> End:
    scene, color = plot.scene, line.color
    for split, curve in line.curves.items():
        look: dict[str, Any] = {"color": color, "linestyle": "-"} | (DASHED if split == "train" else {})
        if scene.last == 1:
            look |= {"marker": "o", "markersize": 4, "markerfacecolor": "white" if split == "train" else color}
        epochs = np.arange(1, len(curve.mean) + 1)
        axes.plot(epochs, curve.mean, **look)
        if curve.std.any():
            low = curve.mean - curve.std
            low = np.where(low > 0, low, curve.mean / 10) if scene.log else low  # a log axis has no room below zero
            axes.fill_between(epochs, low, curve.mean + curve.std, color=color, alpha=0.18, linewidth=0)
        for single in curve.single:
            axes.plot(np.arange(1, len(single) + 1), single, **{**look, "linewidth": 0.6})
            if line.cell.diverged:
                axes.plot(len(single), np.clip(single[-1], *scene.limits), color=color, clip_on=False, **CROSS)
    return End(*line.curves[plot.split].end, line.name(scene.limits), color)


def _set_axes(axes: Axes, plot: Plot) -> None:
    from matplotlib.ticker import MaxNLocator

    scene = plot.scene
    axes.set_xlim((0.5, 1.5) if scene.last == 1 else (1, scene.last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.grid(axis="y")
    if scene.log:
        axes.set_yscale("log")
    axes.set_ylim(scene.limits)
    if scene.log:
        style.plain_logarithmic(axes.yaxis)
    if axes.xaxis.get_tick_params().get("labelbottom", True):  # the lowest panel of its column
        axes.set_xlabel("epoch")
    if axes.yaxis.get_tick_params().get("labelleft", True):
        axes.set_ylabel(plot.label)
