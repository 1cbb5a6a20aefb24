"""Trains one trial of a finished run again and holds its numbers against those on record."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from flaxvision.sweep._run import single_trial
from flaxvision.sweep.store import outcome_of, read_run
from flaxvision.sweep.work import Cohort, Places


@dataclasses.dataclass(frozen=True, slots=True)
class Rerun:
    """Old and new value of every final metric."""

    trial: str
    metrics: dict[str, tuple[float | None, float | None]]  # metric -> (on record, now)
    equal: bool  # whether every array of the history is equal bit for bit


def rerun(directory: str | Path, trial_id: str, *, raw_dir: str | None = None, data_dir: str | None = None) -> Rerun:
    """Train trial `trial_id` of the run in `directory` again, alone; the run is not changed.

    On a CPU the result is equal bit for bit, unless the trial was trained by `--executor vmap` or with another
    version of JAX.

    Raises:
        UserError: If there is no such run or trial.
    """
    directory = Path(directory)
    spec, records = read_run(directory)
    trial = single_trial(spec, records, trial_id)
    record = next(record for record in records if record["id"].startswith(trial_id))
    old = outcome_of(record, Places(directory))
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder), raw_dir, data_dir)
        (places.directory / "trials").mkdir()
        if Places(directory).pretrained.exists():
            places.pretrained.symlink_to(Places(directory).pretrained.resolve())
        (new_record,) = Cohort((trial,), places, "unroll", spec.convergence_threshold).run()
        new = outcome_of({**new_record, "id": trial.id}, places)
    equal = old.history.keys() == new.history.keys() and all(
        np.array_equal(old.history[name], new.history[name], equal_nan=True) for name in old.history
    )
    return Rerun(old.id, {name: (value, new.final.get(name)) for name, value in old.final.items()}, equal)
