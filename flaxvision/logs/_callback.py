"""A callback of `fit` that logs its run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision.logs._logger import About, Opens, Setting, opens

if TYPE_CHECKING:
    from types import TracebackType

    from flaxvision.training.callbacks import Progress


class Log:
    """A callback that logs one run while its `with` block lasts: the metrics of every epoch, as they are known.

    Args:
        tool: "tensorboard", "wandb" or "mlflow", or a function that makes a `Logger` of an `About`.
        name: What the run is called.
        group: What it belongs to.
        settings: Numbers and words that tell runs apart, such as `recipe.given`; others are written as text.
        folder: Where a tool that keeps files keeps them.

    Raises:
        UserError: If there is no such tool, or its package is not installed.

    >>> import flaxvision as fv
    >>> with fv.logs.Log("tensorboard", "first try", settings=recipe.given) as log:  # doctest: +SKIP
    ...     fv.fit(model, data, recipe, callbacks=[log])
    """

    def __init__(
        self,
        tool: str | Opens,
        name: str,
        *,
        group: str = "flaxvision",
        settings: Mapping[str, object] | None = None,
        folder: str | Path = "logs",
    ):
        self.opens = opens(tool)
        plain = plain_settings(settings or {})
        self.about = About(name, uuid.uuid4().hex[:12], group, plain, Path(folder).absolute())
        self.last: dict[str, float] = {}

    def __enter__(self) -> Log:
        self.began = time.monotonic()
        self.logger = self.opens(self.about)
        return self

    def __call__(self, progress: Progress) -> None:
        """Log the metrics of an epoch that ended."""
        for metrics in progress.metrics[:1]:
            self.last = metrics
            self.logger.log(metrics, progress.step, time.monotonic() - self.began)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        status = "ok" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        self.logger.end(status, self.last)


def plain_settings(settings: Mapping[str, object]) -> dict[str, Setting]:
    """Settings as every tool takes them: what is no number, word or flag becomes text."""
    return {key: value if isinstance(value, Setting) else str(value) for key, value in settings.items()}
