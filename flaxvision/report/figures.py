"""All figures of a result, and their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxvision.report.confusion import draw_confusion
from flaxvision.report.curves import draw_curves
from flaxvision.report.overview import draw_overview
from flaxvision.report.style import encode
from flaxvision.sweep.results import SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(result: SweepResult) -> dict[str, Figure]:
    """The figures by their files' names, as many as the result has data for."""
    figures = {
        "table": draw_overview(result),
        "loss": draw_curves(result, "loss"),
        "accuracy": draw_curves(result, "top1"),
        "confusion": draw_confusion(result),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def figure_files(result: SweepResult) -> dict[str, bytes]:
    """File name -> content: every figure as PNG and as SVG."""
    return {
        f"{name}.{kind}": encode(figure, kind)
        for name, figure in draw_figures(result).items()
        for kind in ("png", "svg")
    }
