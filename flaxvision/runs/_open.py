"""One run directory, as plain data."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision.errors import UserError, unknown
from flaxvision.identity import Identity
from flaxvision.sweep import store
from flaxvision.sweep.about import About, read_about
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.lock import HOLDER
from flaxvision.sweep.parts import files_of_parts
from flaxvision.sweep.records import TRIALS
from flaxvision.sweep.results import Cell, Outcome, Searched, SweepResult, best_cell, cells_of, winner_of
from flaxvision.sweep.search.found import finalists, next_batch, search_of_run
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.spec_file import damage_of
from flaxvision.sweep.trials import Trial, expand, pretraining

if TYPE_CHECKING:
    import pandas as pd

    from flaxvision.layers import Network

RUNNING, COMPLETE, ENDED = "running", "complete", "ended early"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run: what was to be trained, and what there is of it."""

    directory: Path
    spec: Spec
    result: SweepResult  # of the trials that there are; their histories are read when they are looked at
    expected: int  # how many trials the whole table has
    state: str  # "running", "complete" or "ended early"
    ended: datetime.datetime  # when its newest trial ended, or else it began
    notes: tuple[str, ...] = ()  # what is damaged in it
    identity: Identity = dataclasses.field(default_factory=dict)  # what its trials rest on, by content

    def __repr__(self) -> str:
        trials = f"{len(self.trials)} of {self.expected} trials"
        return f"Run({self.name!r}: {self.state}, {trials}, {self.result.best_in_words})"

    def _repr_html_(self) -> str:
        return self.result._repr_html_()

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.directory.resolve().name

    @property
    def table(self) -> tuple[Cell, ...]:
        """The cells of the table, in the order of the spec; the final stage's last."""
        return self.result.cells

    @property
    def trials(self) -> tuple[Outcome, ...]:
        """The trials that ended, in the order of the cells."""
        return self.result.outcomes

    @property
    def histories(self) -> dict[str, Mapping]:
        """The arrays of every trial by its id: metric -> one value an epoch, see `flaxvision.training.History`."""
        return {trial.id: trial.history for trial in self.trials if trial.status != "failed"}

    @property
    def winner(self) -> Outcome | None:
        """The winner, of what there is so far; None where no trial was sound."""
        return self.result.winner

    @property
    def search(self) -> Searched | None:
        """What its search has tried so far, such as `run.search.to_frame()`; None of a sweep without one."""
        return self.result.search

    @property
    def size(self) -> int:
        """What it takes on disk, in bytes."""
        total = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a running sweep replaces and deletes some
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    @property
    def data(self) -> str:
        """The data sets that it was trained on, by name."""
        varied = [point.settings.get("dataset") for point in self.spec.points]
        return ", ".join(dict.fromkeys(map(str, filter(None, (*varied, self.spec.base.get("dataset"))))))

    def load_model(self, trial: str | None = None) -> Network:
        """The network of a trial, with the weights that it ended with.

        Args:
            trial: Its id, or the beginning of it; None for the winner, of what there is so far.

        Raises:
            UserError: If there is no such trial, several begin so, or it failed; or if there is no winner.
        """
        from flaxvision.models import load_model

        if trial is None and self.state == COMPLETE:
            return load_model(self.directory)
        found = self.winner if trial is None else self._trial(trial)
        if found is None:
            raise UserError(f"{self.directory} has no winner: none of its trials is sound so far")
        return load_model(RunFiles(self.directory).weights(found.id))

    def _trial(self, beginning: str) -> Outcome:
        ended = [each for each in self.trials if each.status != "failed"]
        found = [each for each in ended if each.id.startswith(beginning)]
        if len(found) == 1:
            return found[0]
        ids = ", ".join(each.id for each in found or ended) or "(none)"
        if found:
            raise UserError(f"trial {beginning!r} matches {len(found)} trials of this run: give one of {ids}")
        if failed := next((each for each in self.trials if each.id.startswith(beginning)), None):
            raise UserError(f"trial {failed.id} failed and left no weights ({failed.message}): give one of {ids}")
        raise unknown("trial", beginning, (each.id for each in ended))

    def to_frame(self) -> pd.DataFrame:
        """The table as a pandas data frame, see `SweepResult.to_frame`."""
        return self.result.to_frame()

    def trials_frame(self) -> pd.DataFrame:
        """The trials as a pandas data frame, see `SweepResult.trials_frame`."""
        return self.result.trials_frame()

    def epochs_frame(self) -> pd.DataFrame:
        """The histories as a pandas data frame, see `SweepResult.epochs_frame`."""
        return self.result.epochs_frame()


def open(directory: str | Path) -> Run:
    """A run, read without its data set or the code of its network; it may still be running, or have ended early.

    Args:
        directory: The run directory.

    Returns:
        The run: its `table`, `trials`, `histories`, `winner`, and pandas data frames of them.

    Raises:
        UserError: If `directory` is no run directory, or its spec cannot be read.
    """
    directory = Path(directory)
    spec, log = store.read_run(directory)
    files, about, damage = RunFiles(directory), About(), damage_of(directory)
    notes = [damage, *log.notes] if damage else log.notes
    try:
        about = read_about(files.about)
    except UserError as error:
        notes.append(str(error))
    outcomes: dict[str, Outcome] = {}
    identity: Identity = {}
    for record in log.records:
        try:
            outcomes[record["id"]] = store.outcome_of(record, files, lazily=True)
            identity |= record.get("identity", {})
        except UserError as error:
            notes.append(f"trial {record['id']} is passed over: {error}")
    search = search_of_run(spec, directory)
    planned = expand(spec) if search is None else finalists(spec, search)
    there: list[Trial | Outcome] = [trial for trial in planned if trial.id in outcomes]
    cells = cells_of(spec, there, outcomes)
    if spec.final is not None and (
        best := best_cell(cells, spec.objective)
    ):  # an earlier winner may have had some, too
        finals = [each for each in outcomes.values() if each.stage == "final" and dict(each.cell) == best.where]
        there += finals
        cells += cells_of(spec, finals, outcomes)
    over = spec.search is None or search is None or not next_batch(spec.search, search.trials)
    expected = len(planned) if over or not spec.search else spec.search.finalists * len(spec.seeds)
    expected += len(spec.final.seeds) if spec.final else 0
    before = [stage for stage in pretraining(spec, planned) if stage.id not in outcomes]
    whole = len(there) >= expected and not before and over
    winner = outcomes.get(about.winner) if whole else None
    result = SweepResult.of(
        spec,
        cells,
        winner=winner or winner_of(cells, spec.objective),
        classes=about.classes or _classes(files, outcomes),
        provenance=about.provenance,
        directory=directory,
        problems=about.problems,
        search=search,
    )
    state = RUNNING if _is_running(directory) else COMPLETE if whole else ENDED
    return Run(directory, spec, result, expected, state, _ended(directory, about, whole), tuple(notes), identity)


def _classes(files: RunFiles, outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    """The classes' names as a trial's weights have them, where the run did not come to its end."""
    from flaxvision.models.files import read

    for trial in outcomes.values():
        with contextlib.suppress(UserError):
            return tuple(read(files.weights(trial.id))[1]["model"]["classes"])
    return ()


def _is_running(directory: Path) -> bool:
    """Whether a process that fills it, or a part of it, is there; of another machine's that cannot be told."""
    return any(map(_is_there, (directory / HOLDER, *files_of_parts(directory, HOLDER))))


def _is_there(holder: Path) -> bool:
    try:
        words = holder.read_text(encoding="utf-8").split()
        number, machine = int(words[1]), words[3]
    except (OSError, ValueError, IndexError):
        return False
    if machine != platform.node() or os.name != "posix":
        return True
    try:
        os.kill(number, 0)  # which sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _ended(directory: Path, about: About, whole: bool) -> datetime.datetime:
    """When the newest trial ended: as a whole run notes it, else by its files, whose times a copy may not keep."""
    if whole and (noted := about.provenance.get("date")):
        with contextlib.suppress(ValueError, TypeError):
            at = datetime.datetime.strptime(noted, "%Y-%m-%d %H:%M UTC")
            return at.replace(tzinfo=datetime.UTC).astimezone()
    for path in (directory / TRIALS, directory / store.SPEC):
        if path.exists():
            return datetime.datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    raise UserError(f"{directory} is no run directory")
