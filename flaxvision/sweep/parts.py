"""A table that several processes fill, such as an array of jobs: each a part of it, which `resume` puts together."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flaxvision.errors import UserError
from flaxvision.sweep.trials import Trial, by_program

if TYPE_CHECKING:
    from flaxvision.sweep.files import RunFiles
    from flaxvision.sweep.plan import Plan

_NAME = re.compile(r"\.part-(\d+)-of-(\d+)(\.|$)")


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One of several near-equal parts of a table."""

    number: int  # from 1
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The part that is called so.

        >>> Part.parse("2/8")
        Part(number=2, of=8)
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise UserError(f"part is {text!r}: give which of how many, from 1/8 to 8/8")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """Its trials: those of a program together, and the same on every machine, whatever is done already."""
        ordered = [trial for group in by_program(trials, len(trials)) for trial in group]
        start, end = ((number * len(ordered)) // self.of for number in (self.number - 1, self.number))
        if start == end:
            raise UserError(f"part {self} has no trials: the table has {len(ordered)}, so give that many parts at most")
        return tuple(ordered[start:end])


def part_of(plan: Plan, files: RunFiles, *, given: bool) -> Plan:
    """The plan of the part that `files` names; `UserError` where no folder is `given`, or all need the same stage."""
    if not given:
        raise UserError(f"part {files.part} needs the folder that all parts fill: name it with --out DIR")
    if plan.stages:
        raise UserError(
            f"part {files.part} starts from a [pretrain] stage, which every part would train: train that in a run of "
            "its own, and give warm_start = 'THAT RUN'"
        )
    if plan.spec.search is not None:
        raise UserError(f"part {files.part} is of a [search], whose trials follow from each other: leave the part out")
    assert files.part is not None
    return dataclasses.replace(plan, trials=files.part.share(plan.trials))


def of_part(name: str, part: Part | None) -> str:
    """A file of a run that each part has for itself.

    >>> of_part("trials.jsonl", Part(2, 8))
    'trials.part-2-of-8.jsonl'
    """
    if part is None:
        return name
    stem, dot, suffix = name.rpartition(".") if not name.startswith(".") else (name, "", "")
    return f"{stem}.part-{part.number}-of-{part.of}{dot}{suffix}"


def files_of_parts(directory: Path, name: str = "") -> dict[Path, Part]:
    """The files in a run directory that belong to parts, or those that are called `name` but for that, in order."""
    found = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.search(path.name)
        if match:
            part = Part(int(match[1]), int(match[2]))
            if not name or path.name == of_part(name, part):
                found[path] = part
    return dict(sorted(found.items(), key=lambda each: each[1].number))
