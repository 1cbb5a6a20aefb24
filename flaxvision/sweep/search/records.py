"""The lines of search.jsonl: a record of each trial of a search, those of a batch in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from flaxvision._files import write_atomically
from flaxvision.sweep.records import line_of, read_log
from flaxvision.sweep.store import append_record
from flaxvision.sweep.trials import Record

SEARCHED = "search.jsonl"
PRUNED = "pruned"  # the status of a trial that ended early, as others of its batch were better


class SearchRecord(Record, total=False):
    """A trial of a search: `final` holds what it reached last, and `status` may be "pruned" too."""

    number: int  # in the order in which trials were asked for, from 0
    batch: int  # from 0
    size: int  # of its batch
    rungs: list[tuple[int, float | None]]  # epochs, and what it reached by the objective after them; None: not finite
    elapsed: float  # seconds of the search until its batch was over


Batch = tuple[SearchRecord, ...]


def read_batches(directory: Path) -> tuple[list[Batch], list[str]]:
    """The batches on record, in order, as far as they are whole; and what is to be said of others.

    A batch that a kill cut short is as none, and what follows a damaged one, which rests on it, as well.
    """
    log = read_log(directory, SEARCHED)
    found: dict[int, list[SearchRecord]] = {}
    for record in cast(Sequence[SearchRecord], log.records):
        if isinstance(batch := record.get("batch"), int):
            found.setdefault(batch, []).append(record)
    whole: list[Batch] = []
    count = 0
    while there := found.get(len(whole)):
        there.sort(key=lambda record: record["number"])
        if [record["number"] for record in there] != list(range(count, count + there[0]["size"])):
            break
        whole.append(tuple(there))
        count += len(there)
    lost = log.damaged or len(found) > len(whole) + 1  # more than a last batch that was being written
    return whole, [f"{SEARCHED} is damaged: the search goes on from its trial {count}"] if lost else []


def records_of_search(directory: Path) -> list[SearchRecord]:
    """The trials on record of a run's search, in order; none of a sweep without one."""
    return [record for batch in read_batches(directory)[0] for record in batch]


def keep_batches(directory: Path, batches: Sequence[Batch]) -> None:
    """Leave these batches alone in search.jsonl."""
    text = "".join(line_of(record) for batch in batches for record in batch)
    if (directory / SEARCHED).exists() and (directory / SEARCHED).read_text(encoding="utf-8", errors="replace") != text:
        write_atomically(directory / SEARCHED, text)


def append_batch(directory: Path, batch: Batch) -> None:
    """Add a batch; once this returns it survives a crash."""
    append_record(directory, *batch, name=SEARCHED)
