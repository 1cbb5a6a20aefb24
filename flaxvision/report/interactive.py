"""The curves as JSON, for the charts that the page draws itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from flaxvision.report.plots import Curve, Line, Plot, plot_of
from flaxvision.sweep.results import SweepResult
from flaxvision.training.metrics import metric_of

_DIGITS = 5  # that a number keeps


def plots_json(result: SweepResult) -> tuple[str, tuple[str, ...]]:
    """The charts' data as JSON that can stand in a page, and the kinds of charts that there are."""
    plots = [plot for kind in ("loss", "top1") if (plot := plot_of(result, kind)) is not None]
    text = json.dumps([_plot(plot) for plot in plots], separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c"), tuple(plot.kind for plot in plots)  # so that no name ends the script


def _plot(plot: Plot) -> dict[str, Any]:
    scene = plot.scene
    return {
        "kind": plot.kind,
        "label": f"{plot.label}; {plot.note}" if plot.note else plot.label,
        "split": plot.split,
        "percent": metric_of(plot.kind).percent,
        "across": plot.across,
        "last": scene.last,
        "log": scene.log,
        "limits": _rounded(np.array(scene.limits)),
        "panels": [
            {"title": title, "lines": [_line(line, plot) for line in lines]} for title, lines in plot.panels.items()
        ],
    }


def _line(line: Line, plot: Plot) -> dict[str, Any]:
    shown, train = line.curves[plot.split], line.curves["train"]
    return {
        "name": line.name(plot.scene.limits),
        "color": line.color,
        "shown": _rounded(shown.mean),
        "std": _rounded(shown.std),
        "train": _rounded(train.mean),
        "single": [_rounded(values) for curve in (shown, train) for values in _apart(curve)],
    }


def _apart(curve: Curve) -> list[np.ndarray]:
    return [values for values in curve.single if len(values)]


def _rounded(values: np.ndarray) -> list[float | None]:
    """Numbers with few digits; null for what is not finite."""
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in values.tolist()]
