"""Report A: "the same" CNN in PyTorch and in Keras. Why do the two end at different accuracies?

    python experiments/framework_parity.py --raw-dir DATA

Trains the report's two networks on MNIST with its recipe (SGD 0.1, batch 128, 10 epochs), three seeds each: in Flax
with PyTorch's and with Keras's default initialisation, in PyTorch, and (the unpadded one, as the report) in Keras on
the JAX backend. Then takes the difference apart: (1) one network, one start, one order of batches in all frameworks;
(2) one network, two initialisations; (3) two networks. Some 110 minutes on 2 CPU cores (200 of a core, measured with
two runs at a time, each on one; `--epochs 2` a fifth of that); finished runs are kept in runs/framework_parity, so that
an interrupted experiment goes on. `--quick` takes made data, seconds, and linear networks.

Found: every framework repeats the printed numbers, after the last epoch to 0.17 points of test accuracy; only the
padded network's training accuracy in the first epoch is 5 points below, in PyTorch and in Flax alike. From one start in
one order Keras, PyTorch and Flax end 0.02 to 0.03 points of test accuracy apart. The gap in training accuracy and loss
comes from the two networks: Keras does not pad. The gap in test accuracy, 0.20 points, is less than the 0.36 by which
two seeds of one training differ. (Two runs in Flax, the padded network's first seeds, were trained on both cores.)
"""

from __future__ import annotations

import functools
from importlib import metadata

import common
import numpy as np
from common import Study
from effects import Effect, Size, by_seed
from flax import nnx
from framework_figures import draw_figures
from frameworks import (
    CAUSES,
    EFFECTS,
    FLAX_TORCH,
    GAP,
    GAP_NAME,
    INITIALISATION,
    KERAS,
    METRICS,
    NETWORK,
    NETWORKS,
    NUMERICS,
    PADDED,
    PARAMETERS,
    PER_CLASS,
    PUBLISHED,
    SECONDS,
    TOLERANCE,
    UNPADDED,
    Cells,
    create,
    last,
    networks_of,
    time_graphs,
    train_cells,
    train_flax,
)
from rows import mean_std, plus_minus
from sweeps import Runs, dataset_of, recipe_of

import export
import flaxvision as fv

UNLIKE = "the report does not say how it counted its first epoch"


def main(arguments: list[str] | None = None) -> None:
    """Train every cell, take the difference apart, judge the report's answers, write everything."""
    epochs = {"type": int, "default": 10, "help": "of every run (default 10, the report's)"}
    options = common.read_options("framework_parity", __doc__, arguments, seeds=3, extra={"--epochs": epochs})
    quick = options.quick
    study = Study(
        options,
        "A",
        "One CNN in two frameworks",
        'The report trains "the same" network in PyTorch and in Keras and ends 0.20 points of test accuracy apart. '
        f"Here its two networks are trained in both frameworks and in Flax, {options.seeds} seeds each.",
    )
    flax = train_flax(study, options.extra.epochs)
    found = flax[FLAX_TORCH, UNPADDED]
    data, recipe = dataset_of(options, found.config), recipe_of(found.outcomes[0])
    study.uses(data, keras=metadata.version("keras"))
    cells = train_cells(options, data, recipe, flax)
    name, sizes = networks_of(options)[UNPADDED]
    trajectory = export.trajectory(name, data, recipe, steps=2 if quick else 40, **sizes)
    graphs = time_graphs(data, recipe, create(data, name, sizes, init="torch"), steps=2 if quick else 20)

    compare_with_published(study, cells)
    judge_gap(study, cells)
    answer(study, cells, judge_graphs(study, trajectory, graphs))
    tabulate_cells(study, cells)
    tabulate_effects(study, cells)
    judge_accuracies(study, cells, data)
    draw_figures(study, cells, trajectory, data.classes)
    print(study.write())


# The numbers.


def compare_with_published(study: Study, cells: Cells) -> None:
    """For every printed number a row of the report's framework, and one of Flax."""
    for network, counted in PARAMETERS.items():
        name, sizes = NETWORKS[network]
        shapes = nnx.eval_shape(functools.partial(fv.models.create, name, **sizes))
        study.row(f"parameters, {network}", fv.models.count_parameters(shapes), "", published=counted, tolerance=0)
    for (framework, flax, network), metrics in PUBLISHED.items():
        for metric, epochs in metrics.items():
            label, scale, unit = METRICS[metric]
            for epoch, published in epochs.items():
                tolerance = TOLERANCE if (metric, epoch) == ("test_top1", 10) else None
                for name in (framework, flax):
                    values = scale * cells[name, network][metric]
                    if epoch <= values.shape[1]:
                        what = f"{name}, {network}, epoch {epoch}: {label}"
                        note = UNLIKE if (metric, epoch) == ("train_top1", 1) else ""
                        study.row(what, values[:, epoch - 1], unit, published=published, tolerance=tolerance, note=note)
    keras = cells[KERAS, UNPADDED]
    seconds = keras["seconds"] / keras["test_top1"].shape[1]
    study.row("Keras, seconds an epoch", seconds, "s", published=SECONDS, note="other hardware")
    per_class = 100 * cells[FLAX_TORCH, PADDED]["train_per_class"][:, -1]
    for digit, share in enumerate(PER_CLASS):
        what = f"{FLAX_TORCH}, {PADDED}: training accuracy of digit {digit}"
        study.row(what, per_class[:, digit], published=100 * share)


def tabulate_cells(study: Study, cells: Cells) -> None:
    """The report's table 1 for every cell."""

    study.table(
        "After the last epoch",
        ("framework", "network", *(f"{label} {unit}".strip() for label, _, unit in METRICS.values())),
        [
            (
                *cell,
                *(mean_std(last(cells, metric)[cell], unit) for metric, (_, _, unit) in METRICS.items()),
            )
            for cell in cells
        ],
        "Mean and standard deviation over seeds; training values are running ones, as both frameworks print them.",
    )


# The difference, taken apart.


def words(metric: str, difference: float, half: float = np.nan, sign: bool = True) -> str:
    """A difference, with half of its interval and its unit."""
    unit = METRICS[metric][2]
    shown = plus_minus(difference, half, unit, sign)
    return f"{shown}{' points' if unit else ''}"


def listed(differences: dict[str, tuple], sign: bool = True) -> str:
    """Differences in several metrics, in words."""
    return "; ".join(f"{METRICS[metric][0]} {words(metric, *size, sign=sign)}" for metric, size in differences.items())


def sizes_of(effect: Effect, cells: Cells) -> dict[str, Size]:
    return {metric: effect.size(last(cells, metric)) for metric in GAP}


def seed_pairs(cells: Cells) -> dict[str, tuple[float]]:
    """What 95 % of pairs of runs that differ in their seeds differ by at most."""
    return {metric: (by_seed(last(cells, metric)),) for metric in GAP}


def tabulate_effects(study: Study, cells: Cells) -> None:
    """The size of each effect, below the published gap."""
    rows = [(GAP_NAME, {metric: (gap,) for metric, gap in GAP.items()}, True)]
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
        "supported" if len(set(PARAMETERS.values())) == 1 else "not supported",
        f"{PARAMETERS[PADDED]:,} parameters in PyTorch, {PARAMETERS[UNPADDED]:,} in Keras, which does not pad (and "
        "has, as assumed, a ReLU more)",
    )
    gaps = listed({metric: (gap,) for metric, gap in GAP.items()})
    for cause, effect in CAUSES.items():
        parts = {effect.explains(last(cells, metric), gap) for metric, gap in GAP.items()}
        verdict = next(v for v in ("not supported", "not decided", "supported") if v in parts)
        sizes = listed(sizes_of(effect, cells), sign=not effect.paired)
        evidence = f"{effect.name[4:]}: {sizes}; it must make half of each gap ({gaps})"
        study.claim(f"the gap comes from {cause}", verdict, evidence)
    pairs = seed_pairs(cells)
    enough = all(abs(gap) <= pairs[metric][0] for metric, gap in GAP.items())
    known = all(np.isfinite(pairs[metric][0]) for metric in GAP)
    study.claim(
        "the gap comes from random seeds",
        "not decided" if not known else "supported" if enough else "not supported",
        f"95 % of pairs of seeds differ by at most: {listed(pairs, sign=False)}; it must be as much as the gap",
    )


def answer(study: Study, cells: Cells, graphs: str) -> None:
    """The report's question, answered from the sizes of the effects."""

    def causes_in(metric: str) -> str:
        values = last(cells, metric)
        return " and ".join(c for c, effect in CAUSES.items() if effect.explains(values, GAP[metric]) == "supported")

    pairs = seed_pairs(cells)
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
    plain = " ".join(sentences)
    text = f"""
{plain}

The report trained two networks in two frameworks, and its gap is: {listed({m: (gap,) for m, gap in GAP.items()})}.

- With one network, one start and one order of batches, |Keras − PyTorch|: {listed(sizes_of(NUMERICS, cells), False)}.
- With one network in one framework, Keras's initialisation less PyTorch's: {listed(sizes_of(INITIALISATION, cells))}.
- In one framework, the unpadded network less the padded one: {listed(sizes_of(NETWORK, cells))}.
- Two seeds of one and the same training differ by at most (95 % of pairs): {listed(pairs, sign=False)}.
- Which framework is easier is a matter of taste: no run decides it.
"""
    study.text("The answer", text)


def judge_graphs(study: Study, trajectory: export.Trajectory, graphs: dict[str, tuple]) -> str:
    """Static against dynamic graphs: the same numbers, at another speed."""
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
    shares = np.array(PER_CLASS)
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
        "supported" if np.abs(off).max() < 0.005 else "not supported",
        f"the last batch counts as much as the others but has {right.shape[1] % 128 or 128} of 128 images: in "
        f"{len(off)} runs of Flax the mean is off by {off.min():+.3f} to {off.max():+.3f} points",
    )


if __name__ == "__main__":
    main()
