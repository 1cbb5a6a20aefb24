"""Runs a cohort so that a trial which fails costs no other one: its record says why."""

from __future__ import annotations

import dataclasses
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision.errors import UserError

if TYPE_CHECKING:
    from flaxvision.sweep.trials import Record, Trial
    from flaxvision.sweep.work import Cohort
    from flaxvision.training.callbacks import Callback

LONGEST = 400  # characters of a message
_PACKAGES = (Path(__file__).parents[1], Path(__file__).parents[2] / "export")
_OURS = (*map(str, _PACKAGES), *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}, "<")


def attempt(cohort: Cohort, callbacks: Iterable[Callback] = ()) -> list[Record]:
    """The records of a cohort's trials, also of those that fail; of a cohort that fails each trial is tried alone.

    Only an `Exception` is a trial's own: an interrupt ends the sweep.
    """
    callbacks = tuple(callbacks)
    if cohort.starts_pretrained and not cohort.files.pretrained.exists():
        return [failure(trial, "not trained, as the pretraining that it starts from failed") for trial in cohort.trials]
    try:
        return cohort.run(callbacks)
    except Exception as error:
        if len(cohort.trials) == 1:
            trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            return [failure(cohort.trials[0], reason(error), trace)]
    return [record for single in singly(cohort) for record in attempt(single, callbacks)]


def singly(cohort: Cohort) -> list[Cohort]:
    """A cohort of each trial."""
    return [dataclasses.replace(cohort, trials=(trial,)) for trial in cohort.trials]


def failure(trial: Trial, message: str, trace: str = "") -> Record:
    """The record of a trial that could not be trained; it is tried again when the run is resumed."""
    record: Record = {**trial.about, "status": "failed", "message": message}
    if trace:
        record["traceback"] = trace
    return {**record, "config": trial.as_json()}


def reason(error: BaseException) -> str:
    """What went wrong, in one line: the kind of error, its message, and the place in code of the user's own.

    >>> reason(MemoryError()), reason(KeyError("width"))
    ('out of memory: a smaller batch_size, network or data set needs less', "KeyError: 'width'")
    """
    text = " ".join(str(error).split())
    if len(text) > LONGEST:
        text = f"{text[:LONGEST].rstrip()}…"
    if out_of_memory(error):
        said = f" ({text})" if text else ""
        return f"out of memory{said}: a smaller batch_size, network or data set needs less"
    if isinstance(error, UserError):
        return text
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(_OURS):
            where = f" ({Path(frame.filename).name}, line {frame.lineno})"
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is one of memory: Python's, NumPy's or XLA's."""
    while error is not None:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
