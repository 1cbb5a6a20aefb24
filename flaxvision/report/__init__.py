"""A sweep's result as tables, figures and one HTML page, and the look of all figures for those of your own.

Importing it is quick: matplotlib, jinja2 and rich are imported when first used.

>>> from flaxvision.report import COLUMN, figure_style, new_figure
>>> with figure_style():
...     axes = new_figure(COLUMN, 2).subplots()
"""

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
from flaxvision.report.writer import write_report

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
