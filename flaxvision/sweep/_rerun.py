"""Trains one trial of a finished run again and holds its numbers against those on record."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np

from flaxvision._own_code import taking
from flaxvision.errors import UserError
from flaxvision.identity import differences
from flaxvision.sweep.executors import execute
from flaxvision.sweep.files import DataFolders, GivenData, RunFiles
from flaxvision.sweep.inputs import look_again
from flaxvision.sweep.keeping import own_functions
from flaxvision.sweep.own_code import copies_wanted
from flaxvision.sweep.store import outcome_of, read_run
from flaxvision.sweep.trials import Trial
from flaxvision.sweep.work import Cohort


@dataclasses.dataclass(frozen=True, slots=True)
class Rerun:
    """Old and new value of every final metric."""

    trial: str
    metrics: dict[str, tuple[float | None, float | None]]  # metric -> (on record, now)
    equal: bool  # whether every array of the history is equal bit for bit
    changed: tuple[str, ...] = ()  # what is no longer as it was: data, code, starting weights, versions
    notes: tuple[str, ...] = ()  # what else is to be said


def rerun(directory: str | Path, trial_id: str, *, raw_dir: str | None = None, data_dir: str | None = None) -> Rerun:
    """Train trial `trial_id` of the run in `directory` again, alone; the run is not changed.

    On a CPU the result is equal bit for bit, unless the trial was trained by `--executor vmap`, on another number of
    cores or with another version of JAX. What one core trained is trained by one core again. Code of one's own is taken
    as it is now, where it is gone the run's copy of it.

    Args:
        directory: The run directory.
        trial_id: The trial's id, or the beginning of it.
        raw_dir: Folder of original data files, see `flaxvision.data.load`.
        data_dir: Folder of prepared data sets, see `flaxvision.data.load`.

    Raises:
        UserError: If there is no such run or trial.
    """
    before = RunFiles(Path(directory))
    spec, log = read_run(directory)
    ended = [record for record in log.records if record.get("status") != "failed"]
    matching = [record for record in ended if record["id"].startswith(trial_id)]
    if len(matching) != 1:
        ids = ", ".join(record["id"] for record in ended) or "(none)"
        ids += f" ({len(log.damaged)} damaged lines of trials.jsonl are passed over)" if log.damaged else ""
        raise UserError(f"trial {trial_id!r} matches {len(matching)} trials of this run: give one of {ids}")
    (record,) = matching
    old, trial = outcome_of(record, before), Trial.of_record(record)
    copies, notes = copies_wanted(own_functions([trial]), before.code)
    given = GivenData.stored(before.directory)
    with tempfile.TemporaryDirectory() as folder, taking(copies):
        look_again([trial])
        files = RunFiles(Path(folder), DataFolders(raw_dir, data_dir, given))
        (files.directory / "trials").mkdir()
        start = record["config"].get("warm_start", "")
        for source, copy in ((before.pretrained, files.pretrained), (before.start(start), files.start(start))):
            if source.exists():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, copy)
        cohort = Cohort((trial,), files, "loop", spec.convergence_threshold, devices=spec.devices)
        executor = "processes" if record.get("cores") == 1 else "loop"
        ((_, (finished,)),) = execute([cohort], executor, lambda _: ())
        again = finished.write(files)
        if again["status"] == "failed":
            raise UserError(f"trial {old.id} fails now: {again['message']}")
        new = outcome_of(again, files)
    equal = old.history.keys() == new.history.keys() and all(
        np.array_equal(values, new.history[name], equal_nan=True) for name, values in old.history.items()
    )
    changed = differences(record.get("identity", {}), again.get("identity", {}), common=True)
    metrics = {name: (value, new.final.get(name)) for name, value in old.final.items()}
    return Rerun(old.id, metrics, equal, tuple(changed), tuple(notes))
