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


def factor(what: str, value: object) -> float:
    """`value` as a factor of widths, or an error that names it `what`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise UserError(f"{what} is {value!r}: give a number above 0")
    return float(value)


def depth(value: object, fixed: int, block: int) -> int:
    """How many blocks of `block` layers a network of depth `value` has beside its `fixed` layers, or an error."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= fixed or (value - fixed) % block:
        some = ", ".join(str(fixed + block * blocks) for blocks in (1, 2, 3))
        raise UserError(f"depth is {value!r}: give {fixed} and a multiple of {block}, such as {some}")
    return (value - fixed) // block
