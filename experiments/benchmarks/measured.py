"""What was measured of a network's train step: one row of rows.json, to which later calls add and which they renew."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from contest import Times
from roofline import Ceilings, Work

ROWS = "rows.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The times of one network's contestants, and how they came about."""

    network: str  # name of its task
    batch: int
    steps: int  # of a block
    times: dict[str, Times]  # contestant -> times
    setting: str  # of PyTorch, the fastest; "" where PyTorch did not take part
    settings: dict[str, float]  # setting -> ms of a step in the selection
    left_out: tuple[str, ...]  # settings that failed, or were not tried
    work: Work  # of a step
    ceilings: Ceilings  # of the machine
    made: dict[str, Any]  # versions, device, command and commit

    def milliseconds(self, name: str) -> float:
        """Of a contestant's step, the median."""
        return 1e3 * self.times[name].median / self.steps

    def least(self) -> tuple[float, float]:
        """Milliseconds of a step's products, and of its maps' way to the memory and back, at full speed."""
        work, ceilings = self.work, self.ceilings
        return 1e3 * work.multiply_adds / ceilings.multiply_adds, 1e3 * work.traffic / ceilings.traffic

    def ratios(self, ours: str) -> dict[str, np.ndarray]:
        """Contestant -> its blocks' seconds over ours, turn by turn."""
        base = np.asarray(self.times[ours].blocks)
        return {name: np.asarray(taken.blocks) / base for name, taken in self.times.items() if name != ours}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Measured:
        """The row that a record of the file holds."""
        times = {name: Times(**{**taken, "blocks": tuple(taken["blocks"])}) for name, taken in record["times"].items()}
        work, ceilings = Work(**record["work"]), Ceilings(**record["ceilings"])
        parts = {"times": times, "work": work, "ceilings": ceilings, "left_out": tuple(record["left_out"])}
        return cls(**{**record, **parts})


def read_rows(folder: Path) -> dict[str, Measured]:
    """The rows that earlier calls left, by network."""
    path = folder / ROWS
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {row.network: row for row in map(Measured.of, records)}


def write_rows(folder: Path, rows: Mapping[str, Measured]) -> None:
    """Write the file anew; it is whole at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{ROWS}"
    partial.write_text(json.dumps([dataclasses.asdict(row) for row in rows.values()], indent=1) + "\n", "utf-8")
    os.replace(partial, folder / ROWS)
