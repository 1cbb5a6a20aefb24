"""What a tool is told of a run: before it, during it, and at its end. A tool is one class of these two methods."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from flaxvision.errors import UserError, unknown

Setting = str | bool | int | float


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """A run, before its numbers."""

    name: str  # what people call it: "learning_rate 0.1, seed 0"
    id: str  # by which the tool finds it again where it goes on after an interruption
    group: str  # what it belongs to: the name of a sweep's run directory
    settings: Mapping[str, Setting]
    folder: Path  # where a tool keeps files that it makes

    @property
    def file_name(self) -> str:
        """The name as a file may have it, with the id, which no other run of the group has."""
        plain = re.sub(r"[^\w.+-]+", "_", self.name)
        return f"{plain[:80]}-{self.id}"


class Logger(Protocol):
    """Takes the numbers of one run; it is made by a call with the run's `About`."""

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> object:
        """Take an epoch's metrics, such as "test_top1", `step` updates and `seconds` after the beginning."""

    def end(self, status: str, final: Mapping[str, float]) -> object:
        """The run is over: "ok", "diverged", "failed" or "interrupted"; `final` are the numbers that stand for it."""


Opens = Callable[[About], Logger]


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A tool that is known by name."""

    title: str
    package: str  # as Python imports it
    adapter: str  # module and class of its `Logger`


LOGGERS: Mapping[str, Tool] = {
    "tensorboard": Tool("TensorBoard", "tensorboardX", "flaxvision.logs._tensorboard:TensorBoard"),
    "wandb": Tool("Weights & Biases", "wandb", "flaxvision.logs._wandb:WandB"),
    "mlflow": Tool("MLflow", "mlflow", "flaxvision.logs._mlflow:MLflow"),
}


def opens(tool: str | Opens) -> Opens:
    """What opens runs of a tool that is given by its name, or by such a function itself.

    Raises:
        UserError: If no tool has that name, or its package is not installed.
    """
    if not isinstance(tool, str):
        return tool
    if tool not in LOGGERS:
        raise unknown("log", tool, LOGGERS)
    known = LOGGERS[tool]
    if importlib.util.find_spec(known.package) is None:
        raise UserError(f"log {tool!r} needs {known.title}: pip install 'flaxvision[{tool}]'")
    module, _, name = known.adapter.partition(":")
    adapter: Opens = getattr(importlib.import_module(module), name)
    return adapter
