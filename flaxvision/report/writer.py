"""Writes a result's files one after the other, what was found first; what fails costs no other file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxvision._files import write_atomically
from flaxvision.report import figures
from flaxvision.report.latex import results_latex
from flaxvision.report.page import report_html
from flaxvision.report.tables import results_csv, results_markdown
from flaxvision.sweep.results import SweepResult

Failed = Callable[[str, Exception], object]  # is told what could not be made, and why


class Writer:
    """Writes results.csv, results.md, results.tex, the figures and, once or again, report.html.

    Args:
        result: What to report.
        failed: Is told of each file that cannot be made.
    """

    def __init__(self, result: SweepResult, failed: Failed):
        self.result, self.failed = result, failed
        self.paths: dict[str, Path] = {}
        self.figures: dict[str, bytes] = {}

    def tables(self) -> None:
        """The numbers first: whatever fails later, they are there."""
        self._write("results.csv", lambda: results_csv(self.result))
        self._write("results.md", lambda: results_markdown(self.result))
        self._write("results.tex", lambda: results_latex(self.result))

    def draw(self) -> None:
        """The figures."""
        try:
            self.figures = figures.figure_files(self.result, self.failed)
        except Exception as error:  # such as no matplotlib
            self.failed("figures", error)
        for name, content in self.figures.items():
            self._write(name, functools.partial(bytes, content))

    def page(self, result: SweepResult, sections: Sequence[tuple[str, str]] = ()) -> None:
        """The page, of a result that may know more by now."""
        self._write("report.html", lambda: report_html(result, self.figures, sections))

    def _write(self, name: str, content: Callable[[], bytes | str]) -> None:
        try:
            self.paths[name] = write_atomically(self.result.directory / name, content())
        except Exception as error:
            self.failed(name, error)
