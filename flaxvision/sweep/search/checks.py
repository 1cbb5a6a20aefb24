"""What a search cannot do, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flaxvision.errors import UserError
from flaxvision.sweep.inputs import dataset_of, recipe_of
from flaxvision.sweep.search.rungs import duration_of
from flaxvision.sweep.search.study import check_installed
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.trials import SEARCH_SEEDS, Record, Trial

if TYPE_CHECKING:
    from flaxvision.sweep.files import RunFiles


def check_tables(spec: Spec) -> None:
    """Raise `UserError` for a search beside what it cannot stand with, or without Optuna."""
    if spec.search is None:
        return
    if spec.axes:
        keys = ", ".join(axis.key for axis in spec.axes)
        raise UserError(
            f"both a search and values for each cell of the table ({keys}) are given: the search fills the table, so "
            "give these values in [search.space], KEY = [VALUE, …], or leave out [search]"
        )
    seeds = [*spec.seeds, *(spec.final.seeds if spec.final else ())]
    if max(seeds) >= SEARCH_SEEDS:
        raise UserError(f"seed {max(seeds)} is one of those that a search takes: give seeds below {SEARCH_SEEDS}")
    check_installed()


def check_stages(records: Iterable[Record], files: RunFiles) -> None:
    """Raise `UserError` where a stage that a search's trials start from has failed: all of them would, too."""
    for record in records:
        if record["status"] == "failed":
            raise UserError(
                f"the search has not begun, as the pretraining that its trials start from failed: {record['message']}; "
                f"it is tried again by: flaxvision resume {files.directory}"
            )


def check_trials(spec: Spec, trials: Sequence[Trial], files: RunFiles) -> None:
    """Raise `UserError` for a search that would choose by the test set, or has a rung that no trial comes to."""
    if spec.search is None:
        return
    if any(dataset_of(trial, files).validation is None for trial in trials):
        raise UserError("a search chooses by examples that are held out, and there are none: give validation = 0.2")
    if spec.objective.startswith("test_"):
        instead = spec.objective.replace("test_", "val_")
        raise UserError(
            f"objective is {spec.objective!r}, but a search that chose by the test set would spoil it: give {instead!r}"
        )
    durations = [duration_of(recipe_of(trial, files), len(dataset_of(trial, files).train)) for trial in trials]
    last = max(spec.search.halving, default=0)
    if last > min(durations):
        raise UserError(
            f"halving has {last}, but a trial ends after {min(durations)} epochs: leave it out of halving, or give "
            f"epochs = {last}"
        )
