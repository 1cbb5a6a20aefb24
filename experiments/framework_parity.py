"""Report A: "the same" CNN in PyTorch and in Keras. Why do the two end at different accuracies?

    python experiments/framework_parity.py --raw-dir DATA

Trains the report's two networks on MNIST with its recipe (SGD 0.1, batch 128, 10 epochs), three seeds each: in Flax
with PyTorch's and with Keras's default initialisation, in PyTorch, and (the unpadded one, as the report) in Keras on
the JAX backend. Then takes the difference apart: (1) one network, one start, one order of batches in all frameworks;
(2) one network, two initialisations; (3) two networks. Some 110 minutes on 2 CPU cores (200 of a core, measured with
two runs at a time, each on one; `--epochs 2` a fifth of that); finished runs are kept in runs/framework_parity, so that
an interrupted experiment goes on. `--quick` takes made data, seconds, and linear networks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import common
import frameworks as fw
import numpy as np
from common import Study
from figures import draw_lines
from flax import nnx
from frameworks import EFFECTS, FLAX_TORCH, GAP, METRICS, PADDED, PARAMETERS, UNPADDED, Cells, last
from matplotlib.ticker import MaxNLocator
from rows import mean_std, plus_minus
from sweeps import Runs, after, dataset_of, recipe_of

import export
import flaxvision as fv
from flaxvision.report import FAINT, GRID, INK, OKABE_ITO, PAGE, figure_style, new_figure

UNLIKE = "the report does not say how it counted its first epoch"


def main(arguments: list[str] | None = None) -> None:
    epochs = {"type": int, "default": 10, "help": "of every run (default 10, the report's)"}
    options = common.read_options("framework_parity", __doc__, arguments, seeds=3, extra={"--epochs": epochs})
    quick = options.quick
    about = 'The report trains "the same" network in PyTorch and in Keras and ends 0.20 points of test accuracy apart. '
    about += f"Here its two networks are trained in both frameworks and in Flax, {options.seeds} seeds each."
    study = Study(options, "A", "One CNN in two frameworks", about)
    flax = fw.train_flax(study, options.extra.epochs)
    found = flax[FLAX_TORCH, UNPADDED]
    data, recipe = dataset_of(options, found.config), recipe_of(found.outcomes[0])
    study.uses(data, keras=metadata.version("keras"))
    cells = fw.train_cells(options, data, recipe, flax)
    name, sizes = fw.networks_of(options)[UNPADDED]
    trajectory = export.trajectory(name, data, recipe, steps=2 if quick else 40, **sizes)
    graphs = fw.time_graphs(data, recipe, fw.create(data, name, sizes, init="torch"), steps=2 if quick else 20)

    compare_with_published(study, cells)
    judge_gap(study, cells)
    answer(study, cells, judge_graphs(study, trajectory, graphs))
    tabulate_cells(study, cells)
    tabulate_effects(study, cells)
    judge_accuracies(study, cells, data)
    draw_curves(study, cells, data.classes)
    draw_effects(study, cells)
    draw_trajectories(study, trajectory)
    print(study.write())


# The numbers.


def compare_with_published(study: Study, cells: Cells) -> None:
    """For every printed number a row of the report's framework, and one of Flax."""
    for network, counted in PARAMETERS.items():
        shapes = nnx.eval_shape(functools.partial(fv.models.create, "wide_cnn", **fw.NETWORKS[network]))
        study.row(f"parameters, {network}", fv.models.count_parameters(shapes), "", published=counted, tolerance=0)
    for (framework, flax, network), metrics in fw.PUBLISHED.items():
        for metric, epochs in metrics.items():
            label, unit = METRICS[metric]
            for epoch, published in epochs.items():
                known = {"published": published, "note": UNLIKE if (metric, epoch) == ("train_top1", 1) else ""}
                known["tolerance"] = fw.TOLERANCE if (metric, epoch) == ("test_top1", 10) else None
                for name in (framework, flax):
                    runs = cells[name, network]
                    if epoch <= runs[metric].shape[1]:
                        what = f"{name}, {network}, epoch {epoch}: {label}"
                        study.row(what, after(runs, metric, epoch), unit, **known)
    keras = cells[fw.KERAS, UNPADDED]
    seconds = keras["seconds"] / keras["test_top1"].shape[1]
    study.row("Keras, seconds an epoch", seconds, "s", published=fw.SECONDS, note="other hardware")
    per_class = 100 * cells[FLAX_TORCH, PADDED]["train_per_class"][:, -1]
    for digit, share in enumerate(fw.PER_CLASS):
        what = f"{FLAX_TORCH}, {PADDED}: training accuracy of digit {digit}"
        study.row(what, per_class[:, digit], published=100 * share)


def tabulate_cells(study: Study, cells: Cells) -> None:
    header = ("framework", "network", *(f"{label} {unit}".strip() for label, unit in METRICS.values()))
    rows = [(*cell, *(mean_std(after(runs, m), METRICS[m][1]) for m in METRICS)) for cell, runs in cells.items()]
    note = "Mean and standard deviation over seeds; training values are running ones, as both frameworks print them."
    study.table("After the last epoch", header, rows, note)


# The difference, taken apart.


def words(metric: str, difference: float, half: float = np.nan, sign: bool = True) -> str:
    """A difference, with half of its interval and its unit."""
    unit = METRICS[metric][1]
    return plus_minus(difference, half, unit, sign) + (" points" if unit else "")


def listed(differences: Mapping[str, tuple[float, ...]], sign: bool = True) -> str:
    return "; ".join(f"{METRICS[metric][0]} {words(metric, *size, sign=sign)}" for metric, size in differences.items())


GAPS = {metric: (gap,) for metric, gap in GAP.items()}


def sizes_of(effect: fw.Effect, cells: Cells) -> dict[str, fw.Size]:
    return {metric: effect.size(last(cells, metric)) for metric in GAP}


def seed_pairs(cells: Cells) -> dict[str, tuple[float]]:
    """What 95 % of pairs of runs that differ in their seeds differ by at most."""
    return {metric: (fw.by_seed(last(cells, metric)),) for metric in GAP}


def tabulate_effects(study: Study, cells: Cells) -> None:
    """The size of each effect, below the published gap."""
    rows = [(fw.GAP_NAME, GAPS, True)]
    rows += [(effect.name, sizes_of(effect, cells), not effect.paired) for effect in EFFECTS]
    rows.append(("95 % of pairs of seeds: at most", seed_pairs(cells), False))
    study.table(
        "The difference, taken apart",
        ("effect", *(METRICS[metric][0] for metric in GAP)),
        [(name, *(words(metric, *size, sign=sign) for metric, size in sizes.items())) for name, sizes, sign in rows],
        "Differences of means after the last epoch, with 95 % confidence intervals; in (1), where the runs of a seed "
        "belong together, the mean of their absolute differences.",
    )


def judge_gap(study: Study, cells: Cells) -> None:
    """The report's causes, and the one that it did not see: a verdict each; it must make at least half of each gap."""
    study.claim(
        "both frameworks train the same network",
        len(set(PARAMETERS.values())) == 1,
        f"{PARAMETERS[PADDED]:,} parameters in PyTorch, {PARAMETERS[UNPADDED]:,} in Keras, which does not pad (and "
        "has, as assumed, a ReLU more)",
    )
    for cause, effect in fw.CAUSES.items():
        parts = {effect.explains(last(cells, metric), gap) for metric, gap in GAP.items()}
        verdict = next(v for v in ("not supported", "not decided", "supported") if v in parts)
        sizes = listed(sizes_of(effect, cells), sign=not effect.paired)
        evidence = f"{effect.name[4:]}: {sizes}; it must make half of each gap ({listed(GAPS)})"
        study.claim(f"the gap comes from {cause}", verdict, evidence)
    pairs = seed_pairs(cells)
    known = all(np.isfinite(pairs[metric][0]) for metric in GAP)
    study.claim(
        "the gap comes from random seeds",
        all(abs(gap) <= pairs[metric][0] for metric, gap in GAP.items()) if known else "not decided",
        f"95 % of pairs of seeds differ by at most: {listed(pairs, sign=False)}; it must be as much as the gap",
    )


def answer(study: Study, cells: Cells, graphs: str) -> None:

    def causes_in(metric: str) -> str:
        values = last(cells, metric)
        return " and ".join(c for c, effect in fw.CAUSES.items() if effect.explains(values, GAP[metric]) == "supported")

    pairs = seed_pairs(cells)
    causes = (fw.NUMERICS, fw.INITIALISATION, fw.NETWORK)
    numerics, initialisation, network = (sizes_of(effect, cells) for effect in causes)
    found = {metric: causes_in(metric) for metric in GAP}
    sentences = []
    for cause in dict.fromkeys(filter(None, found.values())):
        gaps = " and ".join(METRICS[metric][0] for metric in GAP if found[metric] == cause)
        sentences.append(f"The gap in {gaps} comes from {cause}: that makes half of it or more.")
    for metric in (metric for metric in GAP if not found[metric]):
        apart, gap = pairs[metric][0], abs(GAP[metric])
        said = f"No cause is shown to make half of the gap in {METRICS[metric][0]} ({words(metric, gap, sign=False)})"
        if gap <= apart:
            said += f"; two seeds of one and the same training differ by up to {words(metric, apart, sign=False)}, so "
            said += "that one run each cannot tell the frameworks apart"
        sentences.append(f"{said}.")
    sentences += ["Static and dynamic graphs compute the same, at another speed."] * (graphs == "not supported")
    text = f"""
{" ".join(sentences)}

The report trained two networks in two frameworks, and its gap is: {listed(GAPS)}.

- With one network, one start and one order of batches, |Keras − PyTorch|: {listed(numerics, False)}.
- With one network in one framework, Keras's initialisation less PyTorch's: {listed(initialisation)}.
- In one framework, the unpadded network less the padded one: {listed(network)}.
- Two seeds of one and the same training differ by at most (95 % of pairs): {listed(pairs, sign=False)}.
- Which framework is easier is a matter of taste: no run decides it.
"""
    study.text("The answer", text)


def judge_graphs(study: Study, trajectory: export.Trajectory, graphs: dict[str, tuple]) -> str:
    (static, fast), (dynamic, slow) = graphs["static"], graphs["dynamic"]
    apart = float(np.abs(static / dynamic - 1).max())
    single, double = (trajectory.parting(precision).largest for precision in ("float32", "float64"))
    verdict = "not supported" if double < 1e-9 and apart < 1e-4 else "not decided"
    study.claim(
        "static and dynamic graphs learn differently",
        verdict,
        f"from one start, {len(trajectory.losses['flax', 'float64'])} losses of a compiled graph (JAX) and of a "
        f"dynamic one (PyTorch) differ by {double:.0e} in float64 and {single:.0e} in float32; {len(static)} of JAX "
        f"compiled and op by op by {apart:.0e}, at {fast:.0f} and {slow:.0f} ms a step: the graph changes the speed",
    )
    return verdict


def judge_accuracies(study: Study, cells: Cells, data: fv.data.Dataset) -> None:
    """What the report's accuracies are accuracies of."""
    shares = np.array(fw.PER_CLASS)
    counts = {"training": np.bincount(data.train.labels), "test": np.bincount(data.test.labels)}
    overall = float((shares * counts["training"]).sum() / counts["training"].sum())
    whole = {split: int(np.isclose(np.round(np.round(shares * n) / n, 4), shares).sum()) for split, n in counts.items()}
    runs = cells[FLAX_TORCH, PADDED]
    train, test = (100 * runs[f"{split}_per_class"][:, -1].mean(axis=0) for split in ("train", "test"))
    study.claim(
        "the accuracy of each class is that of recognising it",
        "not supported" if whole["training"] > whole["test"] else "not decided",
        f"it is counted on training images, while the weights change: {whole['training']} of the 10 are whole images "
        f"of the training set's classes, {whole['test']} of the test set's, and together they make {overall:.2%}, the "
        f"printed training accuracy. Ours: {train.min():.2f} to {train.max():.2f} % in training, {test.min():.2f} to "
        f"{test.max():.2f} % on test images",
    )
    models = [model for runs in cells.values() if isinstance(runs, Runs) for model in runs.models()]
    right = np.stack([fv.predict(model, data.test.images).argmax(axis=1) == data.test.labels for model in models])
    batches = [right[:, start : start + 128].mean(axis=1) for start in range(0, right.shape[1], 128)]
    off = 100 * (np.mean(batches, axis=0) - right.mean(axis=1))
    study.claim(
        f"the mean of {len(batches)} batch accuracies is the test accuracy",
        bool(np.abs(off).max() < 0.005),
        f"the last batch counts as much as the others but has {right.shape[1] % 128 or 128} of 128 images: in "
        f"{len(off)} runs of Flax the mean is off by {off.min():+.3f} to {off.max():+.3f} points",
    )


# The figures.


def draw_beside(
    study: Study, name: str, ylabel: str, curves: Mapping[str, Mapping[str, Any]], caption: str, **look: Any
) -> None:
    """Curves on test images and, dashed, on training images: split -> title -> {name: (seeds, epochs)}."""
    values = [np.ravel(line) for panels in curves.values() for lines in panels.values() for line in lines.values()]
    low, high = (float(extreme(np.concatenate(values))) for extreme in (np.nanmin, np.nanmax))
    look |= {"dashed": curves["train"], "dashed_means": "training (running)", "limits": (0.999 * low, 1.001 * high)}
    figure = draw_lines(curves["test"], ylabel, **look)
    if name == "classes":
        for axes, share in zip(figure.axes, fw.PER_CLASS, strict=False):
            axes.plot(10, 100 * share, "D", ms=3.5, color=OKABE_ITO[1], clip_on=False, zorder=4)
    study.figure(name, figure, caption)


def draw_curves(study: Study, cells: Cells, classes: tuple[str, ...]) -> None:
    """Accuracy and loss of every cell with an order of its own, and the accuracy of each class."""
    own = {cell: runs for cell, runs in cells.items() if cell[0] not in (fw.SAME_TORCH, fw.SAME_KERAS)}
    for name, ylabel, metric, scale in (("accuracy", "accuracy (%)", "top1", 100), ("loss", "loss", "loss", 1)):
        curves = {
            split: {
                f"{network.capitalize()}, {count:,} parameters": {
                    framework: scale * runs[f"{split}_{metric}"]
                    for (framework, of), runs in own.items()
                    if of == network
                }
                for network, count in PARAMETERS.items()
            }
            for split in ("test", "train")
        }
        caption = f"The {name} of every framework and initialisation over epochs."
        draw_beside(study, name, ylabel, curves, caption, log=metric == "loss")
    runs = cells[FLAX_TORCH, PADDED]
    curves = {
        split: {f"digit {c}": {"": 100 * runs[f"{split}_per_class"][..., i]} for i, c in enumerate(classes)}
        for split in ("test", "train")
    }
    caption = f"Accuracy of each class over epochs: {FLAX_TORCH}, padded. Diamonds: the report, on training images."
    draw_beside(study, "classes", "accuracy (%)", curves, caption, columns=5, height=1.5)


def draw_effects(study: Study, cells: Cells) -> None:
    """Each effect as a point with its interval, a panel a measure; the band is `by_seed`."""
    measures = {"test accuracy (points)": "test_top1", "training loss": "train_loss"}
    with figure_style():
        figure = new_figure(PAGE, 0.8 + 0.2 * len(EFFECTS))
        panels = figure.subplots(1, len(measures), sharey=True)
        for axes, (title, metric) in zip(panels, measures.items(), strict=True):
            values = last(cells, metric)
            if np.isfinite(spread := fw.by_seed(values)):
                axes.axvspan(-spread, spread, color=GRID, linewidth=0)
            axes.axvline(0, color=FAINT, linewidth=0.6)
            axes.plot(GAP[metric], 0, "D", ms=4, color=OKABE_ITO[1])
            for place, effect in enumerate(EFFECTS, 1):
                difference, half = effect.size(values)
                interval = half if np.isfinite(half) else None
                axes.errorbar(difference, place, xerr=interval, fmt="o", ms=3.5, color=OKABE_ITO[0])
            axes.set_xlabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_yticks(range(len(EFFECTS) + 1), [fw.GAP_NAME, *(effect.name for effect in EFFECTS)])
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.spines["left"].set_visible(False)
        axes.set_ylim(len(EFFECTS) + 0.5, -0.5)
    study.figure(
        "effects",
        figure,
        "Effects after the last epoch with 95 % intervals, below the published gap. In the band lie 95 % of pairs of "
        "runs that differ in their seeds alone. In (1) they are absolute differences.",
    )


def draw_trajectories(study: Study, trajectory: export.Trajectory) -> None:
    """How far losses of one start and order are from PyTorch's, step by step."""
    names = {("flax", "float32"): "Flax", ("torch again", "float32"): "PyTorch reordered"}
    names |= {("flax", "float64"): "Flax, float64"}
    lines = {}
    for (framework, precision), name in names.items():
        apart = np.abs(trajectory.losses[framework, precision] / trajectory.losses["torch", precision] - 1)
        lines[name] = np.maximum(np.maximum.accumulate(apart, axis=-1), 1e-17)  # 0 has no logarithm
    caption = (
        "The unpadded network from one start in one order: the largest difference of a loss from PyTorch's up to each "
        "step. In float32 rounding grows, between frameworks as between two orders of summation in PyTorch; in float64 "
        "there is next to none."
    )
    look = {"xlabel": "step", "log": True, "limits": (8e-18, 1)}
    study.lines("trajectories", caption, {"": lines}, "largest relative difference", **look)


if __name__ == "__main__":
    main()
