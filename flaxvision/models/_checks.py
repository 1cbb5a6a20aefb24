"""Checks of the arguments that a network's function is given; they know no layer."""

from __future__ import annotations

from flaxvision.errors import UserError


def width(what: str, value: object) -> int:
    """`value` as the width of a layer, or an error that names it `what`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{what} is {value!r}: give a whole number, 1 or more")
    return value


def flag(what: str, value: object) -> bool:
    """`value` as true or false, or an error that names it `what`."""
    if not isinstance(value, bool):
        raise UserError(f"{what} is {value!r}: give true or false")
    return value


def widths(what: str, value: object) -> tuple[int, ...]:
    """`value` as the widths of several layers, or an error that names it `what`."""
    if not isinstance(value, (tuple, list)):
        raise UserError(f"{what} is {value!r}: give a list of widths, such as [256, 512]")
    return tuple(width(what, item) for item in value)
