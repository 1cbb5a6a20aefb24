"""All figures of a result, and their files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from flaxvision.report.confusion import draw_confusion
from flaxvision.report.curves import draw_curves
from flaxvision.report.fonts import fonts_for
from flaxvision.report.over_keys import draw_over_keys
from flaxvision.report.overview import draw_overview
from flaxvision.report.search import draw_search, draw_space
from flaxvision.report.style import encode
from flaxvision.sweep.results import SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawings(result: SweepResult) -> dict[str, Callable[[], Figure | None]]:
    """What draws each figure, by the names of their files; some results have no data for one."""
    functions: dict[str, Callable[[SweepResult], Figure | None]] = {
        "table": draw_overview,
        "keys": draw_over_keys,
        "loss": lambda drawn: draw_curves(drawn, "loss"),
        "accuracy": lambda drawn: draw_curves(drawn, "top1"),
        "confusion": draw_confusion,
        "search": draw_search,
        "space": draw_space,
    }

    def draw(name: str) -> Figure | None:
        with fonts_for(result) as drawn:
            return functions[name](drawn)

    return {name: functools.partial(draw, name) for name in functions}


def draw_figures(result: SweepResult) -> dict[str, Figure]:
    """The figures by their files' names, as many as the result has data for."""
    return {name: figure for name, draw in drawings(result).items() if (figure := draw()) is not None}


def figure_files(result: SweepResult, failed: Callable[[str, Exception], object] | None = None) -> dict[str, bytes]:
    """File name -> content: every figure as PNG and as SVG.

    Args:
        result: What to draw.
        failed: Is told of each figure that cannot be drawn, and why; None: the first error is raised.
    """
    files: dict[str, bytes] = {}
    for name, draw in drawings(result).items():
        try:
            if (figure := draw()) is not None:
                files |= {f"{name}.{kind}": encode(figure, kind) for kind in ("png", "svg")}
        except Exception as error:
            if failed is None:
                raise
            failed(f"figure {name}", error)
    return files
