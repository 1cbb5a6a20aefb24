"""A progress bar for `fit`, on a terminal or in a notebook."""

from __future__ import annotations

import math
import sys
import warnings
from typing import TYPE_CHECKING

from flaxvision._notebook import in_notebook

if TYPE_CHECKING:
    from tqdm.std import tqdm

    from flaxvision.training.callbacks import Progress


class ProgressBar:
    """A callback that draws one line while its `with` block runs: updates, time left, the last epoch's numbers.

    Args:
        name: What stands before the bar.
        shown: Whether it is drawn; None: on a terminal and in a notebook.

    >>> from flaxvision.training import ProgressBar
    >>> with ProgressBar("mnist") as bar:  # doctest: +SKIP
    ...     fv.fit(model, dataset, recipe, progress=False, callbacks=[bar])
    """

    def __init__(self, name: str = "training", shown: bool | None = None):
        self.name = name
        self.shown = in_notebook() or sys.stderr.isatty() if shown is None else shown
        self.bar: tqdm | None = None

    def __enter__(self) -> ProgressBar:
        if self.shown:
            self.bar = tqdm_class()(desc=self.name, unit="update", dynamic_ncols=True)
            self.bar.set_postfix_str("compiling")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, progress: Progress) -> None:
        """Move the bar to `progress`."""
        bar = self.bar
        if bar is None:
            return
        if bar.total != progress.steps:
            bar.reset(progress.steps)
            bar.initial = bar.n = 0 if progress.examples else progress.step  # a resumed run begins somewhere
        bar.update(progress.step - bar.n)
        if progress.metrics:
            finite = [{name: x for name, x in each.items() if math.isfinite(x)} for each in progress.metrics]
            best = max(finite, key=lambda metrics: metrics.get("test_top1", -math.inf))
            bar.set_postfix_str(f"epoch {progress.epoch}: {', '.join(f'{name} {x:.3f}' for name, x in best.items())}")


def tqdm_class() -> type[tqdm]:
    """tqdm's class for where this runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets has a bar of letters, which will do
        from tqdm.auto import tqdm
    return tqdm
