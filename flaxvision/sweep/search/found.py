"""What a search has found: the best of its trials, which become the cells of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from flaxvision.sweep.results import Searched
from flaxvision.sweep.search.records import PRUNED, SearchRecord, records_of_search
from flaxvision.sweep.spec import Search, Spec
from flaxvision.sweep.trials import Record, Trial
from flaxvision.training.metrics import metric_of


def searched(spec: Spec, records: Iterable[Record], importances: Mapping[str, float] | None = None) -> Searched | None:
    """What a sweep's search has tried, from its records; None of a sweep without one."""
    if spec.search is None:
        return None
    trials = tuple(sorted(cast(Iterable[SearchRecord], records), key=lambda record: record["number"]))
    best: dict[tuple[str, ...], SearchRecord] = {}
    for record in best_first(trials, lower=metric_of(spec.objective).lower_is_better):
        best.setdefault(tuple(record["cell"].values()), record)
    chosen = tuple(record["number"] for record in best.values())[: spec.search.finalists]
    return Searched(spec.keys, spec.objective, trials, chosen, importances or {})


def next_batch(rules: Search, records: Sequence[SearchRecord]) -> int:
    """How many trials the next batch has; 0 when the search is over."""
    if rules.minutes is not None and records and records[-1]["elapsed"] >= 60 * rules.minutes:
        return 0
    return rules.batch if rules.most is None else max(0, min(rules.batch, rules.most - len(records)))


def search_of_run(spec: Spec, directory: Path) -> Searched | None:
    """What is on record of a run's search; None of a sweep without one."""
    return searched(spec, records_of_search(directory))


def finalists(spec: Spec, found: Searched) -> list[Trial]:
    """The trials of the table: each of the best settings with every seed, the best first."""
    chosen = [Trial.of_record(found.trials[number]) for number in found.finalists]
    return [dataclasses.replace(trial, stage="sweep", seed=seed) for trial in chosen for seed in spec.seeds]


def best_first(records: Sequence[SearchRecord], *, lower: bool) -> list[SearchRecord]:
    """Those that reached a number, from the best to the worst: first who went further, then who reached more."""

    def rank(record: SearchRecord) -> tuple[bool, int, float]:
        epochs, value = record["rungs"][-1]
        assert value is not None
        return record["status"] == PRUNED, -epochs * (record["status"] == PRUNED), value if lower else -value

    return sorted((record for record in records if record["status"] in ("ok", PRUNED)), key=rank)
