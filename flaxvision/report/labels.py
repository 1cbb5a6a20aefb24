"""Names beside the ends of lines, instead of a legend."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxvision.report.style import darker, note, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

GAP = 8.5  # points between the middles of two names


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Where a line ends, in data coordinates, and what it is called; not finite: nowhere, its name goes on top."""

    x: float
    y: float
    text: str
    color: str


def spread(targets: Sequence[float] | np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions at least `gap` apart and as near to their targets as can be, within [low, high] if there is room.

    >>> spread([5, 5, 20], 2, 0, 30)
    array([ 4.,  6., 20.])
    """
    order = np.argsort(targets, kind="stable")
    steps = gap * np.arange(len(order))
    # Without the gaps it is least squares under an order: merge neighbours that are the wrong way round.
    blocks: list[tuple[float, int]] = []
    for wanted in np.asarray(targets, float)[order] - steps:
        mean, size = float(wanted), 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        blocks.append((mean, size))
    flat = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    positions = np.empty(len(order))
    positions[order] = np.clip(flat, low, max(low, high - gap * (len(order) - 1))) + steps
    return positions


def label_ends(panels: Sequence[tuple[Axes, Sequence[End]]], heading: str) -> None:
    """Write the names to the right of each panel, `heading` above them, a thin line from each to its end."""
    look = {"va": "center", "fontsize": 7, "annotation_clip": False}
    texts = [
        [note(axes, shorten(end.text), (1, 0), (9, 0), color=darker(end.color), **look) for end in ends]
        for axes, ends in panels
    ]
    for axes, ends in panels:
        if heading and ends:
            note(axes, shorten(heading), (1, 1), (9, 3), va="bottom", annotation_clip=False)
    figure = panels[0][0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # now the panels have their sizes
    for (axes, ends), names in zip(panels, texts, strict=True):
        if ends:
            _place(axes, ends, names)


def _place(axes: Axes, ends: Sequence[End], names: Sequence[Annotation]) -> None:
    width, height = (axes.bbox.width * 72 / axes.figure.dpi, axes.bbox.height * 72 / axes.figure.dpi)
    points = axes.transLimits.transform(axes.transScale.transform([(end.x, end.y) for end in ends]))
    inside = np.isfinite(points).all(axis=1)
    targets = np.where(inside, np.clip(points[:, 1], 0, 1), 1) * height
    for (x, y), shown, target, name in zip(points, inside, spread(targets, GAP, 0, height), names, strict=True):
        name.xyann = (9, target)
        if shown:
            axes.plot(
                [x, 1 + 2 / width, 1 + 7 / width], [np.clip(y, 0, 1), np.clip(y, 0, 1), target / height],
                transform=axes.transAxes, color=name.get_color(), linewidth=0.5, alpha=0.7, clip_on=False,
                linestyle="-" if x > 0.99 else (0, (1, 3)),
            )  # fmt: skip
