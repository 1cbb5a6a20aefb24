"""What a search gives the keys of its space: a point each, where their conditions hold."""

from __future__ import annotations

import functools
from collections.abc import Callable

from flaxvision.sweep.spec import Choices, Conditions, Point, Range, Space, as_typed

Drawn = dict[str, Point]  # key -> its point; keys whose conditions do not hold are not in it
Choose = Callable[[str, Range | Choices], float | str]  # of a key and what it may be: a number, or a label
DIGITS = 4  # of drawn numbers, so that a table shows all of them; 10 of those that come in steps


def draw(space: Space, choose: Choose) -> Drawn:
    """A point for each key, in the order of the space.

    >>> draw({"momentum": Range(0.5, 0.99)}, lambda key, each: 0.123456)["momentum"]
    Point(label='0.5', settings={'momentum': 0.5})
    """
    drawn: Drawn = {}
    for key, each in space.items():
        if _holds(each.when, drawn):
            drawn[key] = _point(key, each, choose(key, each))
    return drawn


def _holds(when: Conditions, drawn: Drawn) -> bool:
    return all(key in drawn and drawn[key].label in labels for key, labels in when.items())


def _point(key: str, each: Range | Choices, value: float | str) -> Point:
    if isinstance(each, Choices):
        return each.points[each.labels.index(str(value))]
    number = float(value)
    digits = DIGITS if each.step is None else 10
    number = int(number) if each.whole else float(f"{number:.{digits}g}")
    number = min(max(number, each.low), each.high)
    return Point(as_typed(number), {key: number})


def probes(space: Space) -> list[Drawn]:
    """Points that have every value to choose, and both ends of every range, at least once.

    What cannot train anywhere in the space should show in one of them.
    """
    found: list[Drawn] = []
    for key, each in space.items():
        for value in each.labels if isinstance(each, Choices) else (each.low, each.high):
            wanted: dict[str, float | str] = {**_conditions(space, key), key: value}
            drawn = draw(space, functools.partial(_wanted, wanted))
            found += [drawn] if drawn not in found else []
    return found


def _wanted(wanted: dict[str, float | str], key: str, each: Range | Choices) -> float | str:
    """What is wanted of a key, else the first value or the lower end."""
    return wanted.get(key, each.labels[0] if isinstance(each, Choices) else each.low)


def _conditions(space: Space, key: str) -> dict[str, float | str]:
    """Choices with which a key is given."""
    found: dict[str, float | str] = {}
    for other, labels in space[key].when.items():
        found |= {**_conditions(space, other), other: labels[0]}
    return found
