"""Curves over epochs as data: which lines stand in which panel, in which colors, on which axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from flaxvision.report import formats, style
from flaxvision.report.style import key_colors
from flaxvision.sweep.results import Cell, Outcome, SweepResult, ranked
from flaxvision.training.metrics import metric_of

LINES = 8  # cells that one panel holds
CELLS = 48  # cells whose curves are shown; of more, the best
BEST = 20
LOG_RANGE = 30  # a loss that spans more than this factor gets a logarithmic axis
OFF = 6  # times the largest loss of the better half of the cells: the axes make no room for one that goes above


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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A cell's curves of one metric."""

    cell: Cell
    label: str  # its values of the keys that tell the lines of a panel apart
    color: str
    curves: dict[str, Curve]  # by split: "train", and "test" or "val"

    def name(self, limits: tuple[float, float]) -> str:
        """Its label, and what became of seeds or values that no axis shows."""
        (_, end), note = list(self.curves.values())[-1].end, ""
        if self.cell.diverged:
            note = (
                "diverged" if self.cell.diverged == self.cell.n else f"{self.cell.diverged} of {self.cell.n} diverged"
            )
        elif end > limits[1]:
            note = "off the scale"
        return f"{self.label} ({note})" if self.label and note else self.label or note


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """The axes that all panels share."""

    last: int  # epochs
    log: bool  # whether losses span so much that a linear axis would hide the small ones
    limits: tuple[float, float]  # of the vertical axis

    @classmethod
    def of(cls, lines: Sequence[Line], loss: bool) -> Scene:
        """Room for the cells that learn and a little more.

        A seed on its way to infinity is cut off, and so is a cell whose loss is far above those of the better half.
        """
        curves = [curve for line in lines for curve in line.curves.values()]
        last = max((len(drawn) for curve in curves for drawn in curve.lines), default=1)
        every = np.concatenate([curve.values for curve in curves])
        means = [np.concatenate([curve.mean for curve in line.curves.values()]) for line in lines]
        tops = sorted(mean.max() for mean in means if len(mean))
        most = OFF * tops[(len(tops) - 1) // 2] if loss and tops else np.inf
        tame = [line for line, mean in zip(lines, means, strict=True) if len(mean) and mean.max() <= most]
        steady = np.concatenate([curve.mean for line in tame for curve in line.curves.values()]) if tame else every
        log = bool(loss and every.min() > 0 and steady.max() > LOG_RANGE * steady.min())
        signs = (1,) if log else (-1, 1)
        bands = [c.mean + sign * c.std for line in tame for c in line.curves.values() for sign in signs]
        steady = np.concatenate([steady, *bands])
        bound = 2 * steady.max() if log else steady.max() + 0.25 * np.ptp(steady)
        low, high = steady.min(), max(steady.max(), min(every.max(), bound))
        if log:
            return cls(last, log, (float(low / 1.2), float(high * 1.2)))
        room = 0.04 * (high - low) or 0.05 * abs(high) or 0.05
        return cls(last, log, (float(low - room), float(high + room)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """All curves of one metric."""

    kind: str  # "loss" or "top1"
    split: str  # beside training: "test", or "val" where nothing was tested
    panels: dict[str, list[Line]]  # by their titles
    across: int  # how many values the last key has that makes panels
    keys: tuple[str, ...]  # that tell the lines of a panel apart
    scene: Scene
    note: str  # which cells are left out; "" for none

    @property
    def label(self) -> str:
        """What the vertical axis shows."""
        return "top-1 accuracy (%)" if self.kind == "top1" else "loss"

    @property
    def lines(self) -> list[Line]:
        """Those of all panels."""
        return [line for lines in self.panels.values() for line in lines]


def plot_of(result: SweepResult, kind: str) -> Plot | None:
    """The curves of "loss" or "top1"; None if no trial has it.

    Keys make panels, the first ones first, until a panel has room for its cells; the others make colors: the first of
    them the hue, the rest the lightness, the same in every panel.
    """
    tested = any(np.isfinite(outcome.history.get(f"test_{kind}", np.nan)).any() for outcome in result.outcomes)
    split, scale = "test" if tested else "val", metric_of(kind).scale
    cells, note = list(result.cells), ""
    if len(cells) > CELLS:
        best = ranked(cells, formats.shown_metric(result))[:BEST]
        note = f"the best {BEST} of {len(cells):,} cells"
        cells = [cell for cell in cells if cell in best]
    panel_keys, titles = _panels(cells, () if note else result.keys)  # which would be of a cell or two each
    keys = tuple(key for key in result.keys if key not in panel_keys)
    labels = [formats.cell_label(cell, keys) for cell in cells]
    shades = key_colors([[cell.where.get(key, "") for key in keys] for cell in cells])
    panels: dict[str, list[Line]] = {}
    for cell, title, label, color in zip(cells, titles, labels, shades, strict=True):
        curves = {name: Curve.of(cell.outcomes, f"{name}_{kind}", scale) for name in ("train", split)}
        panels.setdefault(title, []).append(Line(cell, label, style.INK if cell.stage == "final" else color, curves))
    lines = [line for found in panels.values() for line in found]
    if not any(len(curve.values) for line in lines for curve in line.curves.values()):
        return None
    across = len({cell.where.get(panel_keys[-1], "") for cell in cells}) if panel_keys else 1
    return Plot(kind, split, panels, across, keys, Scene.of(lines, kind == "loss"), note)


def _panels(cells: Sequence[Cell], keys: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The keys whose values make panels, as many as it takes for at most `LINES` cells each; each cell's panel."""
    chosen: Sequence[str] = ()
    titles = [""] * len(cells)
    for count in range(max(1, len(keys))):
        chosen = keys[:count]
        titles = [
            ", ".join(f"{formats.key_label([key])} {cell.where.get(key, '')}" for key in chosen) for cell in cells
        ]
        if max((titles.count(title) for title in titles), default=0) <= LINES:
            break
    return chosen, titles
