"""One look for all figures: sizes, fonts, colors that color-blind readers tell apart, names beside lines, bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report.fonts import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.typing import RcGroupKeyType

COLUMN, PAGE = 3.4, 7.0  # inches: one column of a two-column paper, and both
DPI = 200
INK, FAINT, GRID = "#222222", "#6b6b6b", "#e4e4e4"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
HUES = tuple(color for color in OKABE_ITO if color != "#000000")  # which have lighter shades
DASHED: dict[str, Any] = {"linestyle": (0, (2.5, 1.5)), "linewidth": 0.9}
GAP = 8.5  # points between the middles of two names
CROSS: dict[str, Any] = {"marker": "x", "linestyle": "", "markersize": 4, "markeredgewidth": 1}
_TICKS = {"labelsize": 7.0, "color": FAINT, "labelcolor": INK, "major.width": 0.6, "major.size": 2.5}
_RC: dict[RcGroupKeyType, dict[str, Any]] = {
    "font": {"size": 8.0},
    "legend": {"fontsize": 7.0, "frameon": False, "handlelength": 1.8, "columnspacing": 1.2, "borderaxespad": 0.0},
    "text": {"color": INK, "parse_math": False},  # class names and values may hold dollar signs
    "axes": {"labelsize": 8.0, "titlesize": 8.0, "edgecolor": FAINT, "labelcolor": INK, "linewidth": 0.6}
    | {"axisbelow": True, "unicode_minus": True},
    "axes.spines": {"top": False, "right": False},
    "xtick": _TICKS,
    "ytick": _TICKS,
    "ytick.minor": {"size": 1.5, "width": 0.4},
    "grid": {"color": GRID, "linewidth": 0.5},
    "lines": {"linewidth": 1.3},
    "svg": {"fonttype": "path", "hashsalt": "flaxvision"},  # the same letters everywhere, without the font
    "figure.constrained_layout": {"h_pad": 0.03, "w_pad": 0.03},
}  # groups as `matplotlib.rc` takes them


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's defaults with our changes, whatever the user's own settings are; they come back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for group, settings in _RC.items():
            matplotlib.rc(group, **settings)
        matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], *families.get()]
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that lays itself out; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> Annotation:
    """Small text at a point, moved by `offset` in points; coordinates are fractions of the panel."""
    look = {"xycoords": "axes fraction", "fontsize": 6.5, "color": FAINT, **look}
    return axes.annotate(text, at, offset, textcoords="offset points", **look)


def new_panels(count: int, height: float, columns: int = 2, **shared: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure and its panels, row by row: one is a column wide, more share a page's width.

    Args:
        count: How many panels.
        height: Of each, in inches.
        columns: Panels side by side.
        **shared: `sharex` and `sharey` of matplotlib's `subplots`.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = new_figure(COLUMN if columns == 1 else PAGE, height * rows + 0.2)
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def explain_lines(figure: Figure, solid: str, dashed: str, *, band: bool, cross: str = "") -> None:
    """Say above the panels what solid and dashed lines, bands over seeds and crosses are; "" for what is not there."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = [Line2D([], [], color=FAINT, label=solid), Line2D([], [], color=FAINT, label=dashed, **DASHED)]
    handles: list[Line2D | Patch] = [*lines] if dashed else []
    if band:
        handles.append(Patch(color=FAINT, alpha=0.25, linewidth=0, label="± std over seeds"))
    if cross:
        handles.append(Line2D([], [], color=FAINT, label=cross, **CROSS))
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def encode(figure: Figure, kind: str) -> bytes:
    """The figure as "svg" or "png"; the same bytes each time."""
    empty = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    file = io.BytesIO()
    with figure_style():
        figure.savefig(file, format=kind, dpi=DPI, metadata=dict.fromkeys(empty))
    return file.getvalue()


def colors(values: Sequence[str]) -> list[str]:
    """A color for each value: a dark-to-light ramp for three or more different numbers, else distinct hues."""
    import matplotlib
    from matplotlib.colors import to_hex

    try:
        ranks = sorted({float(value) for value in values})
    except ValueError:
        ranks = []
    if len(ranks) >= 3:
        ramp = matplotlib.colormaps["viridis"]
        return [to_hex(ramp(0.8 * ranks.index(float(value)) / (len(ranks) - 1))) for value in values]
    different = list(dict.fromkeys(values))
    return [OKABE_ITO[different.index(value) % len(OKABE_ITO)] for value in values]


def key_colors(rows: Sequence[Sequence[str]]) -> list[str]:
    """A color for each row of values: of one key as `colors` has it, of several the first is the hue.

    The others are the lightness, dark for what comes first.

    >>> key_colors([["sgd", "1"], ["sgd", "2"], ["adam", "1"]])
    ['#0072b2', '#8cc0dc', '#d55e00']
    """
    from matplotlib.colors import to_hex, to_rgb

    firsts = list(dict.fromkeys(row[0] for row in rows if row))
    rests = list(dict.fromkeys(tuple(row[1:]) for row in rows))
    if len(rests) < 2:
        return colors([row[0] if row else "" for row in rows])
    found = []
    for first, *rest in rows:
        pale = 0.55 * rests.index(tuple(rest)) / (len(rests) - 1)
        red, green, blue = (part + pale * (1 - part) for part in to_rgb(HUES[firsts.index(first) % len(HUES)]))
        found.append(to_hex((red, green, blue)))
    return found


def plain_logarithmic(axis: Axis) -> None:
    """Ticks of a logarithmic axis, three or more: at the tens, else at 2 and 5 too, else at more.

    They are plain numbers, or powers where the axis goes below 0.0001 or above 100,000.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    for steps in ((1,), (1, 2, 5), range(1, 10), [half / 2 for half in range(2, 20)]):
        locator = LogLocator(subs=steps)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) >= 3:
            break
    axis.set_major_locator(locator)
    powers = low < 1e-4 or high > 1e5
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value) if powers else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def darker(color: str) -> tuple[float, float, float]:
    """The color for thin letters, which need more contrast than lines."""
    from matplotlib.colors import to_rgb

    red, green, blue = (0.72 * part for part in to_rgb(color))
    return red, green, blue


def shorten(text: str, length: int = 28) -> str:
    """Text that fits beside a line; long names often differ at their ends, so the middle goes.

    >>> shorten("three layers with BatchNorm", 20)
    'three layer…atchNorm'
    """
    tail = 2 * length // 5
    return text if len(text) <= length else f"{text[: length - tail - 1]}…{text[-tail:]}"


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
