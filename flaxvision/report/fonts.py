"""Names of any script in figures: drawn by an installed font that has their signs, or else in letters that there are.

matplotlib brings DejaVu Sans, which has Latin, Greek, Cyrillic and many signs, but neither Chinese nor Thai, say.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import unicodedata
from collections.abc import Iterator

from flaxvision.report import formats
from flaxvision.sweep.results import SweepResult

_MAIN = "DejaVu Sans"
# These have a box for every sign, pictures that matplotlib cannot draw, or signs in the place of others.
_NO_LETTERS = (
    "last resort", "lastresort", "adobe blank", "fallback", "color emoji", "emoji color", "cmex", "cmsy", "cmmi",
    "stixsize", "stixnonuni",
)  # fmt: skip
# The installed fonts that `figure_style` adds; the first that has a sign draws it.
families: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("families", default=())


@contextlib.contextmanager
def fonts_for(result: SweepResult) -> Iterator[SweepResult]:
    """The result with names that can be drawn; meanwhile `figure_style` adds the fonts that have their signs."""
    names = _names(result)
    token = families.set(fallback_fonts(frozenset("".join(names))))
    try:
        renamed = {name: drawn for drawn, name in substitutes(result).items()}
        yield _rename(result, renamed) if renamed else result
    finally:
        families.reset(token)


def substitutes(result: SweepResult) -> dict[str, str]:
    """What stands in figures for a name that no installed font can draw, and the name: "class 0" for 猫.

    It is the name in plain letters where that says the same, as "A" for a full-width Ａ, and else a number.
    """
    named = [(name, f"class {number}") for number, name in enumerate(result.classes)]
    for key in result.keys:
        values = formats.distinct(cell.where.get(key, "") for cell in result.cells)
        named += [(value, f"{key} {number}") for number, value in enumerate(values, start=1)]
    taken = set(_names(result))
    found: dict[str, str] = {}
    for name, number in named:
        fonts = (_MAIN, *fallback_fonts(frozenset(name)))
        if set(map(ord, name)).difference(*map(_charmap, fonts)) and name not in found.values():
            plain = unicodedata.normalize("NFKD", name)
            plain = "".join(c for c in plain if not unicodedata.combining(c))
            found[plain if plain.isascii() and plain not in taken and plain not in found else number] = name
    return found


def _names(result: SweepResult) -> list[str]:
    return [*result.classes, *(value for cell in result.cells for value in cell.where.values())]


def _rename(result: SweepResult, names: dict[str, str]) -> SweepResult:
    wheres = [{key: names.get(value, value) for key, value in cell.where.items()} for cell in result.cells]
    cells = [dataclasses.replace(cell, where=where) for cell, where in zip(result.cells, wheres, strict=True)]
    classes = tuple(names.get(name, name) for name in result.classes)
    return dataclasses.replace(result, classes=classes, cells=tuple(cells))


@functools.lru_cache(64)
def fallback_fonts(signs: frozenset[str]) -> tuple[str, ...]:
    """Families that together have as many as can be of the signs that DejaVu Sans has not, in a fixed order."""
    left = {ord(sign) for sign in signs} - _charmap(_MAIN)
    chosen = []
    for family in _installed() if left else ():
        if left & _charmap(family):
            chosen.append(family)
            left -= _charmap(family)
        if not left:
            break
    return tuple(chosen)


@functools.cache
def _installed() -> tuple[str, ...]:
    """The families of upright fonts of normal weight beside the main one."""
    from matplotlib.font_manager import fontManager

    upright = {font.name for font in fontManager.ttflist if font.style == "normal" and font.weight == 400}
    return tuple(name for name in sorted(upright - {_MAIN}) if not any(words in name.lower() for words in _NO_LETTERS))


@functools.cache
def _charmap(family: str) -> frozenset[int]:
    """The code points that a font has; none where it cannot be opened or drawn in any size."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(findfont(FontProperties(family=[family]), fallback_to_default=False))  # the file that is drawn
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
