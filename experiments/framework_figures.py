"""The figures of `framework_parity.py`."""

from __future__ import annotations

import figures
import numpy as np
from common import Study
from effects import draw_effects
from frameworks import (
    EFFECTS,
    FLAX_TORCH,
    GAP,
    GAP_NAME,
    PADDED,
    PARAMETERS,
    PER_CLASS,
    SAME_KERAS,
    SAME_TORCH,
    Cells,
    last,
)

import export
from flaxvision.report import OKABE_ITO


def draw_figures(study: Study, cells: Cells, trajectory: export.Trajectory, classes: tuple[str, ...]) -> None:
    """Curves, classes, effects and trajectories."""

    def curves(metric: str, scale: float) -> dict[str, dict[str, np.ndarray]]:
        return {
            f"{network.capitalize()}, {count:,} parameters": {
                name: scale * runs[metric]
                for (name, of), runs in cells.items()
                if of == network and name not in (SAME_TORCH, SAME_KERAS)
            }
            for network, count in PARAMETERS.items()
        }

    def limits(*panels: dict[str, dict[str, np.ndarray]]) -> tuple[float, float]:
        values = np.concatenate(
            [np.ravel(line) for panel in panels for lines in panel.values() for line in lines.values()]
        )
        return float(np.nanmin(values)) * 0.999, float(np.nanmax(values)) * 1.001

    for name, metric, scale in (("accuracy (%)", "top1", 100), ("loss", "loss", 1)):
        training, test = curves(f"train_{metric}", scale), curves(f"test_{metric}", scale)
        look = {"log": metric == "loss", "limits": limits(training, test)}
        figure = figures.draw_lines(test, name, dashed=training, dashed_means="training (running)", **look)
        name = name.split()[0]
        study.figure(name, figure, f"The {name} of every framework and initialisation over epochs.")

    runs = cells[FLAX_TORCH, PADDED]
    training, test = (
        {f"digit {c}": {"": 100 * runs[f"{split}_per_class"][..., i]} for i, c in enumerate(classes)}
        for split in ("train", "test")
    )
    look = {"limits": limits(training, test), "columns": 5, "height": 1.5}
    figure = figures.draw_lines(test, "accuracy (%)", dashed=training, dashed_means="training (running)", **look)
    for axes, share in zip(figure.axes, PER_CLASS, strict=False):
        axes.plot(10, 100 * share, "D", ms=3.5, color=OKABE_ITO[1], clip_on=False, zorder=4)
    caption = f"Accuracy of each class over epochs: {FLAX_TORCH}, padded. Diamonds: the report, on training images."
    study.figure("classes", figure, caption)

    measures = {"test accuracy (points)": "test_top1", "training loss": "train_loss"}
    shown = {title: (last(cells, metric), GAP[metric]) for title, metric in measures.items()}
    study.figure(
        "effects",
        draw_effects(EFFECTS, shown, GAP_NAME),
        "Effects after the last epoch with 95 % intervals, below the published gap. In the band lie 95 % of pairs of "
        "runs that differ in their seeds alone. In (1) they are absolute differences.",
    )

    names = {("flax", "float32"): "Flax", ("torch again", "float32"): "PyTorch reordered"}
    names |= {("flax", "float64"): "Flax, float64"}
    apart = {
        name: np.abs(trajectory.losses[f, p] / trajectory.losses["torch", p] - 1) for (f, p), name in names.items()
    }
    lines = {name: np.maximum.accumulate(values, axis=-1) for name, values in apart.items()}
    lines = {name: np.maximum(values, 1e-17) for name, values in lines.items()}  # 0 has no logarithm
    label = "largest relative difference"
    figure = figures.draw_lines({"": lines}, label, xlabel="step", log=True, limits=(8e-18, 1))
    study.figure(
        "trajectories",
        figure,
        "The unpadded network from one start in one order: the largest difference of a loss from PyTorch's up to each "
        "step. In float32 rounding grows, between frameworks as between two orders of summation in PyTorch; in float64 "
        "there is next to none.",
    )
