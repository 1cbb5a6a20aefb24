"""What the settings of a recipe may be, and the words for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from flaxvision.errors import UserError, unknown


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What a setting may be."""

    allows: Callable[[object], bool]
    words: str  # what a message says to give
    choices: tuple[str, ...] = ()  # if there are some: what its strings may be
    in_python: str = ""  # what else there is, after a message that names the choices
    once: bool = False  # of several: whether each may be given only once

    def check(self, name: str, value: object) -> None:
        """Raise `UserError` unless the setting `name` may be `value`."""
        if not self.allows(value):
            given = list(value) if isinstance(value, tuple) else value
            raise UserError(f"{name} is {given!r}: give {self.words}")
        for item in value if isinstance(value, tuple) else (value,):
            if self.choices and isinstance(item, str) and item not in self.choices:
                raise UserError(f"{unknown(name, item, self.choices)}{self.in_python}")

    def optional(self, words: str = "") -> Rule:
        """The same, or None."""
        return dataclasses.replace(self, allows=lambda v: v is None or self.allows(v), words=words or self.words)


def number(low: float = 0.0, high: float = math.inf, *, above: bool = False, words: str = "") -> Rule:
    """A number from `low` (or `above` it) up to but without `high`."""

    def allows(value: object) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return (low < value if above else low <= value) and value < high

    start = f"a number {'above' if above else 'from'} {low:g}"
    unbounded = start if above else f"{low:g} or more"
    return Rule(allows, words or (unbounded if high == math.inf else f"{start} up to but without {high:g}"))


def whole(low: int, words: str, high: float = math.inf) -> Rule:
    """A whole number from `low` up to but without `high`."""
    return Rule(lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v < high, words)


def one_of(*choices: str, in_python: str = "") -> Rule:
    """One of some names."""
    return Rule(lambda v: isinstance(v, str), f"one of {', '.join(choices)}", choices, in_python)


def names(*choices: str) -> Rule:
    """Several strings, of `choices` if there are some."""
    return Rule(
        lambda v: isinstance(v, tuple) and all(isinstance(item, str) for item in v), "strings", choices, once=True
    )


def numbers(words: str, *, increasing: bool = False) -> Rule:
    """Several numbers above 0, each larger than the one before it where `increasing`."""
    each = number(above=True)

    def allows(value: object) -> bool:
        if not isinstance(value, tuple) or not all(map(each.allows, value)):
            return False
        return not increasing or list(value) == sorted(set(value))

    return Rule(allows, words)


FLAG = Rule(lambda v: isinstance(v, bool), "true or false")
POSITIVE = number(above=True)
SHARE = number(high=1)
AVERAGE = number(high=1, above=True).optional("a number above 0 and below 1, such as 0.999, or leave it out")
IF_GIVEN = POSITIVE.optional("a number above 0, or leave it out")
EPOCHS = number(high=1e9, above=True, words="more than 0 and less than 1e9")
COUNT = whole(1, "a whole number, more than 0")
SOME = whole(0, "a whole number of updates, or 0")
PATIENCE = whole(0, "a whole number of epochs, 0 or more")
SEED = whole(0, "a whole number, 0 or more and below 2**32", 2**32)
JITTER = number(high=1, words="a number from 0 up to but without 1: 0.2 draws factors from 0.8 to 1.2")
SIDE = number(high=1, words="a share of the image's side, from 0 up to but without 1: of 32 pixels 16 are 0.5")
TURN = number(high=360, words="degrees, from 0 up to but without 360")
MIX = number(words="the alpha of its Beta distribution, such as 0.2 or 1, or 0")
MILESTONES = numbers("epochs above 0 in increasing order, such as [100, 150]", increasing=True)
PATH = Rule(lambda v: isinstance(v, str), "the path of a weights file")
