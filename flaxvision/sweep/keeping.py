"""What a run keeps of what it is made of, so that whoever receives it can go on with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from flaxvision._files import weights_in, write_atomically
from flaxvision.data import Dataset
from flaxvision.errors import UserError
from flaxvision.identity import checksum_of_file
from flaxvision.sweep.files import ARRAYS, GivenData, RunFiles
from flaxvision.sweep.own_code import keep_code
from flaxvision.sweep.spec import PRETRAINED, Spec
from flaxvision.sweep.trials import Trial, every_trial


def given_data(data: Dataset | None, dataset: str | None, directory: str | Path | None) -> GivenData | None:
    """The data set that was given, now or to the run that goes on."""
    if data is None:
        return None if directory is None else GivenData.stored(Path(directory))
    if dataset is not None:
        raise UserError(f"both data and dataset={dataset!r} are given: leave one of them out")
    if not isinstance(data, Dataset):
        raise UserError(f"data is a {type(data).__name__}: give a Dataset, such as fv.data.from_arrays(…)")
    return GivenData.of(data)


def keep_inputs(spec: Spec, files: RunFiles) -> tuple[RunFiles, list[str]]:
    """Keep what a run is made of in it: a data set that was given, code of one's own, weights that trials start from.

    Gives the files with those, and what is to be said.
    """
    trials, given = every_trial(spec), files.data.given
    if given is not None and any(trial.config.data.dataset.startswith(ARRAYS) for trial in trials):
        files = dataclasses.replace(files, data=dataclasses.replace(files.data, given=given.kept(files.data_set)))
    _keep_starts(trials, files)
    return files, keep_code(own_functions(trials), files.code)


def own_functions(trials: Iterable[Trial]) -> list[str]:
    """The functions of the user's own that trials run, "module:function", of networks and of optimizers."""
    named = [name for t in trials for name in (t.config.model.name, str(t.config.recipe.get("optimizer", "")))]
    return list(dict.fromkeys(name.removeprefix("torch:") for name in named if ":" in name))


def _keep_starts(trials: Iterable[Trial], files: RunFiles) -> None:
    """Copy the weights from which trials start into their run."""
    starts = dict.fromkeys(trial.config.recipe.get("warm_start") for trial in trials)
    for start in starts:
        if isinstance(start, str) and start != PRETRAINED and Path(start).exists():
            source, copy = weights_in(start), files.start(start)
            copy.parent.mkdir(exist_ok=True)
            if not copy.exists() or checksum_of_file(copy) != checksum_of_file(source):
                write_atomically(copy, source.read_bytes())
