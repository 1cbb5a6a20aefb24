"""Report E, learning rates: a network on Fashion-MNIST at four rates, after 10 epochs and "converged" within 100.

    python experiments/fashion_learning_rate.py --raw-dir DATA

Some 15 minutes on 2 CPU cores. `--epochs 20` trains less (the second table then ends there); `--quick`
takes made data.

Found: the report's accuracies at 0.1, 0.01 and 0.001. Rate 1 does not learn: 3 of 8 seeds stay at 10 %, as do 4 of 8 in
PyTorch, the others near 20 %. "A high rate overfits" names the wrong rate: 1 never learns, 0.1 overfits.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import common
import figures
import jax.numpy as jnp
import numpy as np
import peers

import flaxvision as fv
from flaxvision.report.labels import End, label_ends
from flaxvision.report.style import COLUMN, colors, new_figure, plain_logarithmic, style
from flaxvision.sweep.results import converged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (1.0, 0.1, 0.01, 0.001)
PUBLISHED = {  # rate: accuracy after 10 epochs, accuracy converged, epoch of convergence
    1.0: (10.0, 10.0, 5),
    0.1: (87.0, 89.1, 100),
    0.01: (83.5, 88.6, 99),
    0.001: (71.9, 84.7, 98),
}
THRESHOLDS = (0.1, 0.5, 1.0)  # points of accuracy; the report prints none, the first is our choice
CHANCE = float(np.log(10))  # cross-entropy of ten equal probabilities
ABOUT = """
784-256-512-10 with ReLU, plain SGD, batches of 64 in the stored order, PyTorch's initialisation. A run has *converged*
after the last epoch that changes its test accuracy by at least a threshold: the report prints none, ours is 0.1 points.
"""


def main(arguments: list[str] | None = None) -> None:
    """Train at every rate, judge both tables and two claims."""
    flags = {"--epochs": {"type": int, "default": 100, "help": "epochs of every run (default 100)"}}
    options = common.read_options("fashion_learning_rate", __doc__, arguments, seeds=3, extra=flags)
    hidden, epochs = ((16,), 2) if options.quick else ((256, 512), options.extra.epochs)
    seeds = range(options.seeds)
    study = common.Study(options, "E", "Learning rates on Fashion-MNIST", ABOUT)
    data = options.load("fashion_mnist")
    recipe = fv.Recipe(batch_size=64, shuffle=False, epochs=epochs)
    study.uses(data, recipe=recipe, hidden=hidden, init="torch", rates=RATES, thresholds=THRESHOLDS)

    # The four rates train together, seed after seed. Arrays are (rates, seeds, epochs), or steps in place of epochs.
    runs = [train(options, data, hidden, [at(recipe, rate, seed) for rate in RATES]) for seed in seeds]
    found = {name: np.stack([run[name] for run in runs], axis=1) for name in runs[0]}

    add_rows(study, found["test_top1"], explain_rate_one(study, data, hidden, recipe))
    judge_convergence(study, found)
    judge_overfitting(study, found)
    draw(study, found)
    study.write()


def at(recipe: fv.Recipe, rate: float, seed: int) -> fv.Recipe:
    """The recipe at one learning rate, for one seed."""
    return dataclasses.replace(recipe, learning_rate=rate, seed=seed)


def train(
    options: common.Options, data: fv.data.Dataset, hidden: tuple[int, ...], recipes: list[fv.Recipe]
) -> dict[str, np.ndarray]:
    """Train a network a recipe, all in one compiled program; (recipes, epochs), "step_loss" of the first epoch."""

    def make() -> dict[str, np.ndarray]:
        models = [
            fv.models.create("mlp", hidden=hidden, input_shape=data.input_shape, init="torch", seed=recipe.seed)
            for recipe in recipes
        ]
        results = fv.training.train_cohort(models, data, recipes)
        names = ("train_loss", "train_top1", "test_loss", "test_top1")
        arrays = {name: np.stack([result.history[name] for result in results]) for name in names}
        first_epoch = -(-len(data.train) // recipes[0].batch_size)
        arrays["unlit"] = np.array([unlit(result.model, data.test.images) for result in results])
        arrays["step_loss"] = np.stack([result.history["step_loss"][:first_epoch] for result in results])
        return arrays

    return common.cached(options, {"data": data.source.checksum, "hidden": hidden, "recipes": recipes}, make)


def unlit(model: fv.layers.Chain, images: np.ndarray) -> float:
    """The share of images for which no unit of the last hidden layer is on, so that only biases answer."""
    *hidden, _ = (layer for _, layer in model.named_layers())
    x = model.preprocess(jnp.asarray(images), jnp.float32)
    for layer in hidden:
        x = layer(x)
    return float((x <= 0).all(axis=1).mean())


def explain_rate_one(
    study: common.Study, data: fv.data.Dataset, hidden: tuple[int, ...], recipe: fv.Recipe
) -> list[float]:
    """Rate 1 over more seeds, ours beside PyTorch's; returns PyTorch's accuracies."""
    options = study.options
    epochs = min(10, int(recipe.epochs or 10))
    recipes = [at(dataclasses.replace(recipe, epochs=epochs), 1.0, seed) for seed in range(4 if options.quick else 8)]
    ours = train(options, data, hidden, recipes)

    def make() -> dict[str, np.ndarray]:
        runs = [peers.train_torch("mlp", data, each, hidden=hidden) for each in recipes[: 1 if options.quick else 8]]
        return {"test_top1": np.stack([run["test_top1"] for run in runs])}

    theirs = common.cached(options, {"peer": recipes, "data": data.source.checksum, "hidden": hidden}, make)
    peer = 100 * theirs["test_top1"][:, -1]  # with --quick fewer seeds than ours
    numbers = (100 * ours["test_top1"][:, -1], 100 * ours["unlit"], ours["train_loss"][:, -1], peer)
    study.table(
        f"Rate 1, seed by seed, after {epochs} epochs",
        ("seed", "accuracy (%)", "images with every unit off (%)", "training loss", "PyTorch's accuracy (%)"),
        [(seed, *(f"{x:.2f}" for x in values)) for seed, values in enumerate(zip(*numbers, strict=False))],
        "Large steps push the ReLUs of the last hidden layer below zero. An image that turns no unit on gets its class "
        "from the last biases alone: if all do, the accuracy is 10 %; if a few units still tell two groups of classes "
        "apart, 20 %. PyTorch's seeds are others than ours, so rows need not agree, only what can happen: the report's "
        "10.0 % is one draw, a mean over seeds lies above it.",
    )
    return [float(value) for value in peer]


def add_rows(study: common.Study, accuracy: np.ndarray, peer: list[float]) -> None:
    """Both tables of the report; `accuracy` (rates, seeds, epochs), `peer` PyTorch's in percent at rate 1."""
    tens = sum(value < 10.5 for value in peer)
    note = f"PyTorch after 10 epochs: about 10 % in {tens} of {len(peer)} seeds, {max(peer):.0f} % at most; see below"
    tenth = min(10, accuracy.shape[2]) - 1
    for rate, runs in zip(RATES, accuracy, strict=True):
        study.row(
            f"test accuracy after 10 epochs, rate {rate:g}",
            100 * runs[:, tenth],
            published=PUBLISHED[rate][0],
            tolerance=2.0,
            peer=peer if rate == 1 else (),
            note=note if rate == 1 else "",
        )
    ends = np.array([[converged(run, THRESHOLDS[0] / 100) for run in runs] for runs in accuracy])
    for rate, runs in zip(RATES, accuracy, strict=True):
        epoch = min(PUBLISHED[rate][2], accuracy.shape[2])
        study.row(
            f"test accuracy converged (epoch {epoch}, as published), rate {rate:g}",
            100 * runs[:, epoch - 1],
            published=PUBLISHED[rate][1],
            tolerance=1.5,
            note=note if rate == 1 else "",
        )
    for rate, epochs in zip(RATES, ends, strict=True):
        study.row(f"epoch of convergence, rate {rate:g}", epochs, "epoch", published=PUBLISHED[rate][2])


def judge_convergence(study: common.Study, found: dict[str, np.ndarray]) -> None:
    """Epochs of convergence under several thresholds, and whether they mean that anything has converged."""
    accuracy, loss = found["test_top1"], found["train_loss"]
    epochs = accuracy.shape[2]
    ends = {t: np.array([[converged(run, t / 100) for run in runs] for runs in accuracy]) for t in THRESHOLDS}
    rows = []
    for i, rate in enumerate(RATES):
        cells = [f"{PUBLISHED[rate][2]} ({PUBLISHED[rate][1]} %)"]
        for threshold in THRESHOLDS:
            at_end = [100 * run[epoch - 1] for run, epoch in zip(accuracy[i], ends[threshold][i], strict=True)]
            cells.append(f"{span(ends[threshold][i])} ({np.mean(at_end):.1f} %)")
        rows.append((f"{rate:g}", *cells))
    study.table(
        "Epoch of convergence by threshold",
        ("rate", "published", *(f"{threshold:g} points" for threshold in THRESHOLDS)),
        rows,
        f"Smallest to largest over seeds, and the mean accuracy at that epoch; {epochs} at most: still changing.",
    )
    changing = ends[THRESHOLDS[0]][1:] > epochs - 5  # of the rates that learn: all but 1
    late = min(10, epochs - 1)
    falls = 100 * (1 - loss[1:, :, -1] / loss[1:, :, -1 - late]).mean(axis=1)
    fall = ", ".join(f"{value:.1f} % ({rate:g})" for value, rate in zip(falls, RATES[1:], strict=True))
    study.claim(
        "rates 0.1, 0.01 and 0.001 have converged after 100, 99 and 98 epochs",
        common.judge(~changing.ravel()),
        f"{int(changing.sum())} of {changing.size} runs still change by {THRESHOLDS[0]:g} points or more within the "
        f"last 5 of {epochs} epochs; over the last {late} epochs their training loss fell by {fall}. Rule: a run has "
        "converged if no change of its last 5 epochs reaches the threshold",
    )


def judge_overfitting(study: common.Study, found: dict[str, np.ndarray]) -> None:
    """Which rates overfit: the test loss rises by 5 % or more while the training loss falls on."""
    train_loss, test_loss = found["train_loss"], found["test_loss"]
    best = test_loss.argmin(axis=2)[..., None]
    lowest = np.take_along_axis(test_loss, best, 2)[..., 0]
    rise = test_loss[..., -1] / lowest - 1
    fall = 1 - train_loss[..., -1] / np.take_along_axis(train_loss, best, 2)[..., 0]
    overfits = (rise >= 0.05) & (fall > 0)
    rows = [
        (
            f"{rate:g}",
            f"{lowest[i].mean():.3f}",
            span(best[i, :, 0] + 1),
            f"{test_loss[i, :, -1].mean():.3f} ({100 * rise[i].mean():+.0f} %)",
            f"{train_loss[i, :, -1].mean():.3f}",
            f"{100 * found['train_top1'][i, :, -1].mean():.1f}",
            f"{int(overfits[i].sum())} of {overfits.shape[1]}",
        )
        for i, rate in enumerate(RATES)
    ]
    study.table(
        "Overfitting by rate",
        (
            "rate",
            "smallest test loss",
            "at epoch",
            "test loss at the end",
            "training loss at the end",
            "training accuracy (%)",
            "seeds that overfit",
        ),
        rows,
        "A run overfits if its test loss ends 5 % or more above its smallest while the training loss falls on.",
    )
    others = [f"{rate:g}" for i, rate in enumerate(RATES) if overfits[i].all()]
    ends = ", ".join(f"{value:.2f}" for value in train_loss[0, :, -1])
    tops = ", ".join(f"{100 * value:.0f} %" for value in found["train_top1"][0, :, -1])
    study.claim(
        "a high learning rate (1) overfits",
        common.judge(overfits[0]),
        f"at rate 1 {int(overfits[0].sum())} of {overfits.shape[1]} seeds overfit: the training loss ends at {ends} "
        f"(chance: ln 10 = {CHANCE:.2f}) and the training accuracy at {tops}. Rates at which every seed overfits: "
        f"{', '.join(others) or 'none'}",
    )


def span(values: np.ndarray) -> str:
    """Smallest to largest of whole numbers."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def draw(study: common.Study, found: dict[str, np.ndarray]) -> None:
    """Losses and accuracy over epochs, and the loss of each step of the first epoch."""

    def by_rate(values: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{rate:g}": runs for rate, runs in zip(RATES, values, strict=True)}

    panels = {"Training loss": by_rate(found["train_loss"]), "Test loss": by_rate(found["test_loss"])}
    figure = figures.draw_lines(panels, "cross-entropy", log=True, heading="rate")
    study.figure("loss", figure, "Loss over epochs for each learning rate")

    panels = {"": by_rate(100 * found["test_top1"])}
    figure = figures.draw_lines(panels, "test accuracy (%)", heading="rate", limits=(0, 100))
    study.figure("accuracy", figure, "Test accuracy over epochs for each learning rate")

    study.figure("first_epoch", *draw_steps(found["step_loss"]))


def draw_steps(losses: np.ndarray) -> tuple[Figure, str]:
    """Losses of the first epoch, (rates, seeds, steps): a line a seed, since rate 1 jumps at other steps in each."""
    every = max(1, losses.shape[2] // 67)  # 14 of 938: single steps are too noisy to tell the lines apart
    steps = losses.shape[2] // every
    means = losses[..., : steps * every].reshape(*losses.shape[:2], steps, every).mean(axis=-1)
    places = every * (np.arange(steps) + 0.5)
    names = [f"{rate:g}" for rate in RATES]
    with style():
        figure = new_figure(COLUMN, 2.4)
        axes = figure.subplots()
        ends = []
        for name, color, runs in zip(names, colors(names), means, strict=True):
            axes.plot(places, runs.T, color=color, linewidth=0.8)
            ends.append(End(places[-1], float(runs[:, -1].mean()), name, color))
        axes.set(xlabel="step of the first epoch", ylabel="training loss", yscale="log")
        axes.margins(x=0)
        axes.grid(axis="y")
        plain_logarithmic(axes.yaxis)
        label_ends([(axes, ends)], "rate")
    return figure, f"Loss of the first epoch's steps, means of {every} steps, a line a seed"


if __name__ == "__main__":
    main()
