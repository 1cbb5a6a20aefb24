"""The tables of several runs as one, and what the runs differ in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flaxvision._describe import digest
from flaxvision._text import visible
from flaxvision.errors import UserError, check_choice
from flaxvision.identity import AROUND
from flaxvision.report.formats import shown_metric
from flaxvision.report.tables import Section, markdown_table, markdown_text, results_latex, results_markdown
from flaxvision.runs._open import COMPLETE, Run
from flaxvision.runs._open import open as open_run
from flaxvision.sweep.results import SweepResult, winner_of
from flaxvision.sweep.spec import Spec, as_typed
from flaxvision.sweep.spec_file import search_table
from flaxvision.training.metrics import TABLE_METRICS
from flaxvision.training.recipe import Recipe

RUN, VARIES = "run", "varies"


@dataclasses.dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting that is not the same in all runs, or something else that their trials rest on."""

    key: str
    values: tuple[str, ...]  # one a run: as typed, "varies" in a grid, "searched: …" of a search; of code a checksum


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Runs side by side."""

    names: tuple[str, ...]  # of the runs
    result: SweepResult  # their cells in one table, whose first key is the run
    differences: tuple[SettingDifference, ...]
    notes: tuple[str, ...]  # what makes numbers hard to compare

    @property
    def section(self) -> Section:
        """What the runs differ in, as a table of text."""
        rows = tuple(tuple(map(visible, (each.key, *each.values))) for each in self.differences)
        return Section("What the runs differ in", ("setting", *self.names), rows, self.notes)

    def markdown(self) -> str:
        """All of it as GitHub-flavoured Markdown."""
        section = self.section
        notes = [f"{markdown_text(note)}\n" for note in section.notes]
        header = [markdown_text(name) for name in section.header]
        rows = [[markdown_text(text) for text in row] for row in section.rows]
        table = [markdown_table(header, rows, labels=len(header)), ""] if rows else []
        head = [f"## {section.title}\n"] if rows or notes else []
        return "\n".join([results_markdown(self.result), *head, *notes, *table])

    def latex(
        self,
        *,
        columns: Sequence[str] = (),
        names: Mapping[str, str] | None = None,
        digits: Mapping[str, int] | None = None,
    ) -> str:
        """The table as LaTeX, for `\\usepackage{booktabs}`; the arguments choose as those of `results_latex`."""
        return results_latex(self.result, columns=columns, names=names, digits=digits)


def compare(runs: Iterable[Run | str | Path], *, metric: str | None = None) -> Comparison:
    """Lay the tables of several runs side by side.

    Args:
        runs: Two runs or more, or their directories.
        metric: By which cells are judged, such as "test_top1"; None: as the first run's own are.

    Returns:
        One table of all cells, the settings, code and versions that differ, and what makes numbers hard to compare.

    Raises:
        UserError: For fewer than two runs, a folder that is none, or a metric that no trial of one of them has.
    """
    found = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if len(found) < 2:
        raise UserError(f"{len(found)} run is given: give two or more to compare")
    alone = Counter(run.name for run in found)
    named = {run.name if alone[run.name] == 1 else str(run.directory): run for run in found}
    if len(named) < len(found):
        raise UserError("a run is given twice: give each once")
    if metric is not None:
        check_choice("metric", metric, TABLE_METRICS)
    chosen = metric or shown_metric(found[0].result)
    for name, run in named.items():
        if not any(cell.values(chosen) for cell in run.table):
            there = [each for each in TABLE_METRICS if any(cell.values(each) for cell in run.table)]
            raise UserError(f"no trial of {name} has {chosen!r}: give one of {', '.join(there) or '(none)'}")
    differences = (*_differences(found), *_of_surroundings(found))
    return Comparison(tuple(named), _together(named, chosen), differences, tuple(_notes(named, chosen)))


def _together(runs: Mapping[str, Run], metric: str) -> SweepResult:
    """The cells of runs as one table."""
    first = next(iter(runs.values())).result
    keys = tuple(dict.fromkeys(key for run in runs.values() for key in run.result.keys))
    cells = tuple(
        dataclasses.replace(cell, where={RUN: name, **cell.where})
        for name, run in runs.items()
        for cell in run.table
        if cell.stage == "sweep"
    )
    thresholds = {run.result.convergence_threshold for run in runs.values()}
    return dataclasses.replace(
        first,
        name="-".join(runs),
        title=", ".join(runs),
        description="",
        keys=(RUN, *keys),
        cells=cells,
        objective=metric,
        winner=winner_of(cells, metric),
        provenance={},
        problems=(),
        convergence_threshold=first.convergence_threshold if len(thresholds) == 1 else None,
    )


def _differences(runs: Sequence[Run]) -> tuple[SettingDifference, ...]:
    """The settings that differ, as their recipes have them where they are not given."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    given = [_given(run.spec) for run in runs]
    keys = dict.fromkeys(key for own in given for key in own)
    seeds = tuple(str(len(run.spec.seeds)) for run in runs)
    found = [SettingDifference("seeds", seeds)] if len(set(seeds)) > 1 else []
    for key in keys:
        values = tuple(own[key] if key in own else _default(defaults.get(key)) for own in given)
        if len(set(values)) > 1:
            found.append(SettingDifference(key, values))
    return tuple(found)


def _of_surroundings(runs: Sequence[Run]) -> tuple[SettingDifference, ...]:
    """What differs of that on which trials rest beside settings and examples."""
    held = [_surroundings(run) for run in runs]
    return tuple(
        SettingDifference(key, tuple(each.get(key, "–") for each in held))
        for key in dict.fromkeys(key for each in held for key in each)
        if len({each[key] for each in held if key in each}) > 1
    )


def _surroundings(run: Run) -> dict[str, str]:
    """Code of one's own, starting weights, JAX's switches, versions, the processor."""
    known = {**run.identity, **run.identity.get(AROUND, {})}
    return {
        key: digest(value) if isinstance(value, dict) else _default(value) or "–"
        for key, value in known.items()
        if key != AROUND and not key.startswith("data ")
    }


def _given(spec: Spec) -> dict[str, str]:
    """The settings that a spec gives; of a search what it may choose, and how it goes."""
    given = {key: as_typed(value) for key, value in spec.base.items()} | dict.fromkeys(sorted(spec.varied), VARIES)
    given |= {key: _default(getattr(spec, key)) for key in ("convergence_threshold", "devices")}
    if spec.search is None:
        return given
    rules = {"sampler": spec.search.sampler, **search_table(spec.search)}
    space = rules.pop("space")
    return given | {key: f"searched: {as_typed(each)}" for key, each in space.items()} | {"search": as_typed(rules)}


def _default(value: object) -> str:
    return "–" if value is None else as_typed(value)


def _notes(runs: Mapping[str, Run], metric: str) -> list[str]:
    notes = []
    for name, run in runs.items():
        if run.state != COMPLETE:
            notes.append(f"{name}: {run.state}, {len(run.trials)} of {run.expected} trials are there.")
        if run.spec.objective != metric:
            notes.append(f"{name}: its winner was chosen by {run.spec.objective}.")
    examples = [_examples(run) for run in runs.values()]
    if all(examples) and len(set(examples)) > 1:
        notes.append("The runs were not trained on the same examples.")
    return notes


def _examples(run: Run) -> frozenset[str]:
    """What tells the examples of a run's data sets: their checksums, and how many of them were taken."""
    sources = run.result.provenance.get("data sets", {}).values()
    return frozenset(repr((source.get("checksum"), source.get("counts"))) for source in sources)
