"""The winner's confusion matrix, with the errors and not the hits in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report.style import COLUMN, FAINT, GRID, INK, PAGE, new_figure, shorten, style
from flaxvision.sweep.results import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTED = 12  # up to so many classes every count is written


def winner_row(result: SweepResult, name: str) -> np.ndarray | None:
    """The winner's row of a history array at its selected epoch, on test or else validation; None if it has none."""
    for split in ("test", "val"):
        rows = result.winner.history.get(f"{split}_{name}")
        if rows is not None and len(rows) >= result.winner.best_epoch and np.size(rows[result.winner.best_epoch - 1]):
            return np.asarray(rows[result.winner.best_epoch - 1])
    return None


def class_names(result: SweepResult, count: int) -> list[str]:
    """The classes' names, or their numbers."""
    return list(result.classes) if len(result.classes) == count else [str(i) for i in range(count)]


def confused_pairs(matrix: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """(true class, class it was taken for, how often), the most frequent errors first."""
    errors = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = (np.unravel_index(i, matrix.shape) for i in order)
    return [(int(i), int(j), int(errors[i, j])) for i, j in pairs if errors[i, j] > 0]


def draw_confusion(result: SweepResult) -> Figure | None:
    """Rows true, columns predicted; None without classes."""
    matrix = winner_row(result, "confusion")
    if matrix is None:
        return None
    names = [shorten(name, 14) for name in class_names(result, len(matrix))]
    diagonal = np.eye(len(matrix), dtype=bool)
    errors = np.ma.masked_where(diagonal | (matrix == 0), matrix)
    few = len(matrix) <= COUNTED
    with style():
        width = COLUMN if few else PAGE
        figure = new_figure(width, width * 0.97)
        axes = figure.add_subplot()
        most = max(1, int(errors.filled(0).max()))
        axes.set_facecolor("#f8f8f8")
        edges = np.arange(len(matrix) + 1) - 0.5
        look: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.6 if few else 0.25}
        axes.bar(edges[:-1] + 0.5, 1, width=1, bottom=edges[:-1], color=GRID, **look)  # the diagonal
        mesh = axes.pcolormesh(edges, edges, errors, cmap="Oranges", vmin=0, vmax=most, **look)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        size = 7 if few else max(4.0, min(7.0, 280 / len(matrix)))
        widest = max(map(len, names))
        rotation = 90 if widest > 1 and widest * len(names) > 36 else 0
        axes.set_xticks(range(len(names)), names, rotation=rotation, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        figure.suptitle(_title(result, matrix), x=0.02, ha="left", fontsize=8)
        if few:
            _write_counts(axes, matrix, most)
        else:
            bar = figure.colorbar(mesh, shrink=0.4, aspect=25, pad=0.01, anchor=(0, 1))
            bar.outline.set_visible(False)
            bar.set_label("errors")
    return figure


def _title(result: SweepResult, matrix: np.ndarray) -> str:
    pairs = confused_pairs(matrix, 1)
    if not pairs:
        return "no errors"
    true, taken, count = pairs[0]
    names = [shorten(name, 14) for name in class_names(result, len(matrix))]
    return f"most often: {names[true]} taken for {names[taken]}, {count} of {int(matrix[true].sum())}"


def _write_counts(axes: Axes, matrix: np.ndarray, most: int) -> None:
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                color = FAINT if i == j else "white" if count > 0.6 * most else INK
                axes.text(j, i, f"{int(count)}", ha="center", va="center", fontsize=6, color=color)
