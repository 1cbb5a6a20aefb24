"""A sweep's result as tables, figures and one HTML page, and the look of all figures for those of your own.

Importing it is quick: matplotlib, jinja2 and rich are imported when first used.

>>> from flaxvision.report import COLUMN, figure_style, new_figure
>>> with figure_style():
...     axes = new_figure(COLUMN, 2).subplots()
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flaxvision.report.confusion import draw_matrix, most_confused
from flaxvision.report.figures import draw_figures, figure_files
from flaxvision.report.labels import End, label_ends
from flaxvision.report.latex import results_latex
from flaxvision.report.page import report_html
from flaxvision.report.style import (
    COLUMN,
    DASHED,
    FAINT,
    GRID,
    INK,
    OKABE_ITO,
    PAGE,
    colors,
    encode,
    explain_lines,
    new_figure,
    new_panels,
    plain_logarithmic,
)
from flaxvision.report.style import style as figure_style
from flaxvision.report.tables import markdown_table, results_csv, results_markdown
from flaxvision.report.terminal import terminal_table
from flaxvision.report.writer import Writer
from flaxvision.sweep.results import SweepResult

__all__ = [
    "COLUMN",
    "DASHED",
    "FAINT",
    "GRID",
    "INK",
    "OKABE_ITO",
    "PAGE",
    "End",
    "colors",
    "draw_figures",
    "draw_matrix",
    "encode",
    "explain_lines",
    "figure_files",
    "figure_style",
    "label_ends",
    "markdown_table",
    "most_confused",
    "new_figure",
    "new_panels",
    "plain_logarithmic",
    "report_html",
    "results_csv",
    "results_latex",
    "results_markdown",
    "terminal_table",
    "write_report",
]


def write_report(result: SweepResult, *, extra_sections: Sequence[tuple[str, str]] = ()) -> list[Path]:
    """Write results.csv, results.md, results.tex, the figures and report.html into the result's directory.

    The same result gives the same bytes. `extra_sections` are more sections of the page, as in `report_html`. What
    cannot be made leaves the other files as they are; the first such error is raised when they are written.

    Raises:
        UserError: If the directory is missing or cannot be written.
    """
    errors: list[Exception] = []
    writer = Writer(result, lambda _, error: errors.append(error))
    writer.tables()
    writer.draw()
    writer.page(result, extra_sections)
    if errors:
        raise errors[0]
    return list(writer.paths.values())
