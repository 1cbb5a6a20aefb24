"""What varies in one direction of a table, or may be chosen by a search: values, or settings by name."""

from __future__ import annotations

import collections
import dataclasses
import math

from flaxvision._text import visible
from flaxvision.errors import UserError, unknown
from flaxvision.sweep import keys
from flaxvision.sweep.spec import BITS, Axis, Point, as_typed


def axis_of(key: str, values: object, model: object, what: str = "grid key") -> Axis:
    """The axis of a key's values, plain ones or tables with a name each; `UserError` for any that is no such value."""
    if not isinstance(values, list):
        raise UserError(f"{what} {key!r} is {as_typed(values)}: give a list of values, such as {key} = [1, 2]")
    if not values:
        raise UserError(f"{what} {key!r} is empty: give at least one value")
    if len({isinstance(value, dict) for value in values}) > 1:
        raise UserError(f"{what} {key!r} mixes values and tables: give one kind")
    points = []
    for value in values:
        point, about = Point(as_typed(value), {key: value}), what
        if isinstance(value, dict):
            label = value.get("name")
            if not isinstance(label, str):
                raise UserError(f"a table of {key!r} has no name: give it name = '…'")
            point = Point(label, {k: v for k, v in value.items() if k != "name"})
            about = f"key of {key} {label!r}"
        for setting, given in point.settings.items():
            # A model of one's own may have arguments of any name.
            if ":" not in str(point.settings.get("model", model)) and setting not in keys.setting_keys():
                raise unknown(about, setting, keys.setting_keys())
            check_plain(setting, given)
        points.append(dataclasses.replace(point, label=visible(point.label)))
    for label, count in collections.Counter(point.label for point in points).items():
        if count > 1:
            raise UserError(f"{what} {key!r} has {label!r} twice: give each value once")
    return Axis(key, tuple(points))


def check_plain(key: str, value: object) -> None:
    """Raise `UserError` for a value that is neither plain nor a list of plain ones."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(item, (bool, int, float, str)):
            raise UserError(f"{key} is {as_typed(value)}: give a number, a string, true or false, or a list of them")
        if isinstance(item, int) and item.bit_length() > BITS:
            raise UserError(f"{key} is {as_typed(value)}: give one of {BITS} bits at most")
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{key} is {as_typed(value)}: give a finite number")
