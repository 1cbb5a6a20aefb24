"""`flaxvision sweep … --dry-run`: what would be trained, in one screen; everything is checked, nothing written."""

from __future__ import annotations

import argparse
import functools
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from flaxvision.cli.text import paragraph
from flaxvision.errors import UserError
from flaxvision.sweep.spec import Choices

if TYPE_CHECKING:
    from flaxvision.sweep.files import RunFiles
    from flaxvision.sweep.foresee import Foreseen
    from flaxvision.sweep.plan import Plan
    from flaxvision.sweep.spec import Range, Search, Spec

LABEL = 10  # characters before each row
VALUES, NOTES = 8, 4  # of a row at most


def dry_run(spec: Spec, options: argparse.Namespace) -> int:
    """Check what a run would check, and print what it would do."""
    from flaxvision.sweep.arrange import goes_on_with
    from flaxvision.sweep.checks import check
    from flaxvision.sweep.files import DataFolders, GivenData
    from flaxvision.sweep.search.records import records_of_search
    from flaxvision.sweep.store import check_directory, check_identity, read_records, usable

    if options.measure and spec.search is not None:
        raise UserError("--measure has no effect on a search, whose trials are chosen as it goes: leave it out")
    given = GivenData.stored(options.out) if options.out and options.resume else None
    folders = DataFolders(options.raw_dir, options.data_dir, given)
    executor = goes_on_with(options.executor, options.out) if options.resume else options.executor
    check_measurable(executor, measure=options.measure)
    plan, files = check(spec, options.out, folders, executor, resume=options.resume)
    check_directory(files.directory, plan.spec, resume=options.resume)
    records, _ = usable(read_records(files.directory), files)
    check_identity(files.directory, [*records, *records_of_search(files.directory)], plan.identity)
    print(paragraph(plan.spec.heading))
    done = {record["id"] for record in records}
    for label, text in _rows(plan, files, done):
        print(paragraph(text, LABEL, first=f"{label:<{LABEL}}"), flush=True)
    if spec.search is None:
        text = _time(plan, files, done, executor, by_training=options.measure)
        print(paragraph(text, LABEL, first=f"{'time':<{LABEL}}"))
    kept = "nothing was kept but compiled programs, which the sweep will find in the cache"
    print(kept if options.measure else "nothing was trained or written")
    return 0


def check_measurable(executor: str, *, measure: bool) -> None:
    """Raise `UserError` for `--measure` where trials run elsewhere."""
    if measure and executor == "ray":
        raise UserError("--measure has no effect with executor ray, whose nodes it cannot measure: leave it out")


def _time(plan: Plan, files: RunFiles, done: set[str], executor: str, *, by_training: bool) -> str:
    """How long training will take, and by what that is known."""
    import jax

    from flaxvision.runtime import cores
    from flaxvision.sweep.arrange import arrange
    from flaxvision.sweep.foresee import guessed, measured, workers_of
    from flaxvision.sweep.trials import finals_of

    platform, first = jax.default_backend(), plan.trials[0]
    finals = finals_of(plan.spec, first.settings, first.cell)  # of whichever cell will win
    left = [[trial for trial in stage if trial.id not in done] for stage in ([*plan.stages, *plan.trials], finals)]
    if not any(left):
        return "none: all trials are there"
    if executor == "ray":
        return "of training by ray: it depends on the cluster"
    stages = [arrange(trials, files, executor, platform) for trials in left if trials]
    workers = workers_of(stages[0])
    how = f"of training by {stages[0].executor}" + f", on {len(cores())} cores" * (platform == "cpu" and workers > 1)
    if not by_training and platform != "cpu":
        return f"{how}: not known before it is measured, add --measure"
    if not by_training:
        return f"{_total(map(guessed, stages))} {how}, by the networks' operations; --measure times them"

    from flaxvision.sweep.measure import measure

    say = functools.partial(print, file=sys.stderr, flush=True)
    ranges = [measured(stage, *measure(stage, files, say)) for stage in stages]
    return f"{_total(ranges)} {how}, by what every network took just now"


def _total(ranges: Iterable[Foreseen]) -> Foreseen:
    return functools.reduce(operator.add, ranges)


def _rows(plan: Plan, files: RunFiles, done: set[str]) -> Iterator[tuple[str, str]]:
    """What each row is about, and what it says."""
    from flaxvision.sweep.inputs import dataset_of, recipe_of
    from flaxvision.sweep.plan import one_each
    from flaxvision.sweep.trials import by_program

    spec, trials = plan.spec, plan.trials
    heads = [line for line in plan.data if not line.startswith(" ")]
    notes = [line.strip() for line in plan.data if line.startswith(" ")]
    yield from zip(["data", *[""] * len(heads)], heads, strict=False)
    yield from (("", f"note: {note}") for note in notes[:NOTES])
    if len(notes) > NOTES:
        yield "", f"and {len(notes) - NOTES} notes more: flaxvision data shows all"
    models = {trial.config.model.name: None for trial in trials}
    sizes = {plan.parameters[trial.id] for trial in trials}
    yield "model", f"{_some(models)}{_settings(spec, 'sizes')}; {_range(sizes)} parameters"
    samples = one_each(trials)
    steps = {recipe_of(trial, files).total_steps(len(dataset_of(trial, files).train)) for trial in samples}
    yield "recipe", f"{_settings(spec, 'recipe').removeprefix(', ') or 'defaults'}; {_range(steps)} updates a trial"
    for axis in spec.axes:
        yield "varies", f"{axis.key}: {_some([point.label for point in axis.points])}"
    stages = "; before them a pretraining" * bool(plan.stages)
    stages += f"; after them {len(spec.final.seeds)} of the winner" if spec.final else ""
    if spec.search is not None:
        yield from _search_rows(spec, spec.search, files, stages)
        return
    cells = len(trials) // len(spec.seeds)
    kept = f"; {len(done & {trial.id for trial in trials}):,} of them are there already" if done else ""
    yield "trials", f"{len(trials):,} ({_count(cells, 'cell')} x {_count(len(spec.seeds), 'seed')}){stages}{kept}"
    programs = by_program(trials, len(trials))
    shared = f", of {_range(set(map(len, programs)))} trials that differ in numbers alone"
    yield "programs", f"{len(programs):,}{shared}"
    on_test = spec.objective.startswith("test_")
    yield "winner", f"by {spec.objective}" + ", so by the test set: validation=0.1 would hold out others" * on_test
    yield "folder", str(files.directory)


def _search_rows(spec: Spec, search: Search, files: RunFiles, stages: str) -> Iterator[tuple[str, str]]:
    """The rows of a search, whose trials are not known before it."""
    from flaxvision.sweep.search.found import search_of_run

    for key, each in search.space.items():
        what = _some(each.labels) if isinstance(each, Choices) else _of_range(each)
        given = "".join(f", with {other} {' or '.join(labels)}" for other, labels in each.when.items())
        yield "searches", f"{key}: {what}{given}"
    begun = search_of_run(spec, files.directory)
    kept = f"; {len(begun.trials):,} of them are there already" if begun and begun.trials else ""
    many = _count(search.most, "trial") if search.most else "trials"
    long = f" for {search.minutes:g} minutes" if search.minutes else ""
    batch = min(search.batch, search.most or search.batch)
    yield "search", f"{many}{long}, {batch} at a time, drawn by {search.sampler}{kept}"
    if search.halving:
        left, rungs = batch, []
        for epochs in search.halving:
            rungs.append(f"{left} train for {_count(epochs, 'epoch')}")
            left = -(-left // search.factor)
        yield "halving", f"of each {batch}: {', '.join(rungs)}, {left} to the end"
    cells, seeds = _count(search.finalists, "cell"), _count(len(spec.seeds), "seed")
    yield "trials", f"{search.finalists * len(spec.seeds):,} for the table ({cells} x {seeds}), trained anew{stages}"
    yield "winner", f"by {spec.objective}"
    yield "folder", str(files.directory)


def _of_range(each: Range) -> str:
    scale = ", evenly in its logarithm" * each.log
    steps = f" in steps of {each.step:g}" if each.step else ""
    return f"{'whole numbers ' * each.whole}{each.low} to {each.high}{steps}{scale}"


def _settings(spec: Spec, table: str) -> str:
    """The settings of one table that are the same in every cell."""
    from flaxvision.sweep.config import table_of
    from flaxvision.sweep.spec import as_typed

    varied = {*spec.keys, *(key for point in spec.points for key in point.settings)}
    given = {key: value for key, value in spec.base.items() if table_of(key) == table and key not in varied}
    return "".join(f", {key} {as_typed(value)}" for key, value in given.items())


def _some(texts: Iterable[str]) -> str:
    found: Sequence[str] = list(texts)
    more = f", … ({len(found)} values)" if len(found) > VALUES else ""
    return ", ".join(found[:VALUES]) + more


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
