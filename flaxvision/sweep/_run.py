"""Fills a sweep's table: checks, trains, keeps, chooses, reports."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxvision.errors import UserError
from flaxvision.identity import switches
from flaxvision.sweep.attempt import reason
from flaxvision.sweep.executors import CHECKPOINT_EVERY, check_executor, check_models
from flaxvision.sweep.plan import Plan, one_each, plan
from flaxvision.sweep.progress import Watcher
from flaxvision.sweep.results import Outcome, Problem, SweepResult
from flaxvision.sweep.spec import Spec, config_hash
from flaxvision.sweep.store import (
    check_directory,
    check_identity,
    claim,
    dump_spec,
    locked,
    open_run,
    usable,
)
from flaxvision.sweep.table import best_cell, cells_of, nearest_to_mean
from flaxvision.sweep.train import Training
from flaxvision.sweep.trials import Trial, finals_of
from flaxvision.sweep.work import Places, load_dataset

EXPORT = "export"  # how the problem of an export begins
WINNER = "winner.safetensors"


def run(
    spec: Spec,
    out_dir: str | Path | None = None,
    *,
    executor: str = "auto",
    checkpoint_every: float = CHECKPOINT_EVERY,
    resume: bool = False,
    raw_dir: str | None = None,
    data_dir: str | None = None,
    command: str | None = None,
    planned: Callable[[Plan], object] = lambda _: None,
    watch: Watcher | None = None,
    export: bool = True,
    report: bool = True,
) -> SweepResult:
    """Fill a sweep's table and write its run directory.

    Args:
        spec: The sweep, from `load_spec`.
        out_dir: The run directory; None for runs/NAME-TIMESTAMP.
        executor: "loop" (one trial after the other; those of one structure share their compiled program), "threads" (so
            many at a time as there are cores), "unroll" or "vmap" (cohorts that train together), "processes" (one
            worker a core), "ray", or "auto", see `flaxvision.sweep.arrange`. On a CPU "loop", "threads" and "unroll"
            give the same results.csv, times apart; a worker of "processes" has one core, and sums that several would
            share may differ there in their last bits.
        checkpoint_every: Seconds after which the state of a trial that trains is kept, again and again, until it is
            over; so much a kill costs at most, and a whole epoch on an accelerator. 0: at the end of every epoch;
            `math.inf`: never.
        resume: Go on with the run in `out_dir`: finished trials are kept, new seeds and values are added, and trials
            that were not over go on from their checkpoints, to what they would have been without an end, to the bit:
            trials are shared out as before, and on other cores, devices or versions they begin anew. Data, code of
            networks of one's own and starting weights are compared by content with those of the trials on record.
        raw_dir: Folder of original data files, see `flaxvision.data.load`.
        data_dir: Folder of prepared data sets, see `flaxvision.data.load`.
        command: The command that made it, for the report.
        planned: Called with what will run, after all checks and before any training; not if nothing is left to train.
        watch: Sees trials train and end, see `flaxvision.sweep.progress`; None: nobody does.
        export: Write the winner as an ONNX file and compare it with PyTorch and Keras where those are installed.
        report: Write tables, figures and report.html.

    Returns:
        The filled table. A trial that raises, or whose worker process dies, is in it as failed; what could not be
        written or exported afterwards is in its `problems`. Without a trial that is sound it has no winner.

    Raises:
        UserError: For a spec, data or folder that does not work; found before anything is trained or written.
    """
    check_executor(executor)
    if not checkpoint_every >= 0:
        raise UserError(f"checkpoint_every is {checkpoint_every}: give seconds, 0 or more, or math.inf for never")
    directory = run_directory(spec.name, out_dir, resume=resume)
    places = Places(directory, raw_dir, data_dir)
    checked = plan(spec, places)
    check_models([trial.settings["model"] for trial in checked.trials], executor)
    if out_dir is None:
        places = dataclasses.replace(places, directory=claim(directory))
    else:
        check_directory(directory, checked.spec, resume=resume)
    with locked(places.directory):
        records = open_run(places.directory, checked.spec, resume=resume)
        notes = check_identity(places.directory, records, checked.identity)
        sound, damaged = usable(records, places)
        watch = watch or Watcher()
        for note in damaged:
            watch.note(note)
        train = Training(checked, places, executor, checkpoint_every, watch, planned, sound)
        return _fill(train, [*notes, *damaged], command, export, report)


def _fill(train: Training, notes: Sequence[str], command: str | None, export: bool, report: bool) -> SweepResult:
    """Train what is not on record, and report all of it."""
    checked, places, done = train.plan, train.places, train.done
    spec, stages, trials, directory = checked.spec, checked.stages, checked.trials, places.directory
    places.pretrained.unlink(missing_ok=True)
    for stage in stages:
        if stage.id in done:
            shutil.copyfile(places.weights(stage.id), places.pretrained)
    if all(trial.starts_pretrained for trial in trials):  # nothing can train beside it, so it takes all cores
        train(stages)
    cells = cells_of(spec, trials, train([*stages, *trials]))
    best = best_cell(cells, spec.objective)
    finals: list[Trial] = []
    if best is not None:
        chosen = next(trial for trial in trials if dict(trial.cell) == best.where)
        finals = finals_of(spec, chosen.settings, chosen.cell)
    if finals:
        cells += cells_of(spec, finals, train(finals))
        best = best_cell(cells[-1:], spec.objective) or best
    winner = None if best is None else nearest_to_mean(best, spec.objective)
    (directory / WINNER).unlink(missing_ok=True)  # of an earlier run of fewer trials
    if winner is not None:
        shutil.copyfile(places.weights(winner.id), directory / WINNER)
    executors = ", ".join(dict.fromkeys(train.used)) or train.executor
    everything = [*stages, *trials, *finals]
    problems = [Problem("pretraining", done[trial.id]["message"]) for trial in stages if "message" in done[trial.id]]
    result = _result(spec, everything, cells, winner, places, executors, command, notes, problems)
    return _reported(result, everything, places, export, report)


def _trial_of(outcome: Outcome, trials: Sequence[Trial]) -> Trial:
    return next(trial for trial in trials if trial.id == outcome.id)


def _reported(result: SweepResult, trials: Sequence[Trial], places: Places, export: bool, report: bool) -> SweepResult:
    """Write what is known, numbers first, then export the winner; what fails is noted and costs nothing else."""
    problems = list(result.problems)

    def failed(what: str, error: Exception) -> None:
        problems.append(Problem(what, reason(error)))

    def so_far() -> SweepResult:
        return dataclasses.replace(result, problems=tuple(problems))

    writer = None
    if report:
        from flaxvision.report.writer import Writer

        writer = Writer(result, failed)
        writer.tables()
        writer.draw()
        writer.page(so_far())
    if export and result.winner is not None:
        onnx = result.directory / "winner.onnx"
        onnx.unlink(missing_ok=True)  # of an earlier run with fewer trials
        try:
            dataset = load_dataset(_trial_of(result.winner, trials), places)
            parity = importlib.import_module("export").export_winner(result.directory, dataset)
            sections = [("The same network elsewhere", parity.html())]
        except Exception as error:
            there = onnx.exists()
            what = f"{EXPORT}: {onnx.name} is written, but not compared" if there else f"{EXPORT}: nothing is written"
            failed(what, error)
            sections = []
        if writer is not None:
            writer.page(so_far(), sections)
    return so_far()


def run_directory(name: str, out_dir: str | Path | None, *, resume: bool) -> Path:
    """Where a run goes: as given, or to a new folder.

    Raises:
        UserError: If a run is to be continued that is not named.
    """
    if resume and out_dir is None:
        raise UserError("--resume goes on with a run that exists: name it with --out DIR")
    return default_directory(name) if out_dir is None else Path(out_dir)


def default_directory(name: str) -> Path:
    """runs/NAME-TIMESTAMP."""
    return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _result(
    spec: Spec,
    trials: Sequence[Trial],
    cells: tuple,
    winner: Outcome | None,
    places: Places,
    executor: str,
    command: str | None,
    notes: Sequence[str],
    problems: Sequence[Problem],
) -> SweepResult:
    from flaxvision.sweep.provenance import data_sources, device, versions

    datasets = {id(dataset): dataset for trial in one_each(trials) for dataset in [load_dataset(trial, places)]}
    shown = trials[-1] if winner is None else _trial_of(winner, trials)
    provenance = {
        "command": command or f"flaxvision.sweep.run(load_spec({spec.name!r}))",
        "config hash": config_hash(dump_spec(spec)),
        "executor": executor,
        "seeds": list(spec.seeds),
        "data sets": data_sources(datasets.values()),
        "device": device(),
        "JAX switches": switches(),
        "versions": versions(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        **({"notes": list(notes)} if notes else {}),
    }
    return SweepResult(
        name=spec.name,
        title=spec.heading,
        description=spec.description,
        keys=spec.keys,
        cells=cells,
        objective=spec.objective,
        winner=winner,
        classes=load_dataset(shown, places).classes,
        provenance=provenance,
        directory=places.directory,
        convergence_threshold=spec.convergence_threshold,
        problems=tuple(problems),
    )
