"""What an image folder's images were made into, in words: a line for each kind of conversion, and numbers by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from flaxvision._text import some
from flaxvision.data.listing import count
from flaxvision.data.pixels import Header, Pixels, Wanted

_DIM = 2**13  # where no 16-bit value reaches this, a viewer shows images that are nearly black

_Known = TypeVar("_Known")
_Key = TypeVar("_Key")


def conversions(wanted: Wanted, headers: Counter[Header], pixels: Counter[Pixels], animated: str) -> list[str]:
    """What was converted, a line each; `animated` is a file of several frames."""
    size = f"{wanted.size[0]} x {wanted.size[1]}"
    sizes = _by(headers, lambda header: header.size if header.size != wanted.size else None)
    modes = _by(headers, lambda header: header.mode if header.mode != wanted.mode else None)
    clear = _by(headers, lambda header: header.transparent and wanted.mode != "RGBA").total()
    deep = _by(headers, lambda header: header.deep).total()
    frames = _by(headers, lambda header: header.frames).total()
    turned = _by(pixels, lambda found: found.turned).total()
    peak = max((found.peak for found in pixels), default=0)
    lines = {
        f"resized to {size} (fit = {wanted.fit}): {count(sizes.total(), 'image')} of {by_size(sizes)}": len(sizes),
        f"converted to {wanted.mode}: {by_name(modes)}": len(modes),
        f"laid on white where transparent: {count(clear, 'image')}": clear,
        f"reduced to 8 bits a value: {count(deep, 'image')}": deep,
        f"nearly black: no value of 16 bits is above {peak:,} of 65,535; store the full range": 0 < peak < _DIM,
        f"turned as their EXIF orientation says: {count(turned, 'image')}": turned,
        f"first of several frames: {count(frames, 'image')}, such as {animated}": frames,
    }
    return [line for line, number in lines.items() if number]


def by_name(counter: Counter[str]) -> str:
    """How many there are of each, the commonest first."""
    return some([f"{name} ({number:,})" for name, number in _by_count(counter)], 8)


def by_size(sizes: Counter[tuple[int, int]]) -> str:
    """How many images there are of each width and height, the commonest first."""
    return some([f"{width} x {height} ({number:,})" for (width, height), number in _by_count(sizes)], 5)


def _by(counter: Counter[_Known], key: Callable[[_Known], _Key | None]) -> Counter[_Key]:
    """The numbers by a key of what was counted, where it has one."""
    found: Counter[_Key] = Counter()
    for item, number in counter.items():
        if value := key(item):
            found[value] += number
    return found


def _by_count(counter: Counter[_Key]) -> list[tuple[_Key, int]]:
    """The commonest first, equals by name: not in the order in which a file system lists them."""
    return sorted(counter.items(), key=lambda item: (-item[1], str(item[0])))
