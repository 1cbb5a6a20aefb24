"""Fills a sweep's table: checks, trains, keeps, chooses, reports."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from flaxvision._after import export_winner
from flaxvision._files import WINNER
from flaxvision._interrupts import deferred
from flaxvision._own_code import check_not_reading
from flaxvision._text import visible
from flaxvision.errors import UserError
from flaxvision.sweep import store
from flaxvision.sweep.arrange import goes_on_with
from flaxvision.sweep.checks import check
from flaxvision.sweep.cluster import connect
from flaxvision.sweep.executors import CHECKPOINT_EVERY, reason
from flaxvision.sweep.files import ARRAYS, DataFolders
from flaxvision.sweep.filling import Training
from flaxvision.sweep.inputs import dataset_of
from flaxvision.sweep.keeping import given_data, keep_inputs
from flaxvision.sweep.live import Live
from flaxvision.sweep.lock import locked, opening
from flaxvision.sweep.logged import TrialLogs
from flaxvision.sweep.notebook_bar import suited
from flaxvision.sweep.overrides import override
from flaxvision.sweep.parse import load_spec
from flaxvision.sweep.parts import Part
from flaxvision.sweep.plan import Plan, one_each
from flaxvision.sweep.progress import Together, Watcher
from flaxvision.sweep.provenance import provenance_of
from flaxvision.sweep.reporting import report_on
from flaxvision.sweep.results import Problem, SweepResult, best_cell, cells_of, winner_of
from flaxvision.sweep.search._search import search
from flaxvision.sweep.search.checks import check_stages
from flaxvision.sweep.search.found import finalists
from flaxvision.sweep.search.records import records_of_search
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.spec_file import damage_of
from flaxvision.sweep.trials import Trial, finals_of

if TYPE_CHECKING:
    from flaxvision._after import After
    from flaxvision.data import Dataset
    from flaxvision.logs import Opens


class Options(TypedDict, total=False):
    """What `run` may be told beside what is trained and where; the arguments of the same names."""

    executor: str
    checkpoint_every: float
    raw_dir: str | None
    data_dir: str | None
    command: str | None
    planned: Callable[[Plan], object]
    watch: Watcher | None
    log: str | Opens | Sequence[str | Opens]
    part: str | None
    export: bool
    report: bool
    after: Sequence[After]


@deferred()
def run(
    spec: Spec | Mapping[str, object] | str | Path = "demo",
    out_dir: str | Path | None = None,
    *,
    data: Dataset | None = None,
    dataset: str | None = None,
    epochs: float | None = None,
    seeds: int | None = None,
    limit: int | None = None,
    settings: Mapping[str, object] | None = None,
    grid: Mapping[str, Sequence[object]] | None = None,
    resume: bool = False,
    executor: str = "auto",
    checkpoint_every: float = CHECKPOINT_EVERY,
    raw_dir: str | None = None,
    data_dir: str | None = None,
    command: str | None = None,
    planned: Callable[[Plan], object] = lambda _: None,
    watch: Watcher | None = None,
    log: str | Opens | Sequence[str | Opens] = (),
    part: str | None = None,
    export: bool = True,
    report: bool = True,
    after: Sequence[After] = (),
) -> SweepResult:
    """Fill a sweep's table and write its run directory.

    Args:
        spec: The sweep: a name of `list_specs()`, the path of a TOML file, the tables of one as a dict, or a `Spec`.
        out_dir: The run directory; None for runs/NAME-TIMESTAMP.
        data: A data set to train on in place of the sweep's, such as `fv.data.from_arrays(…)`; the run keeps a copy.
        dataset: The name of a data set in place of the sweep's.
        epochs: Passes over the training examples, in place of the sweep's duration.
        seeds: Trials of every cell.
        limit: Examples of every split.
        settings: Other settings by their bare names, in place of the sweep's: `{"batch_size": 64}`.
        grid: What varies, in place of the sweep's values of these keys: `{"learning_rate": [0.1, 0.01]}`.
        resume: Go on with the run in `out_dir`: finished trials are kept, new seeds and values are added, and trials
            that were not over go on from their checkpoints, to what they would have been without an end, to the bit:
            trials are shared out as before, and on other cores, devices or versions they begin anew. Data, code of
            networks of one's own and starting weights are compared by content with those of the trials on record.
        executor: "loop" (one trial after the other; those of one structure share their compiled program), "threads" (as
            many at a time as there are cores), "vmap" (cohorts that train as one batched program), "processes" (one
            worker a core), "ray", or "auto", see `flaxvision.sweep.arrange`. On a CPU "loop" and "threads" give the
            same results.csv, times apart; a worker of "processes" has one core, and sums that several would share may
            differ there in their last bits.
        checkpoint_every: Seconds after which the state of a trial that trains is kept, again and again, until it is
            over; so much a kill costs at most, or one compiled call where that takes longer, and a whole epoch on an
            accelerator; and the time that keeping a state takes, where that is most of it. 0: at the end of every
            epoch; `math.inf`: never.
        raw_dir: Folder of original data files, see `flaxvision.data.load`.
        data_dir: Folder of prepared data sets, see `flaxvision.data.load`.
        command: The command that made it, for the report.
        planned: Called with what will run, after all checks and before any training; not if nothing is left to train.
        watch: Sees what is done and how trials end, see `Watcher`; None: a bar on a terminal and in a
            notebook, else nobody.
        log: Tools that draw every trial while it trains, "tensorboard", "wandb" or "mlflow", or functions that make a
            `flaxvision.logs.Logger`; one or several. Their files lie in the run directory.
        part: "2/8" fills the second of eight parts of the table, in the run directory of all parts, which may be filled
            at a time; those that are begun go on. `resume` then puts them together and writes the report.
        export: Fill the winner's folder (ONNX files, a `state_dict`, a card, …) and compare it with PyTorch and Keras
            where those are installed, see `export.export_winner`.
        report: Write tables, figures and report.html.
        after: More to do with a run that has a winner: each is called with the result, the winner's data set and what
            is to be told of a failure, and returns sections for the page.

    Returns:
        The filled table. A trial that raises, or whose worker process dies, is in it as failed; what could not be
        written or exported afterwards is in its `problems`. Without a trial that is sound it has no winner.

    Raises:
        UserError: For a spec, data or folder that does not work; found before anything is trained or written.
        KeyboardInterrupt: After Ctrl-C, at the next moment at which nothing is half done; a second one ends it at once.

    >>> import flaxvision as fv
    >>> grid = {"learning_rate": [0.1, 0.01]}
    >>> result = fv.sweep.run("demo", "runs/two-rates", epochs=2, grid=grid)  # doctest: +SKIP
    """
    check_not_reading()
    if not checkpoint_every >= 0:
        raise UserError(f"checkpoint_every is {checkpoint_every}: give seconds, 0 or more, or math.inf for never")
    logs = TrialLogs([log] if isinstance(log, str) or callable(log) else log)
    watch = watch or suited()
    with contextlib.ExitStack() as watched:
        watched.enter_context(watch)
        watch.stage("checking data and networks")
        there_already = resume or part is not None
        given = given_data(data, dataset, out_dir if there_already else None)
        spec = override(
            load_spec(spec),
            dataset=dataset if data is None else ARRAYS + data.name,
            epochs=epochs,
            seeds=seeds,
            limit=limit,
            settings=settings or {},
            grid=grid,
        )
        folders = DataFolders(raw_dir, data_dir, given)
        if there_already:
            executor = goes_on_with(executor, out_dir, Part.parse(part) if part else None)
        checked, files = check(spec, out_dir, folders, executor, resume=resume, part=part)
        if executor == "ray":
            connect()
        if out_dir is None:
            files = dataclasses.replace(files, directory=store.claim(files.directory))
        else:
            store.check_directory(files.directory, checked.spec, resume=there_already)
        unlocked = watched.enter_context(locked(files.directory, files.part))
        watched.enter_context(contextlib.closing(logs))
        with opening(files.directory, files.part):
            unless_whole = [f"{damage}: it is written anew"] if (damage := damage_of(files.directory)) else []
            there = store.open_run(files.directory, checked.spec, resume=there_already, part=files.part)
            watch.open(files.directory)
            sound, again = store.usable(there.records, files)
            on_record = [*sound, *records_of_search(files.directory)]
            notes = store.check_identity(files.directory, on_record, checked.identity)
            files, own = keep_inputs(checked.spec, files)
        notes += own
        if unlocked:
            watch.note(unlocked)
        damaged = [*unless_whole, *there.notes, *again]
        for note in damaged:
            watch.note(note)
        command = visible(command or f"flaxvision.sweep.run({spec.name!r}, …)")
        known = {"command": command, "data": checked.data}
        done = {record["id"]: record for record in sound}
        if files.part is None:
            live = Live(checked.spec, checked.trials, done, files, known, watch.note, page=report)
            watch = Together(watch, watched.enter_context(live))
        train = Training(checked, files, executor, checkpoint_every, watch, logs, planned, done)
        result, trials = _filled(train, command, [*notes, *damaged])
        if files.part is not None:
            return result
        return report_on(result, trials, files, [export_winner, *after] if export else after, report, watch)


def _filled(train: Training, command: str, notes: Sequence[str]) -> tuple[SweepResult, dict[str, Trial]]:
    """Train what is not on record; the whole table, and all its trials by id. A part has no final stage, nor winner."""
    spec, stages, files = train.plan.spec, train.plan.stages, train.files
    files.pretrained.unlink(missing_ok=True)
    for stage in stages:
        if stage.id in train.done:
            store.take_weights(train.done[stage.id], files, files.pretrained)
    trials, found = list(train.plan.trials), None
    if spec.search or all(trial.starts_pretrained for trial in trials):  # nothing trains beside it: it takes all cores
        train(stages)
    if spec.search is not None:
        check_stages((train.done[stage.id] for stage in stages), files)
        train.keep_asked("search")
        found = search(spec, files, train.executor, train.watch, train.begins, train.checkpoint_every)
        trials = finalists(spec, found)
    cells = cells_of(spec, trials, train([*stages, *trials]))
    whole = files.part is None
    best = best_cell(cells, spec.objective) if whole else None
    finals: list[Trial] = []
    if best is not None:
        chosen = next(trial for trial in trials if dict(trial.cell) == best.where)
        finals = finals_of(spec, chosen.settings, chosen.cell)
    cells += cells_of(spec, finals, train(finals))
    winner = winner_of(cells, spec.objective) if whole else None
    if whole:
        train.forget_others()
    problems = [
        Problem("pretraining", train.done[stage.id]["message"])
        for stage in stages
        if train.done[stage.id]["status"] == "failed"
    ]
    problems += train.logs.problems
    try:
        if whole:
            files.forget_winner()  # of an earlier run of fewer trials
        if winner is not None:
            store.take_weights(train.done[winner.id], files, files.winner)
    except (OSError, UserError) as error:
        problems.append(Problem(WINNER, reason(error)))
    everything = {trial.id: trial for trial in (*stages, *trials, *finals)}
    executors = ", ".join(dict.fromkeys(train.used)) or train.executor
    datasets = [dataset_of(trial, files) for trial in one_each(everything.values())]
    shown = list(everything.values())[-1] if winner is None else everything[winner.id]
    result = SweepResult.of(
        spec,
        cells,
        winner=winner,
        classes=dataset_of(shown, files).classes,
        provenance=provenance_of(spec, command, executors, datasets, [train.done[name] for name in everything], notes),
        directory=files.directory,
        problems=tuple(problems),
        search=found,
    )
    return result, everything
