"""A sweep as plain, checked data: what is trained, what varies, what was published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flaxvision._text import data_name
from flaxvision.training.metrics import PARAMETERS, TABLE_METRICS

Settings = dict[str, Any]  # bare name -> value
PRETRAINED = "pretrain"  # the value of warm_start that means the [pretrain] stage's weights
BITS = 64  # of a whole number, as in TOML
FACTOR = 4  # of a search: of so many trials the best one goes on
TRIALS = 64  # of a search that says neither how many nor how long
APART, BATCH = DEVICES = ("trials", "batch")  # what several devices have a share of
LAST_SEED = 2**32 - 1  # that Optuna's samplers take
AUTO = "auto"  # the objective that the data decide, see `flaxvision.sweep.plan`


class Typed(float):
    """A float that keeps the text by which it was given, so that a table shows 1e-3 where 1e-3 was typed."""

    text: str

    def __new__(cls, text: str) -> Typed:
        """The number that `text` spells."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple:
        return (Typed, (self.text,))


def as_typed(value: object) -> str:
    """A value's text in tables: numbers as given, strings bare, lists in brackets, booleans and tables as in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"a number of {value.bit_length():,} bits"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_typed(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {as_typed(item)}" for key, item in value.items()) + " }"
    return str(value)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One value of an axis: its name in the table and the settings that it makes."""

    label: str
    settings: Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """What varies in one direction of the table."""

    key: str
    points: tuple[Point, ...]


def described(meaning: str, allowed: str = "", *, unless: str = "", **default: Any) -> Any:
    """A field that is a key of a spec: what it means and may be, and what it is `unless` given.

    `flaxvision.sweep.keys` makes the keys' documentation of it.
    """
    return dataclasses.field(**default, metadata={"meaning": meaning, "allowed": allowed, "default": unless})


Conditions = Mapping[str, tuple[str, ...]]  # key -> those of its choices, by their labels


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a search may give a key, both ends among them: whole ones if both ends are whole."""

    low: float = described("the least")
    high: float = described("the largest", "above low")
    log: bool = described("whether each factor of ten is as likely as another", default=False, unless="false")
    step: float | None = described(
        "the distance of one to the next, so that they come to high (left out: 1, or none)",
        "above 0",
        default=None,
    )
    when: Conditions = described(
        "keys above it and those of their choices with which the key is given at all", default_factory=dict
    )

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """The values that a search may give a key; several keys, where the points say so."""

    points: tuple[Point, ...]
    when: Conditions = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Their names."""
        return [point.label for point in self.points]


Space = dict[str, Range | Choices]


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """How settings are searched for that become the cells of a table."""

    space: Space
    sampler: str = described(
        "what asks for settings, Optuna's: tpe learns from what was reached, sobol fills the space evenly",
        "random, sobol, tpe",
        default="tpe",
        unless="tpe",
    )
    trials: int | None = described("how many settings are tried", "1 or more", default=None, unless="64, or by minutes")
    minutes: float | None = described("no more settings are tried after so long", "above 0", default=None)
    batch: int = described(
        "how many settings are asked for at a time, which then train together", "1 or more", default=16, unless="16"
    )
    halving: tuple[int, ...] = described(
        "epochs after which the worse trials of a batch end; empty: none does", "rising", default=(), unless="[]"
    )
    factor: int = described(
        "of so many trials the best one goes on after each of these epochs",
        "2 or more",
        default=FACTOR,
        unless=str(FACTOR),
    )
    finalists: int = described(
        "how many of the best settings become cells of the table, trained anew with other seeds",
        "1 or more",
        default=3,
        unless="3",
    )
    seed: int = described("of what is drawn; the trials' own differ", f"0 to {LAST_SEED}", default=0, unless="0")

    @property
    def choices(self) -> dict[str, Choices]:
        """The keys of which it chooses among values."""
        return {key: each for key, each in self.space.items() if isinstance(each, Choices)}

    @property
    def most(self) -> int | None:
        """How many trials there are at most; None where only the time bounds them."""
        return TRIALS if self.trials is None and self.minutes is None else self.trials


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A training run that trials start from (`[pretrain]`) or that follows the grid (`[final]`).

    Its settings replace the sweep's own.
    """

    settings: Settings
    seeds: tuple[int, ...]
    only: tuple[str, ...] = ()  # pretrain: name prefixes of the layers that are handed on


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A published number of a cell."""

    where: dict[str, str] = described(
        "varied keys and their values: every matching cell is compared; without any, all are"
    )
    metric: str = described("which number", f"{', '.join(TABLE_METRICS)}, {PARAMETERS.key}")
    value: float = described("what was published, an accuracy as a fraction")
    tolerance: float = described("by how much ours may differ", "0 or more")
    source: str = described("where it was published")
    stage: str = described("whether it is of the grid or of the [final] stage", "sweep, final", unless="sweep")


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """A sweep: base settings, axes, seeds, stages."""

    name: str
    title: str
    description: str
    base: Settings  # every setting that does not vary
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    objective: str  # metric by which the winner is chosen: a loss's minimum, an accuracy's maximum; or `AUTO`
    convergence_threshold: float | None
    published: tuple[Published, ...]
    pretrain: Stage | None = None
    final: Stage | None = None
    search: Search | None = None  # which finds the cells; there are no axes then
    devices: str = APART  # of `DEVICES`
    changed: tuple[str, ...] = ()  # settings that the command line changed

    @property
    def heading(self) -> str:
        """The title of what runs: with what was shortened or changed, and none that names other data."""
        title = self.title
        if "dataset" in self.changed and "dataset" in self.base:
            title = f"{self.name} on {data_name(self.base['dataset'])}"
        return f"{title} ({self.changes})" if self.changes else title

    @property
    def changes(self) -> str:
        """What the command line changed beside the data set, in words: "4,000 examples, 4 epochs, changed: hidden"."""
        words = {"limit": "{:,} example", "epochs": "{:g} epoch"}
        numbers = {key: self.base[key] for key in words if isinstance(self.base.get(key), (int, float))}
        counted = [key for key in numbers if key in self.changed and key not in self.varied]
        parts = [words[key].format(numbers[key]) + "s" * (numbers[key] != 1) for key in counted]
        named = {"dataset"} & self.base.keys()
        others = [key for key in self.changed if key not in counted and key not in named]
        parts += [f"changed: {', '.join(others)}"] if others else []
        return ", ".join(parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """The varied keys."""
        return tuple(self.search.space) if self.search else tuple(axis.key for axis in self.axes)

    @property
    def varied(self) -> frozenset[str]:
        """The settings that vary, also those that named points give."""
        space = self.search.space.items() if self.search else ()
        ranges = [key for key, each in space if isinstance(each, Range)]
        return frozenset([*ranges, *(key for point in self.points for key in point.settings)])

    @property
    def points(self) -> tuple[Point, ...]:
        """All that varied keys may be by name; numbers of a range have none."""
        varied = self.search.choices.values() if self.search else self.axes
        return tuple(point for each in varied for point in each.points)

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages beside the grid, by name."""
        both = {"pretrain": self.pretrain, "final": self.final}
        return {name: stage for name, stage in both.items() if stage is not None}


def config_hash(config: object) -> str:
    """Ten hexadecimal digits that are equal for equal configurations, whatever their key order: 1 and 1.0 are equal."""
    text = json.dumps(_canonical(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _canonical(value: object) -> object:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
