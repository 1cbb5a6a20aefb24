"""Reads the [search] and [search.space] of a sweep."""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Callable, Mapping
from typing import Any

from flaxvision.errors import UserError, check_choice
from flaxvision.sweep.axes import axis_of, check_plain
from flaxvision.sweep.spec import LAST_SEED, Choices, Conditions, Range, Search, Settings, Space, as_typed

SAMPLERS = ("random", "sobol", "tpe")
SPACE = "key of [search.space]"
_RANGE = tuple(field.name for field in dataclasses.fields(Range))
ROUNDING = 1e-6  # of a step: by so much the end of a range of floats may miss the last one
_EXAMPLE = "give { low = 1e-4, high = 1, log = true } or a list of values"


def search_of(table: Mapping[str, object], model: object) -> Search:
    """The search of its tables.

    Args:
        table: [search], with its [search.space].
        model: The sweep's network, if it is given: one of one's own may have arguments of any name.

    Raises:
        UserError: For anything that is no such key, or that no search could do.
    """
    fields = tuple(field.name for field in dataclasses.fields(Search))
    for key in table:
        if key == "objective":
            raise UserError("[search] has objective: a search goes by the objective of the sweep, move it to the top")
        check_choice("key of [search]", key, fields)
    content = table.get("space")
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"[search] has no space: give [search.space] with a key or more, KEY = … ({_EXAMPLE})")
    given: Settings = {key: _NUMBERS[key](key, value) for key, value in table.items() if key in _NUMBERS}
    if "sampler" in table:
        check_choice("sampler", table["sampler"], SAMPLERS)
        given["sampler"] = table["sampler"]
    if "halving" in table:
        given["halving"] = _rungs(table["halving"])
    space: Space = {}
    for key, value in content.items():
        space[key] = dimension(key, value, model, space)
    search = Search(space, **given)
    if "factor" in given and not search.halving:
        raise UserError("[search] factor has no effect without halving: give halving = [1, 3], epochs, or leave it out")
    if search.most is not None and search.most < search.finalists:
        raise UserError(
            f"[search] finalists is {search.finalists}, but it tries {search.most}: give trials = {search.finalists}"
        )
    return search


def dimension(key: str, value: object, model: object, above: Space) -> Range | Choices:
    """What a search may give a key; `above` are the keys on which it may depend."""
    if isinstance(value, list):
        return Choices(axis_of(key, value, model, SPACE).points)
    if not isinstance(value, Mapping):
        raise UserError(f"{SPACE} {key!r} is {as_typed(value)}: {_EXAMPLE}")
    when = _when(key, value.get("when", {}), above)
    if "values" in value:
        for name in value:
            check_choice(f"entry of {key} in [search.space]", name, ("values", "when"))
        return Choices(axis_of(key, value["values"], model, SPACE).points, when)
    for name in value:
        check_choice(f"entry of {key} in [search.space]", name, _RANGE)
    for name in ("low", "high"):
        if name not in value:
            raise UserError(f"{key} in [search.space] has no {name}: {_EXAMPLE}")
    axis_of(key, [value["low"]], model, SPACE)  # which refuses a key that is none
    low, high = (_number(f"{key} {name}", value[name]) for name in ("low", "high"))
    log, step = value.get("log", False), value.get("step")
    if not isinstance(log, bool):
        raise UserError(f"{key} log is {as_typed(log)}: give true or false")
    if step is not None:
        step = _above("step of " + key, step)
    if not low < high:
        raise UserError(f"{key} in [search.space] goes from {as_typed(low)} to {as_typed(high)}: give low below high")
    if log and low <= 0:
        raise UserError(f"{key} low is {as_typed(low)} with log = true: give a low above 0, or leave log out")
    if log and step is not None:
        raise UserError(f"{key} has both log and step: leave one of them out")
    if step is not None:
        high = _last_of(key, low, high, step)
    return Range(low, high, log, step, when)


def _last_of(key: str, low: float, high: float, step: float) -> float:
    """The upper end of a range in steps, to which they come; `high` itself but for a rounding."""
    start, end, each = (decimal.Decimal(str(number)) for number in (low, high, step))
    try:
        count, rest = divmod(end - start, each)
    except decimal.InvalidOperation as error:  # the quotient has too many digits
        raise UserError(
            f"{key} goes from {as_typed(low)} to {as_typed(high)} in steps of {as_typed(step)}, which are too many to "
            "be counted: give a larger step, or leave step out"
        ) from error
    if not rest:
        return high
    whole = all(isinstance(number, int) for number in (low, high, step))
    below, above = (start + each * number for number in (count, count + 1))
    for near in (below, above) if not whole else ():
        if abs(end - near) < decimal.Decimal(ROUNDING) * each:
            return float(near)
    shown = [as_typed(int(number) if whole else float(f"{number:.10g}")) for number in (below, above)]
    if not count:
        span = as_typed(int(end - start) if whole else float(f"{end - start:.10g}"))
        raise UserError(
            f"{key} goes from {as_typed(low)} to {as_typed(high)}, less than a step of {as_typed(step)}: give "
            f"high = {shown[1]}, or a step of {span} at most"
        )
    nearest = shown if end - below < above - end else shown[::-1]
    raise UserError(
        f"{key} goes from {as_typed(low)} in steps of {as_typed(step)}, which do not come to {as_typed(high)}: give "
        f"high = {nearest[0]}, or {nearest[1]}"
    )


def _when(key: str, given: object, above: Space) -> Conditions:
    """The conditions of a key: of keys above it that are chosen among values, one value or several."""
    if not isinstance(given, Mapping):
        raise UserError(f"{key} when is {as_typed(given)}: give a table, such as when = {{ optimizer = 'sgd' }}")
    found: dict[str, tuple[str, ...]] = {}
    for other, values in given.items():
        parent = above.get(other)
        if not isinstance(parent, Choices):
            chosen = ", ".join(name for name, each in above.items() if isinstance(each, Choices)) or "there is none"
            raise UserError(f"{key} when has {other!r}: give a key above it that has a list of values ({chosen})")
        labels = [as_typed(value) for value in (values if isinstance(values, list) else [values])]
        for label in labels:
            check_choice(f"value of {other} in when of {key}", label, parent.labels)
        if not labels:
            raise UserError(f"{key} when {other} is empty: give a value of it or more")
        found[other] = tuple(labels)
    return found


def _rungs(value: object) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(type(epochs) is int and epochs > 0 for epochs in value)
    if not isinstance(value, list) or not whole or sorted(set(value)) != value:
        raise UserError(f"halving is {as_typed(value)}: give epochs that rise, such as [1, 3]")
    return tuple(value)


def _number(key: str, value: object) -> float:
    check_plain(key, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{key} is {as_typed(value)}: give a number")
    return value


def _above(key: str, value: object) -> float:
    if (number := _number(key, value)) <= 0:
        raise UserError(f"{key} is {as_typed(value)}: give a number above 0")
    return number


def _whole(least: int, most: int | None = None) -> Callable[[str, Any], int]:
    allowed = f"{least} or more" if most is None else f"{least} to {most}"

    def check(key: str, value: object) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            raise UserError(f"{key} is {as_typed(value)}: give a whole number, {allowed}")
        return value

    return check


_NUMBERS: dict[str, Callable[[str, object], float]] = {
    "trials": _whole(1),
    "minutes": _above,
    "batch": _whole(1),
    "factor": _whole(2),
    "finalists": _whole(1),
    "seed": _whole(0, LAST_SEED),
}
