"""The winner's confusion matrix, with the errors and not the hits in color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvision.report.style import COLUMN, FAINT, GRID, INK, OKABE_ITO, PAGE, figure_style, new_figure, shorten
from flaxvision.sweep.results import SweepResult
from flaxvision.training.confusion import confusion_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

COUNTED = 12  # up to so many classes every count is written
MATRIX = 64  # up to so many classes the matrix is drawn; of more, what is most often confused
SHOWN = 20  # pairs that are drawn of more classes


def of_winner(result: SweepResult) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """The winner by classes at its selected epoch, on test or else validation; None without classes or a winner.

    Its confusion matrix as of `confusion_pairs`, the accuracy of every class, (C,), and the names of the classes, or
    their numbers.
    """
    winner = result.winner
    for split in ("test", "val"):
        if winner and len(pairs := winner.history.get(f"{split}_pairs", np.empty(0))):
            accuracies = winner.history[f"{split}_per_class"][winner.best_epoch - 1]
            named = len(result.classes) == len(accuracies)
            return pairs, accuracies, list(result.classes) if named else [str(i) for i in range(len(accuracies))]
    return None


def confused_pairs(pairs: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """(true class, class it was taken for, how often), the most frequent errors first."""
    errors = pairs[pairs[:, 0] != pairs[:, 1]]
    order = np.argsort(-errors[:, 2], kind="stable")[:most]
    return [(int(true), int(taken), int(count)) for true, taken, count in errors[order]]


def examples_of(pairs: np.ndarray, true: int) -> int:
    """How many examples of a class were scored."""
    return int(pairs[pairs[:, 0] == true, 2].sum())


def most_confused(pairs: np.ndarray, names: Sequence[str]) -> str:
    """The most frequent error in words, "4 taken for 9, 12 of 982", of the pairs of a history; "" without errors."""
    worst = confused_pairs(pairs, 1)
    return "".join(f"{names[i]} taken for {names[j]}, {count} of {examples_of(pairs, i)}" for i, j, count in worst)


def draw_confusion(result: SweepResult) -> Figure | None:
    """Rows true, columns predicted; of many classes the most confused ones. None without classes."""
    found = of_winner(result)
    if found is None:
        return None
    pairs, accuracies, classes = found
    names = [shorten(name, 14) for name in classes]
    worst = most_confused(pairs, names)
    with figure_style():
        if len(names) > MATRIX:
            figure = _draw_most_confused(pairs, accuracies, [shorten(name, 22) for name in classes])
        else:
            width = COLUMN if len(names) <= COUNTED else PAGE
            figure = new_figure(width, width * 0.97)
            mesh = draw_matrix(figure.add_subplot(), confusion_matrix(pairs, len(names)), names)
        figure.suptitle(f"most often: {worst}" if worst else "no errors", x=0.02, ha="left", fontsize=8)
        if COUNTED < len(names) <= MATRIX:
            bar = figure.colorbar(mesh, shrink=0.4, aspect=25, pad=0.01, anchor=(0, 1))
            bar.outline.set_visible(False)
            bar.set_label("errors")
    return figure


def draw_matrix(axes: Axes, matrix: np.ndarray, names: Sequence[str], most: int = 1) -> QuadMesh:
    """A confusion matrix, the errors in color; of few classes with every count.

    Args:
        axes: Where to draw it; they get labels and no title.
        matrix: Counts (C, C), rows true, columns predicted.
        names: Those of the classes.
        most: How many errors at least have the darkest color, so that several matrices can share it.

    Returns:
        What a color bar takes.
    """
    errors = np.ma.masked_where(np.eye(len(matrix), dtype=bool) | (matrix == 0), matrix)
    most = max(most, int(errors.filled(0).max()))
    few = len(matrix) <= COUNTED
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
    for i, j in np.argwhere(matrix) if few else ():
        color = FAINT if i == j else "white" if matrix[i, j] > 0.6 * most else INK
        axes.text(j, i, f"{int(matrix[i, j])}", ha="center", va="center", fontsize=6, color=color)
    return mesh


def _draw_most_confused(pairs: np.ndarray, accuracies: np.ndarray, names: Sequence[str]) -> Figure:
    """The most frequent errors as bars, and how the accuracies of all classes are spread."""
    shown = confused_pairs(pairs, SHOWN)
    kinds = int((pairs[:, 0] != pairs[:, 1]).sum())
    percent = 100 * np.asarray(accuracies, float)
    figure = new_figure(PAGE, max(1.6, 0.7 + 0.17 * len(shown)))
    bars, spread = figure.subplots(1, 2, width_ratios=(2, 1))
    bars.barh(range(len(shown)), [count for *_, count in shown], color=OKABE_ITO[1], height=0.7)
    labels = [f"{names[true]} → {names[taken]}" for true, taken, _ in shown]
    bars.set_yticks(range(len(shown)), labels, fontsize=6.5)
    bars.invert_yaxis()
    bars.tick_params(axis="y", length=0)
    bars.xaxis.get_major_locator().set_params(integer=True)
    bars.set_xlabel(f"errors: the {len(shown)} most frequent of {kinds:,} kinds")
    spread.hist(percent[~np.isnan(percent)], bins=np.arange(0, 101, 10), color=OKABE_ITO[0])
    spread.set_xlim(0, 100)
    spread.set_xlabel("accuracy of a class (%)")
    spread.set_ylabel(f"classes of {len(names):,}")
    return figure
