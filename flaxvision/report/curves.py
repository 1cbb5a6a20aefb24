"""Loss and accuracy over epochs: a line a cell, a band over its seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.style import CROSS, DASHED, End, colors, explain_lines, label_ends, new_panels
from flaxvision.sweep.results import Cell, Outcome, SweepResult
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 8  # cells that one panel holds
LABELS = 30  # names that one panel holds
LOG_RANGE = 30  # a loss that spans more than this factor gets a logarithmic axis


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One cell's values of one metric; row by row the epochs, from 1."""

    mean: np.ndarray  # over the seeds that did not diverge, as far as all of them went
    std: np.ndarray  # their sample standard deviation; zeros for one seed
    single: tuple[np.ndarray, ...]  # drawn by themselves: seeds that diverged, or the epochs beyond the shortest seed

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], name: str, scale: float = 1.0) -> Curve:
        """The curve of one history array, times `scale`."""
        found = [(o.status, scale * _finite_start(o.history[name])) for o in outcomes if name in o.history]
        steady = [values for status, values in found if status != "diverged" and len(values)]
        single = [values for status, values in found if status == "diverged" and len(values)]
        if not steady:
            return cls(np.empty(0), np.empty(0), tuple(single))
        length = min(len(values) for values in steady)
        rows = np.stack([values[:length] for values in steady])
        std = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(length)
        for values in steady:
            if len(values) > length:
                single.append(np.concatenate([np.full(length - 1, np.nan), values[length - 1 :]]))
        return cls(rows.mean(axis=0), std, tuple(single))

    @property
    def lines(self) -> list[np.ndarray]:
        """What is drawn, the mean first."""
        return [line for line in (self.mean, *self.single) if len(line)]

    @property
    def end(self) -> tuple[float, float]:
        """The last epoch and value, of the mean if there is one."""
        return (len(self.lines[0]), float(self.lines[0][-1])) if self.lines else (np.nan, np.nan)

    @property
    def values(self) -> np.ndarray:
        """Every value that is drawn."""
        drawn = np.concatenate([self.mean, *self.single])
        return drawn[np.isfinite(drawn)]


def _finite_start(values: np.ndarray) -> np.ndarray:
    """The epochs before the first value that is not finite."""
    values = np.asarray(values, float)
    return values[np.logical_and.accumulate(np.isfinite(values))]


@dataclasses.dataclass(frozen=True, slots=True)
class _Scene:
    """What all panels of a figure share."""

    last: int  # epochs
    log: bool  # whether losses span so much that a linear axis would hide the small ones
    limits: tuple[float, float]  # of the vertical axis

    @classmethod
    def of(cls, curves: Sequence[Curve], may_log: bool) -> _Scene:
        """Room for the cells that learn and a little more; a seed on its way to infinity is cut off."""
        last = max((len(line) for curve in curves for line in curve.lines), default=1)
        every = np.concatenate([curve.values for curve in curves])
        steady = np.concatenate([curve.mean for curve in curves])
        steady = steady if len(steady) else every
        log = bool(may_log and every.min() > 0 and steady.max() > LOG_RANGE * steady.min())
        bands = [curve.mean + sign * curve.std for curve in curves for sign in ((1,) if log else (-1, 1))]
        steady = np.concatenate([steady, *bands])
        bound = steady.max() * 10 if log else steady.max() + 0.5 * np.ptp(steady)
        low, high = min(steady.min(), every.min()), max(steady.max(), min(every.max(), bound))
        if log:
            return cls(last, log, (low / 1.2, high * 1.2))
        room = 0.04 * (high - low) or 0.05 * abs(high) or 0.05
        return cls(last, log, (low - room, high + room))


def draw_curves(result: SweepResult, kind: str) -> Figure | None:
    """Training dashed, test solid; `kind` is "loss" or "top1"; None if no trial has it."""
    tested = any(np.isfinite(outcome.history.get(f"test_{kind}", np.nan)).any() for outcome in result.outcomes)
    split, scale = "test" if tested else "val", metric_of(kind).scale
    curves = [{s: Curve.of(cell.outcomes, f"{s}_{kind}", scale) for s in ("train", split)} for cell in result.cells]
    every = [curve for pair in curves for curve in pair.values()]
    if not any(len(curve.values) for curve in every):
        return None
    panel_keys, panels = _panels(result)
    line_keys = [key for key in result.keys if key not in panel_keys]
    lines = max(map(len, panels.values()))
    with style.figure_style():
        figure, grid = new_panels(len(panels), max(2.3, 0.5 + 0.125 * min(lines, LABELS)), sharex=True, sharey=True)
        if len(grid) > 1 and len(grid) % 2:
            grid[-2].tick_params(labelbottom=True)  # the panel above the gap
        scene = _Scene.of(every, may_log=kind == "loss")
        ends = []
        for axes, (title, indices) in zip(grid, panels.items(), strict=True):
            names = [formats.cell_label(result.cells[i], line_keys) for i in indices]
            drawn = [
                _draw_cell(axes, curves[i], result.cells[i], name, color, scene)
                for i, name, color in zip(indices, names, colors(names), strict=True)
            ]
            named = np.linspace(0, len(drawn) - 1, min(len(drawn), LABELS)).astype(int)  # as many as have room
            ends.append((axes, [drawn[i] for i in named] if any(names) or len(names) > 1 else []))
            axes.set_title(title, loc="left")
            _set_axes(axes, kind, scene)
        several, diverged = any(cell.n > 1 for cell in result.cells), any(cell.diverged for cell in result.cells)
        explain_lines(figure, split, "train", band=several, cross="diverged" * diverged)
        label_ends(ends, formats.key_label(line_keys))
    return figure


def _panels(result: SweepResult) -> tuple[Sequence[str], dict[str, list[int]]]:
    """Panels by the first keys, as many as it takes for at most `LINES` cells each: their titles and cells."""
    for count in range(max(1, len(result.keys))):
        keys = result.keys[:count]
        panels: dict[str, list[int]] = {}
        for i, cell in enumerate(result.cells):
            title = ", ".join(f"{formats.key_label([key])} {cell.where.get(key, '')}" for key in keys)
            panels.setdefault(title, []).append(i)
        if max(map(len, panels.values()), default=0) <= LINES:
            break
    return keys, panels


def _draw_cell(axes: Axes, pair: dict[str, Curve], cell: Cell, name: str, color: str, scene: _Scene) -> End:
    for split, curve in pair.items():
        look: dict[str, Any] = {"color": color, "linestyle": "-"} | (DASHED if split == "train" else {})
        if scene.last == 1:
            look |= {"marker": "o", "markersize": 4, "markerfacecolor": "white" if split == "train" else color}
        epochs = np.arange(1, len(curve.mean) + 1)
        axes.plot(epochs, curve.mean, **look)
        if curve.std.any():
            low = curve.mean - curve.std
            low = np.where(low > 0, low, curve.mean / 10) if scene.log else low  # a log axis has no room below zero
            axes.fill_between(epochs, low, curve.mean + curve.std, color=color, alpha=0.18, linewidth=0)
        for line in curve.single:
            axes.plot(np.arange(1, len(line) + 1), line, **{**look, "linewidth": 0.6})
            if cell.diverged:
                axes.plot(len(line), min(line[-1], scene.limits[1]), color=color, clip_on=False, **CROSS)
    shown = list(pair.values())[-1]
    if cell.diverged:
        note = "diverged" if cell.diverged == cell.n else f"{cell.diverged} of {cell.n} diverged"
        name = f"{name} ({note})" if name else note
    return End(*shown.end, name, color)


def _set_axes(axes: Axes, kind: str, scene: _Scene) -> None:
    from matplotlib.ticker import MaxNLocator

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
        axes.set_ylabel("top-1 accuracy (%)" if kind == "top1" else "loss")
