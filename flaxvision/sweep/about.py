"""run.json: what is known of a run beside its spec and its trials, so that it can be read without its data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.sweep.results import Problem, SweepResult


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What a run's end leaves."""

    classes: tuple[str, ...] = ()
    winner: str = ""  # a trial's id; "": there is none, or the run has not come to its end
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)  # as in `SweepResult`
    problems: tuple[Problem, ...] = ()


def write_about(result: SweepResult, path: Path) -> None:
    """Write what a result says of its run."""
    table = {
        "classes": result.classes,
        "winner": result.winner.id if result.winner else "",
        "provenance": result.provenance,
        "problems": [dataclasses.asdict(problem) for problem in result.problems],
    }
    write_atomically(path, json.dumps(table, indent=1, default=str) + "\n")


def read_about(path: Path) -> About:
    """What a run's end left; nothing where the run has not come to it, or an earlier version wrote it.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return About(
            tuple(table["classes"]),
            table["winner"],
            dict(table["provenance"]),
            tuple(Problem(**problem) for problem in table["problems"]),
        )
    except FileNotFoundError:
        return About()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): flaxvision resume writes it anew") from error
