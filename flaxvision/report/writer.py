"""Writes a result's files one after the other, what was found first; what fails costs no other file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._files import write_atomically
from flaxvision._interrupts import stop_if_asked
from flaxvision.report import figures
from flaxvision.report.page import report_html
from flaxvision.report.tables import results_csv, results_latex, results_markdown
from flaxvision.sweep.results import SweepResult

if TYPE_CHECKING:
    from flaxvision.report.winner import Insight

Failed = Callable[[str, Exception], object]  # is told what could not be made, and why


class Writer:
    """Writes results.csv, results.md, results.tex and the figures and then, once or again, report.html."""

    def __init__(self, result: SweepResult, failed: Failed):
        self.directory, self.failed = result.directory, failed
        self.paths: list[Path] = []
        self.figures: dict[str, bytes] = {}
        # The numbers first: whatever fails later, they are there.
        self._write("results.csv", lambda: results_csv(result))
        self._write("results.md", lambda: results_markdown(result))
        self._write("results.tex", lambda: results_latex(result))
        try:
            self.figures = figures.figure_files(result, failed)
        except Exception as error:  # such as no matplotlib
            failed("figures", error)
        for name, content in self.figures.items():
            self._write(name, functools.partial(bytes, content))

    def page(
        self, result: SweepResult, sections: Sequence[tuple[str, str]] = (), *, insight: Insight | None = None
    ) -> None:
        """Write the page, of a result that may know more by now."""
        self._write("report.html", lambda: report_html(result, self.figures, sections, insight=insight))

    def _write(self, name: str, content: Callable[[], bytes | str]) -> None:
        stop_if_asked()
        try:
            self.paths.append(write_atomically(self.directory / name, content()))
        except Exception as error:
            self.failed(name, error)


def write_report(result: SweepResult, *, extra_sections: Sequence[tuple[str, str]] = ()) -> list[Path]:
    """Write results.csv, results.md, results.tex, the figures and report.html into the result's directory.

    The same result gives the same bytes. `extra_sections` are more sections of the page, as in `report_html`. What
    cannot be made leaves the other files as they are; the first such error is raised when they are written.

    Raises:
        UserError: If the directory is missing or cannot be written.
    """
    errors: list[Exception] = []
    writer = Writer(result, lambda _, error: errors.append(error))
    writer.page(result, extra_sections)
    if errors:
        raise errors[0]
    return writer.paths
