"""Goes on with a run by what lies in it."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from flaxvision._own_code import taking
from flaxvision.sweep._run import Options, run
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.keeping import own_functions
from flaxvision.sweep.notebook_bar import suited
from flaxvision.sweep.overrides import override
from flaxvision.sweep.own_code import copies_wanted
from flaxvision.sweep.results import SweepResult
from flaxvision.sweep.search.records import records_of_search
from flaxvision.sweep.spec_file import check_whole
from flaxvision.sweep.store import read_run
from flaxvision.sweep.trials import every_trial


def resume(directory: str | Path, *, seeds: int | None = None, **options: Unpack[Options]) -> SweepResult:
    """Go on with the run in `directory`: its spec.toml says what is trained, and on what.

    Trials that ended are kept, those that were cut short go on from their checkpoints, those that failed are tried
    again. Where the code of a network or an optimizer of one's own is gone, or is not that of the trials on record, the
    copy in the run is taken, and that is said; likewise the copy of the weights from which trials start.

    Args:
        directory: The run directory.
        seeds: Trials of every cell, if there are to be more than so far.
        **options: As those of `run`: `executor`, `checkpoint_every`, `raw_dir`, `data_dir`, `watch`, `export`, …

    Returns:
        The filled table.

    Raises:
        UserError: If `directory` is no run, and as `run`.
    """
    check_whole(Path(directory))
    spec, log = read_run(directory)
    if seeds is not None:
        spec = override(spec, seeds=seeds)
    records = [*log.records, *records_of_search(Path(directory))]
    codes = [record.get("identity", {}).items() for record in records]
    recorded = {key.removeprefix("code ").removeprefix("torch:"): code for items in codes for key, code in items}
    copies, notes = copies_wanted(own_functions(every_trial(spec)), RunFiles(Path(directory)).code, recorded)
    watch = options["watch"] = options.get("watch") or suited()
    for note in notes:
        watch.note(note)
    options.setdefault("command", f"flaxvision resume {directory}")
    with taking(copies):
        return run(spec, directory, resume=True, **options)
