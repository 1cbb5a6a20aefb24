"""A sweep that is started from Python: a bar in a notebook, that of the command on a terminal, elsewhere nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision._notebook import in_notebook
from flaxvision._text import visible
from flaxvision.sweep.progress import Watcher, watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tqdm.std import tqdm

    from flaxvision.sweep.trials import Record
    from flaxvision.sweep.work import Cohort


class NotebookBar(Watcher):
    """A bar below the cell, with what is to be read at once as lines."""

    bar: tqdm | None = None

    def __enter__(self) -> Watcher:
        """Show the bar."""
        from flaxvision.training.progress import tqdm_class

        self.bar = tqdm_class()(total=1.0, bar_format="{bar} {desc}")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it as it is."""
        if self.bar is not None:
            self.bar.close()

    def open(self, directory: Path) -> None:
        """Say where the run is."""
        super().open(directory)
        self.say(f"run folder: {directory}")

    def stage(self, doing: str) -> None:
        """Say what is done."""
        super().stage(doing)
        self._show(doing)

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        """Show how much there is to do."""
        super().begin(cohorts, objective, kept)
        self.moved()

    def moved(self) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.n = self.status.share
        self._show(self.line(" · "))

    def say(self, line: str) -> None:
        """Write a line."""
        print(visible(line))

    def _show(self, text: str) -> None:
        if self.bar is not None:
            self.bar.set_description_str(visible(text))


def suited() -> Watcher:
    """What shows a sweep of Python's, where somebody sees it."""
    if in_notebook():
        return NotebookBar()
    return watcher() if sys.stderr.isatty() else Watcher()
