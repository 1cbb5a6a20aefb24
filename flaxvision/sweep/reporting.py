"""What follows the training of a sweep: its tables, figures and page, and what else is done with its winner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flaxvision._after import export_winner
from flaxvision._interrupts import stop_if_asked
from flaxvision.errors import UserError
from flaxvision.sweep.about import write_about
from flaxvision.sweep.executors import reason
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.inputs import dataset_of
from flaxvision.sweep.progress import Watcher
from flaxvision.sweep.results import Outcome, Problem, SweepResult
from flaxvision.sweep.trials import Trial

if TYPE_CHECKING:
    from flaxvision._after import After
    from flaxvision.data import Dataset
    from flaxvision.report.tables import Section
    from flaxvision.report.winner import Insight


def report_on(
    result: SweepResult,
    trials: Mapping[str, Trial],
    files: RunFiles,
    after: Sequence[After],
    report: bool,
    watch: Watcher,
) -> SweepResult:
    """Write what is known, numbers first, then do what comes after; what fails is noted and costs nothing else.

    Args:
        result: The table.
        trials: The trials that it may hold, by id.
        files: Where it is written.
        after: As of `flaxvision.sweep.run`.
        report: Whether tables, figures and the page are wanted.
        watch: Is told what is being done.

    Returns:
        The result, with what went wrong among its problems.
    """
    problems = list(result.problems)
    insight: Insight | None = None

    def failed(what: str, error: Exception) -> None:
        problems.append(Problem(what, reason(error)))

    def so_far() -> SweepResult:
        return dataclasses.replace(result, problems=tuple(problems))

    def note() -> None:
        try:
            write_about(so_far(), files.about)
        except UserError as error:
            failed(files.about.name, error)

    note()
    if report:
        from flaxvision.report.writer import Writer

        watch.stage("writing tables and figures")
        writer = Writer(result, failed)
        if result.winner is not None:
            watch.stage("looking at what the winner gets wrong")
            stop_if_asked()
            try:
                insight = _look(result.winner, dataset_of(trials[result.winner.id], files), files)
            except Exception as error:
                failed("pictures", error)
        writer.page(so_far(), insight=insight)
    if after and result.winner is not None:
        sections: list[Section] = []
        for step in after:
            watch.stage("exporting the winner" if step is export_winner else f"doing {_name(step)}")
            stop_if_asked()
            try:
                sections += step(so_far(), dataset_of(trials[result.winner.id], files), failed)
            except Exception as error:
                failed(_name(step), error)
        if report:
            watch.stage("writing the page")
            writer.page(so_far(), [(section.title, section.html()) for section in sections], insight=insight)
    note()
    return so_far()


def _look(winner: Outcome, dataset: Dataset, files: RunFiles) -> Insight:
    from flaxvision.models import load_model
    from flaxvision.report.winner import look_at

    flipped = bool(winner.config.get("test_time_flip"))
    return look_at(load_model(files.weights(winner.id)), dataset, test_time_flip=flipped)


def _name(step: After) -> str:
    return getattr(step, "__name__", str(step))
