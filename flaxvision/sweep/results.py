"""What a sweep leaves, as plain data: outcomes of trials, the cells of the table with their verdicts, the winner."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flaxvision.sweep.spec import Published, Settings, Spec
from flaxvision.sweep.trials import Trial
from flaxvision.training.metrics import PARAMETERS, TABLE_METRICS, metric_of

if TYPE_CHECKING:
    import pandas as pd

    from flaxvision.sweep.search.records import SearchRecord


_CLOSE = 1e-6  # to numbers that are equal but for rounding


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One finished trial; one that failed has no numbers."""

    id: str  # hash of its configuration and seed
    stage: str  # "sweep" or "final"
    cell: tuple[tuple[str, str], ...]  # (varied key, value as typed in the spec)
    seed: int
    status: str  # "ok", "diverged" (a loss or a weight was not finite) or "failed" (an error, see `message`)
    config: Settings = dataclasses.field(repr=False)  # everything that determines it
    parameters: int = 0
    final: dict[str, float | None] = dataclasses.field(default_factory=dict)
    # metric -> value of the selected epoch (train_*: running values); None: it or that split's loss is not finite
    best_epoch: int = 0  # the selected epoch, from 1
    converged_epoch: int | None = None  # see `converged`; None without a threshold
    seconds: float = 0.0  # of training and evaluation, without compilation
    # as `flaxvision.training.History` has it
    history: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    epoch_steps: tuple[int, ...] = dataclasses.field(default=(), repr=False)  # updates at the end of each epoch
    epoch_seconds: tuple[float, ...] = dataclasses.field(default=(), repr=False)  # and the seconds, also of compiling
    message: str = ""  # why it failed


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A published number beside ours."""

    metric: str  # such as "test_top1"
    published: float
    tolerance: float
    source: str  # where it was published
    ours: float | None
    verdict: str  # "within", "outside" or "missing"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One row of results.csv: the trials that differ in their seeds only."""

    stage: str  # "sweep" or "final"
    where: dict[str, str]  # varied key -> value as typed in the spec
    outcomes: tuple[Outcome, ...]  # ordered by seed
    verdicts: tuple[Verdict, ...]

    def __repr__(self) -> str:
        return f"Cell({', '.join(f'{key}={value}' for key, value in self.where.items()) or 'all'}: {self.n} trials)"

    @property
    def n(self) -> int:
        """How many trials."""
        return len(self.outcomes)

    @property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(outcome.status == "diverged" for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        """How many ended by an error."""
        return sum(outcome.status == "failed" for outcome in self.outcomes)

    @property
    def sound(self) -> int:
        """How many neither diverged nor failed."""
        return self.n - self.diverged - self.failed

    @property
    def parameters(self) -> int | None:
        """Parameters of the network; None where every trial failed."""
        return max((outcome.parameters for outcome in self.outcomes), default=0) or None

    def mean(self, metric: str) -> float | None:
        """Mean over the seeds with a finite value of `metric`; None without any."""
        values = self.values(metric)
        return values[0] if len(values) == 1 else float(np.mean(values)) if values else None

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over the same seeds; None for fewer than two."""
        values = self.values(metric)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def values(self, metric: str) -> list[float]:
        """The finite values of a metric of `final`, or of "best_epoch", "converged_epoch" or "seconds"."""
        found = [
            getattr(o, metric) if metric in ("best_epoch", "converged_epoch", "seconds") else o.final.get(metric)
            for o in self.outcomes
            if o.status != "failed"
        ]
        return [float(value) for value in found if value is not None]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What a search has tried, and which of its trials make the cells of the table."""

    keys: tuple[str, ...]  # of its space
    objective: str  # of the validation split
    trials: tuple[SearchRecord, ...]  # by their numbers
    finalists: tuple[int, ...]  # numbers of trials, the best first
    importances: Mapping[str, float]  # key -> its share, see `flaxvision.sweep.search.study`; may be empty

    def __repr__(self) -> str:
        return f"Searched({len(self.trials)} trials by {self.objective}, finalists {list(self.finalists)})"

    def to_frame(self) -> pd.DataFrame:
        """Its trials as a pandas data frame: a row a trial, by its number.

        Columns are the keys, `status` ("ok", "pruned", "diverged" or "failed"), `epochs`, the objective after these,
        `seconds`, `batch`, and `elapsed`, the seconds of the search until that was over.

        Raises:
            UserError: If pandas is not installed.
        """
        from flaxvision.sweep.frames import search_frame

        return search_frame(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What could not be done with a trained table."""

    what: str  # such as "results.tex", "figure loss", "export"
    why: str  # one line

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SweepResult:
    """A filled table; `directory` holds the same on disk."""

    name: str
    title: str
    description: str
    keys: tuple[str, ...]  # the varied keys, in the order of the spec
    cells: tuple[Cell, ...]  # in the order of the spec; the final stage's cell last
    objective: str  # the metric by which the winner was chosen
    winner: Outcome | None  # None where every trial diverged or failed
    classes: tuple[str, ...]
    provenance: dict[str, Any]  # nested: "data sets", "versions", "device", "config hash", "command", …
    directory: Path
    convergence_threshold: float | None = None  # change of test_top1 below which an epoch counts as converged
    problems: tuple[Problem, ...] = ()
    search: Searched | None = None  # which found the cells

    @classmethod
    def of(cls, spec: Spec, cells: tuple[Cell, ...], **others: Any) -> Self:
        """That of a spec and its cells; others are the fields of which a spec says nothing."""
        return cls(
            name=spec.name,
            title=spec.heading,
            description=spec.description,
            keys=spec.keys,
            cells=cells,
            objective=spec.objective,
            convergence_threshold=spec.convergence_threshold,
            **others,
        )

    def __repr__(self) -> str:
        counts = f"{len(self.cells)} cells, {len(self.outcomes)} trials"
        return f"SweepResult({self.name!r}: {counts}, {self.best_in_words}, in {str(self.directory)!r})"

    def _repr_html_(self) -> str:
        from flaxvision.report.notebook import sweep_html

        return sweep_html(self)

    @property
    def best_in_words(self) -> str:
        """The winner's cell and its mean: "best test_top1 0.971 (learning_rate 0.1)"."""
        cell = next((cell for cell in self.cells if self.winner in cell.outcomes), None)
        if cell is None:
            return "no winner"
        where = ", ".join(f"{key} {value}" for key, value in cell.where.items())
        mean = cell.mean(self.objective)
        return f"best {self.objective}{'' if mean is None else f' {mean:.4g}'}{where and f' ({where})'}"

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All trials, in the order of the cells."""
        return tuple(outcome for cell in self.cells for outcome in cell.outcomes)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The trials that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The table metrics that any trial has."""
        return tuple(m for m in TABLE_METRICS if any(cell.values(m) for cell in self.cells))

    def to_frame(self) -> pd.DataFrame:
        """The table as a pandas data frame: a row a cell, with means and sample standard deviations over seeds.

        Columns are the varied keys, `stage`, `n`, `diverged`, `failed`, `parameters`, for each metric its name and
        `NAME_std`, `best_epoch`, `converged_epoch` and `seconds`. Accuracies are fractions.

        Raises:
            UserError: If pandas is not installed.
        """
        from flaxvision.sweep.frames import cells_frame

        return cells_frame(self)

    def trials_frame(self) -> pd.DataFrame:
        """The trials as a pandas data frame: a row a trial, by its id.

        Columns are the varied keys, `stage`, `seed`, `status`, `parameters`, the metrics of the selected epoch,
        `best_epoch`, `converged_epoch`, `seconds` and `message`.

        Raises:
            UserError: If pandas is not installed.
        """
        from flaxvision.sweep.frames import trials_frame

        return trials_frame(self)

    def epochs_frame(self) -> pd.DataFrame:
        """The histories as a pandas data frame: a row an epoch of a trial, by the trial's id and the epoch from 1.

        Columns are the varied keys, `seed`, `step` (updates done), `seconds` (see `History`), and every metric of every
        split.

        Raises:
            UserError: If pandas is not installed.
        """
        from flaxvision.sweep.frames import epochs_frame

        return epochs_frame(self)


def cells_of(spec: Spec, trials: Sequence[Trial | Outcome], outcomes: dict[str, Outcome]) -> tuple[Cell, ...]:
    """The cells of finished trials in the order of `trials`, with the verdicts on published numbers."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Outcome]] = {}
    for trial in trials:
        groups.setdefault((trial.stage, trial.cell), []).append(outcomes[trial.id])
    cells = []
    for (stage, labels), group in groups.items():
        cell = Cell(stage, dict(labels), tuple(sorted(group, key=lambda outcome: outcome.seed)), ())
        fitting = [p for p in spec.published if p.stage == stage and p.where.items() <= cell.where.items()]
        cells.append(dataclasses.replace(cell, verdicts=tuple(_verdict(p, cell) for p in fitting)))
    return tuple(cells)


def _verdict(published: Published, cell: Cell) -> Verdict:
    ours = cell.parameters if published.metric == PARAMETERS.key else cell.mean(published.metric)
    verdict = "missing"
    if ours is not None:
        verdict = "within" if abs(ours - published.value) <= published.tolerance + _rounding(published) else "outside"
    return Verdict(published.metric, published.value, published.tolerance, published.source, ours, verdict)


def _rounding(published: Published) -> float:
    """By how much a difference may exceed its tolerance that is equal to it: 0.86 - 0.85 is not 0.01 in binary."""
    if published.metric == PARAMETERS.key:  # whole numbers
        return 0.0
    return _CLOSE if metric_of(published.metric).percent else _CLOSE * abs(published.value)


def winning_cell(cells: Sequence[Cell], metric: str) -> Cell | None:
    """The cell that stands for a table: its last final stage, if that left a sound trial, else the best one."""
    finals = [cell for cell in cells if cell.stage == "final"]
    return best_cell(finals[-1:], metric) or best_cell([cell for cell in cells if cell.stage != "final"], metric)


def winner_of(cells: Sequence[Cell], metric: str) -> Outcome | None:
    """The winner of a table: the most typical trial of its winning cell; None where no trial was sound."""
    best = winning_cell(cells, metric)
    return None if best is None else nearest_to_mean(best, metric)


def best_cell(cells: Sequence[Cell], metric: str) -> Cell | None:
    """The first of `ranked`; None where every trial diverged or failed."""
    return next((cell for cell in ranked(cells, metric) if cell.sound), None)


def ranked(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """The cells from the best mean of a metric to the worst; of equal ones the first comes first.

    A cell of whose trials a smaller share diverged or failed comes first, whatever its mean, which is over the others.
    """

    def rank(cell: Cell) -> tuple[float, float]:
        mean = cell.mean(metric)
        value = math.inf if mean is None else mean if metric_of(metric).lower_is_better else -mean
        return 1 - cell.sound / cell.n, value

    return sorted(cells, key=rank)


def nearest_to_mean(cell: Cell, objective: str) -> Outcome:
    """The seed whose objective is nearest the cell's mean: a typical trial, not the luckiest; a sound one."""
    metric = objective if cell.values(objective) else objective.replace("val_", "test_")
    mean = cell.mean(metric)

    def distance(outcome: Outcome) -> tuple[bool, float]:
        value = outcome.final.get(metric)
        return outcome.status != "ok", math.inf if value is None or mean is None else abs(value - mean)

    return min(cell.outcomes, key=distance)


def converged(accuracy: np.ndarray, threshold: float) -> int:
    """The epoch, from 1, after which no change between epochs reaches `threshold`; the last one: still changing.

    Report E's "epoch of convergence" (its threshold is not printed): 98 to 100 of 100 epochs mean "still changing".

    >>> converged(np.array([0.5, 0.8, 0.85, 0.851, 0.852]), 0.01)
    3
    """
    # Accuracies are float32: ten of 10,000 images are 0.001 only up to rounding, and do reach that threshold.
    large = np.flatnonzero(~(np.abs(np.diff(np.asarray(accuracy, float))) < threshold - _CLOSE))
    return int(large[-1]) + 2 if len(large) else 1
