"""Numbers of a report beside ours, in words and as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxvision.report import markdown_table


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a report beside ours."""

    what: str  # such as "test accuracy, SGD 0.1"
    unit: str  # of every number of the row, such as "%"
    values: tuple[float, ...]  # ours, a value a seed
    published: float | None = None
    published_range: tuple[float, float] | None = None  # or the lowest and highest of several
    tolerance: float | None = None  # largest difference that counts as the same
    interval: tuple[float, float] | None = None  # or the values that do
    peer: tuple[float, ...] = ()  # PyTorch on the same data, a value a seed
    peer_tolerance: float | None = None  # largest difference of our mean from the peer's
    note: str = ""

    @property
    def ours(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def from_published(self) -> float | None:
        """The difference from the published value, or from the nearer end of the published range."""
        if self.published_range is not None:
            return self.ours - float(np.clip(self.ours, *self.published_range))
        return None if self.published is None else self.ours - self.published

    @property
    def from_peer(self) -> float | None:
        """The difference from PyTorch's mean."""
        return self.ours - float(np.mean(self.peer)) if self.peer else None

    @property
    def verdict(self) -> str:
        """ "within" or "outside" what is allowed; "" where nothing is."""
        if self.interval is not None:
            return "within" if self.interval[0] <= self.ours <= self.interval[1] else "outside"
        if self.from_peer is not None and self.peer_tolerance is not None:
            return "within" if abs(self.from_peer) <= self.peer_tolerance else "outside"
        if self.from_published is not None and self.tolerance is not None:
            return "within" if abs(self.from_published) <= self.tolerance + 1e-9 else "outside"
        return ""

    def record(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The row as JSON; an end that is not bounded is None."""
        interval = self.interval and [bound if math.isfinite(bound) else None for bound in self.interval]
        seen = {"ours": self.ours, "std": self.std, "n": len(self.values), "seeds": list(seeds)[: len(self.values)]}
        return {**dataclasses.asdict(self), "interval": interval, **seen, "verdict": self.verdict}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """The row that a record holds; one of an older version lacks some fields."""
        row = cls(**{field.name: record[field.name] for field in dataclasses.fields(cls) if field.name in record})
        low, high = row.interval or (None, None)
        bounds = (-math.inf if low is None else low, math.inf if high is None else high)
        return dataclasses.replace(row, interval=row.interval and bounds)


def rows_markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; a column that would be empty is left out."""
    differences = ("difference from published", "difference from PyTorch")
    header = ["", "published", "ours", "n", "PyTorch, same data", *differences, "allowed", "verdict", "note"]
    cells = [cells_of(row) for row in rows]
    keep = [i for i in range(len(header)) if i < 3 or any(line[i] for line in cells)]
    return markdown_table([header[i] for i in keep], [[line[i] for i in keep] for line in cells]) + "\n"


def cells_of(row: Row) -> list[str]:
    """The row as `rows_markdown` shows it."""
    decimals = decimals_of(row.std or math.nan)

    def text(value: float | None, sign: bool = False) -> str:
        return "" if value is None else number(value, row.unit, sign, decimals if sign else None)

    if row.interval is not None:
        low, high = row.interval
        allowed = f"≥ {text(low)}" if high == np.inf else f"≤ {text(high)}" if low == -np.inf else ""
        allowed = allowed or f"{text(low)} to {text(high)}"
    elif row.peer and row.peer_tolerance is not None:
        allowed = f"± {number(row.peer_tolerance)} of PyTorch"
    else:
        allowed = "" if row.tolerance is None else f"± {number(row.tolerance)}"
    published = text(row.published) if row.published_range is None else " to ".join(map(text, row.published_range))
    return [
        f"{row.what} ({row.unit})" if row.unit else row.what,
        published,
        mean_std(row.values, row.unit),
        str(len(row.values)),
        mean_std(row.peer, row.unit, decimals) if row.peer else "",
        text(row.from_published, sign=True),
        text(row.from_peer, sign=True),
        allowed,
        row.verdict,
        row.note,
    ]


def decimals_of(spread: float) -> int | None:
    """The decimals that show two significant digits of a deviation; None where there is none."""
    return max(0, 1 - math.floor(math.log10(spread))) if 1e-9 < spread < math.inf else None


def mean_std(values: Sequence[float] | np.ndarray, unit: str = "", decimals: int | None = None) -> str:
    """Mean and sample deviation of numbers in words; `decimals` are those of a single one.

    >>> mean_std([0.42, 0.38, 0.41]), mean_std([97.5], "%")
    ('0.403 ± 0.021', '97.50')
    """
    if len(values) == 1:
        return number(float(values[0]), unit, decimals=decimals)
    return plus_minus(float(np.mean(values)), float(np.std(values, ddof=1)), unit)


def plus_minus(mean: float, spread: float, unit: str = "", sign: bool = False) -> str:
    """A mean and its deviation or error (not a number: there is none), to two significant digits of that."""
    decimals = decimals_of(spread)
    shown = number(mean, unit, sign, decimals)
    return shown if math.isnan(spread) else f"{shown} ± {number(spread, unit, decimals=decimals)}"


def number(value: float, unit: str = "", sign: bool = False, decimals: int | None = None) -> str:
    """Shares in hundredths of a percent, whole numbers with commas, anything else with four significant digits.

    >>> number(88.6543, "%"), number(3274634), number(0.00123456), number(0.5, sign=True), number(-0.001, "%")
    ('88.65', '3,274,634', '0.001235', '+0.5', '0.00')
    """
    plus = "+" if sign else ""
    if not np.isfinite(value):
        return str(value)
    if decimals is None and unit == "%":
        decimals = 2
    if decimals is not None:
        shown = f"{value:{plus},.{decimals}f}"
    elif (value == round(value) and abs(value) < 1e12) or abs(value) >= 1e4:
        shown = f"{value:{plus},.0f}"
    else:
        shown = f"{value:{plus},.4g}"
    return shown if float(shown.replace(",", "")) else shown.lstrip("+-")


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and its standard error, which is not a number for one seed."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def with_error(values: np.ndarray, unit: str = "", sign: bool = False) -> str:
    """Mean and standard error in words, such as "0.6120 ± 0.0044"."""
    return plus_minus(*mean_and_error(values), unit, sign)


def means_over(values: np.ndarray, window: int) -> np.ndarray:
    """Means of every `window` steps of (..., steps), without the steps left over."""
    count = values.shape[-1] // window
    return values[..., : count * window].reshape(*values.shape[:-1], count, window).mean(axis=-1)


def means_by_epoch(losses: np.ndarray, window: int, epochs: int) -> np.ndarray:
    """Means of every `window` steps of (seeds, steps), none across an epoch's end, (seeds, epochs, means)."""
    return means_over(losses.reshape(len(losses), epochs, -1), window).astype(float)
