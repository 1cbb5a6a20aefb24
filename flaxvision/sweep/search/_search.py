"""The search itself: asks, trains, keeps and tells, batch by batch, until it is over; the best make cells."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flaxvision.errors import UserError
from flaxvision.sweep.inputs import identity_of
from flaxvision.sweep.results import Searched
from flaxvision.sweep.search.found import next_batch, searched
from flaxvision.sweep.search.records import SEARCHED, Batch, SearchRecord, append_batch, keep_batches, read_batches
from flaxvision.sweep.search.rungs import Reached, forget_checkpoints, share_out, train_batch
from flaxvision.sweep.search.study import Journal, Study
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.trials import SEARCH_SEEDS, drawn_trial
from flaxvision.training.metrics import metric_of

if TYPE_CHECKING:
    from flaxvision.sweep.files import RunFiles
    from flaxvision.sweep.progress import Watcher


AT_LEAST = 4  # trials that failed in a row before a search ends: one may have been too large for the memory


def search(
    spec: Spec,
    files: RunFiles,
    executor: str,
    watch: Watcher,
    begins: Callable[[], object] = lambda: None,
    checkpoint_every: float = math.inf,
) -> Searched:
    """Search for settings as a spec says, from where an earlier run has left it.

    Args:
        spec: A sweep with a search, whose objective is a metric of the validation split.
        files: Its run.
        executor: As of `flaxvision.sweep.run`; whatever trains the table, a search trains in this process.
        watch: Sees how far it is.
        begins: Called before anything is trained, if anything is.
        checkpoint_every: As of `flaxvision.sweep.run`.

    Returns:
        Every trial, and which of them make cells.

    Raises:
        UserError: If the trials on record are not those that are asked for, all of the last trials failed, or none
            of the search reached a finite number.
    """
    assert spec.search is not None
    rules, lower = spec.search, metric_of(spec.objective).lower_is_better
    batches, notes = read_batches(files.directory)
    for note in notes:
        watch.note(note)
    keep_batches(files.directory, batches)
    study = Study(rules, lower_is_better=lower)
    study.repeat(batches)
    journal = Journal(study, files.directory, spec.name)
    journal.update()
    records = [record for batch in batches for record in batch]
    before = records[-1]["elapsed"] if records else 0.0
    began, batch = time.monotonic(), len(batches)
    while count := next_batch(rules, records):
        begins()
        first = len(records)
        trials = [
            drawn_trial(spec, drawn, SEARCH_SEEDS + first + k, "search") for k, drawn in enumerate(study.ask(count))
        ]
        parts = share_out(trials, spec, files, executor, checkpoint_every)
        watch.expect(max(0, rules.most - first - count) if rules.most else 0)
        watch.begin([part.cohort for part in parts], spec.objective, records)
        reached = {each.trial.id: each for each in train_batch(parts, rules, executor, watch.callbacks)}
        elapsed = round(before + time.monotonic() - began, 3)
        ended = tuple(
            _record(reached[trial.id], first + k, (batch, count), elapsed, files) for k, trial in enumerate(trials)
        )
        _check_trained(records, ended, files)
        append_batch(files.directory, ended)
        forget_checkpoints(files)
        by_id = {record["id"]: record for record in ended}
        for part in parts:
            watch.end(part.cohort, [by_id[trial.id] for trial in part.cohort.trials])
        study.tell(ended)
        journal.update()
        records += ended
        batch += 1
    watch.expect(0)
    found = searched(spec, records, study.importances())
    assert found is not None
    if not found.finalists:
        counts = collections.Counter(record["status"] for record in records)
        how = ", ".join(f"{count} {status}" for status, count in counts.items())
        advice = "; give another space, such as lower learning rates" * bool(counts["diverged"])
        raise UserError(
            f"none of the search's {len(records)} trials reached a finite {spec.objective} ({how}): {SEARCHED} in "
            f"{files.directory} says how each ended{advice}"
        )
    return found


def _check_trained(before: Sequence[SearchRecord], batch: Batch, files: RunFiles) -> None:
    """Raise `UserError` where nothing trains any more; the batch is not on record then, and tried again."""
    recent = [*before, *batch][-max(AT_LEAST, len(batch)) :]
    messages = collections.Counter(record.get("message") for record in recent if record["status"] == "failed")
    if messages.total() == len(recent) >= AT_LEAST:
        (message, _), *others = messages.most_common()
        more = f" (and {len(others)} other errors)" * bool(others)
        which = f"all {len(batch)} trials of it" if len(batch) == len(recent) else f"the last {len(recent)} trials"
        raise UserError(
            f"batch {batch[0]['batch'] + 1} of the search could not be trained, {which} failed: "
            f"{message}{more}; it is not on record, and tried again by: flaxvision resume {files.directory}; what can "
            "never be trained has to leave [search.space], in another --out DIR"
        )


def _record(each: Reached, number: int, batch: tuple[int, int], elapsed: float, files: RunFiles) -> SearchRecord:
    """A trial's record; of its batch the number and the size."""
    record: SearchRecord = {
        **each.trial.about,
        "status": each.status,
        "number": number,
        "batch": batch[0],
        "size": batch[1],
        "rungs": each.rungs,
        "final": each.scores,
        "seconds": round(each.seconds, 3),
        "elapsed": elapsed,
        "config": each.trial.as_json(),
        "identity": identity_of(each.trial, files),
    }
    if each.message:
        record["message"] = each.message
    if each.trace:
        record["traceback"] = each.trace
    return record
