"""From a spec to its trials, and trials grouped by the program that trains them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from flaxvision.errors import UserError
from flaxvision.sweep.config import TrialConfig
from flaxvision.sweep.search.draw import Drawn, probes
from flaxvision.sweep.spec import PRETRAINED, Point, Settings, Spec, as_typed, config_hash
from flaxvision.training.recipe import VARYING

if TYPE_CHECKING:
    from flaxvision.identity import Identity

NUMBERS = ("learning_rate", *VARYING, "dropout")  # may differ within a program
Labels = tuple[tuple[str, str], ...]  # (varied key, value as typed)
NOT_GIVEN = "–"  # in place of the value of a key that a search does not give a trial
SEARCH_SEEDS = 2**31  # those of a search's trials begin here, so that its finalists have others


class Record(TypedDict, total=False):
    """A trial's line of trials.jsonl: what it is and how it ended; of one that failed why, and no numbers."""

    id: str
    stage: str
    cell: dict[str, str]
    seed: int
    status: str
    message: str
    traceback: str
    final: dict[str, float | None]
    best_epoch: int
    converged_epoch: int | None
    parameters: int
    seconds: float
    epoch_steps: list[int]  # as `History.steps` and `seconds`
    epoch_seconds: list[float]
    cores: int
    config: Settings
    identity: Identity
    checksums: dict[str, str]  # of the trial's "weights" and "history", and in trials.jsonl of the "record" itself


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One training run of a sweep."""

    config: TrialConfig
    cell: Labels  # of the table
    seed: int
    stage: str = "sweep"  # "pretrain", "search", "sweep" or "final"

    @classmethod
    def of_record(cls, record: Record) -> Trial:
        """The trial of a record of trials.jsonl."""
        settings = dict(record["config"])
        stage, seed = settings.pop("stage"), settings.pop("seed")
        return cls(TrialConfig.of(settings), tuple(record["cell"].items()), seed, stage)

    def as_json(self) -> Settings:
        """All that determines it, as JSON values."""
        return {"stage": self.stage, "seed": self.seed, **self.settings}

    @property
    def about(self) -> Record:
        """How its record begins."""
        return {"id": self.id, "stage": self.stage, "cell": dict(self.cell), "seed": self.seed}

    @property
    def settings(self) -> Settings:
        """Every setting that is given, by its bare name."""
        return self.config.settings

    @property
    def id(self) -> str:
        """A hash of the configuration and the seed."""
        return config_hash(self.as_json())

    @property
    def program(self) -> str:
        """Equal for trials of a stage that may train in one program, differing in numbers, seed and warm start only."""
        settings = self.settings
        shared = {k: v for k, v in settings.items() if k not in (*NUMBERS, "warm_start", "warm_start_only")}
        zero = {k: bool(settings[k]) for k in NUMBERS[1:] if k in settings}
        return config_hash({"stage": self.stage, "shared": shared, "zero": zero})

    @property
    def starts_pretrained(self) -> bool:
        """Whether it starts from the weights that the [pretrain] stage leaves."""
        return self.config.recipe.get("warm_start") == PRETRAINED


def expand(spec: Spec) -> list[Trial]:
    """The trials of a sweep in the order of its table: the first axis slowest, seeds fastest; none of a search.

    `UserError` if two points of different axes give the same key, or two trials are equal.
    """
    seen: dict[str, Trial] = {}
    if spec.search is not None:
        return []
    for points in itertools.product(*(axis.points for axis in spec.axes)):
        settings = _settings(spec, dict(zip(spec.keys, points, strict=True)))
        cell = tuple((axis.key, point.label) for axis, point in zip(spec.axes, points, strict=True))
        for seed in spec.seeds:
            trial = trial_of(spec, settings, cell, seed, "sweep")
            if (same := seen.setdefault(trial.id, trial)) is not trial:
                raise UserError(f"the cells {dict(same.cell)} and {dict(cell)} are the same trial")
    return list(seen.values())


def _settings(spec: Spec, points: Mapping[str, Point]) -> Settings:
    """The sweep's settings with those of a point for each varied key."""
    settings = dict(spec.base)
    owner: dict[str, str] = {}
    for key, point in points.items():
        for name in point.settings:
            if name in owner:
                raise UserError(f"{name} is given by both {owner[name]} and {key}: leave it to one of them")
            owner[name] = key
        settings |= point.settings
    return settings


def drawn_trial(spec: Spec, drawn: Drawn, seed: int, stage: str) -> Trial:
    """A trial of what a search draws for its keys."""
    cell = tuple((key, drawn[key].label if key in drawn else NOT_GIVEN) for key in spec.keys)
    return trial_of(spec, _settings(spec, drawn), cell, seed, stage)


def trial_of(spec: Spec, settings: Settings, cell: Labels, seed: int, stage: str) -> Trial:
    """A trial with the warm start of the [pretrain] stage filled in, and without a validation split of nothing."""
    if settings.get("validation") == 0:
        settings = {key: value for key, value in settings.items() if key not in ("validation", "validation_seed")}
    for key in ("dataset", "model"):
        if key not in settings:
            raise UserError(f"{spec.name} gives no {key}: give {key} = '…'")
        if not isinstance(settings[key], str):
            raise UserError(f"{key} is {as_typed(settings[key])}: give a string")
    if settings.get("warm_start") == PRETRAINED:
        if spec.pretrain is None:
            raise UserError("warm_start = 'pretrain' needs a [pretrain] stage in the spec")
        settings.setdefault("warm_start_only", list(spec.pretrain.only))
    return Trial(TrialConfig.of(settings), cell, seed, stage)


def pretraining(spec: Spec, trials: Sequence[Trial]) -> list[Trial]:
    """The trial of the [pretrain] stage, if one of `trials` starts from it."""
    if spec.pretrain is None or not any(trial.starts_pretrained for trial in trials):
        return []
    first = {**trials[0].settings, **spec.base}
    settings = {k: v for k, v in first.items() if k not in ("warm_start", "warm_start_only", "frozen")}
    return [trial_of(spec, {**settings, **spec.pretrain.settings}, (), spec.pretrain.seeds[0], "pretrain")]


def finals_of(spec: Spec, settings: Settings, cell: Labels) -> list[Trial]:
    """The trials of the [final] stage, for a winner of these settings."""
    if spec.final is None:
        return []
    merged = {**settings, **spec.final.settings}
    return [trial_of(spec, merged, cell, seed, "final") for seed in spec.final.seeds]


def every_trial(spec: Spec) -> list[Trial]:
    """Those of the pretraining and of the table, and those that could follow it: the final stage's of every cell.

    Of a search, whose table is not known, trials that have every value and both ends of every range.
    """
    trials = expand(spec)
    if spec.search is not None:
        trials = [drawn_trial(spec, drawn, SEARCH_SEEDS, "search") for drawn in probes(spec.search.space)]
    finals = [final for trial in trials for final in finals_of(spec, trial.settings, trial.cell)]
    return [*pretraining(spec, trials), *trials, *finals]


def by_program(trials: Sequence[Trial], most: int) -> list[list[Trial]]:
    """Trials grouped by program in order of appearance, in near-equal groups of `most` at most."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.program, []).append(trial)
    chunks = []
    for group in groups.values():
        count = -(-len(group) // most)
        size = -(-len(group) // count)
        chunks += [group[start : start + size] for start in range(0, len(group), size)]
    return chunks
