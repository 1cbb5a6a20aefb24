"""Report E, learning rates: a network on Fashion-MNIST at four rates, after 10 epochs and "converged" within 100.

    python experiments/fashion_learning_rate.py --raw-dir DATA

Some 80 minutes on 2 CPU cores (the committed run shared them). `--epochs 20` trains less (the second table then ends
there); `--quick` takes made data and seconds.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from common import Study, read_options
from rows import means_over
from sweeps import Runs, after, dataset_of, fill, published, torch_runs

import flaxvision as fv
from flaxvision.sweep import converged, load_spec

TEN_EPOCHS = load_spec("fashion-learning-rate")
PUBLISHED_EPOCHS = (5, 100, 99, 98)  # of convergence, by rate
THRESHOLDS = (0.1, 0.5, 1.0)  # points of accuracy; the report prints none, the first is our choice
CHANCE = float(np.log(10))  # cross-entropy of ten equal probabilities
ABOUT = """
784-256-512-10 with ReLU, plain SGD, batches of 64 in the stored order, PyTorch's initialisation. A run has *converged*
after the last epoch that changes its test accuracy by at least a threshold: the report prints none, ours is 0.1 points.
"""


def main(arguments: list[str] | None = None) -> None:
    flags = {"--epochs": {"type": int, "default": 100, "help": "epochs of every run (default 100)"}}
    options = read_options("fashion_learning_rate", __doc__, arguments, seeds=3, extra=flags)
    study = Study(options, "E", "Learning rates on Fashion-MNIST", ABOUT)
    quick = {"hidden": [16]}
    runs = fill(study, "fashion-convergence", epochs=options.extra.epochs, quick=quick)
    many = 4 if options.quick else 8
    (dead,) = fill(study, TEN_EPOCHS, only={"learning_rate": ["1"]}, seeds=many, quick=quick).values()

    add_rows(study, runs, explain_rate_one(study, dead))
    judge_convergence(study, runs)
    judge_overfitting(study, runs)
    draw(study, runs)
    study.write()


def unlit(model: fv.layers.Chain, images: np.ndarray) -> float:
    """The share of images for which no unit of the last hidden layer is on, so that only biases answer."""
    *hidden, _ = (layer for _, layer in model.named_layers())
    x = model.preprocess(jnp.asarray(images), jnp.float32)
    for layer in hidden:
        x = layer(x)
    return float((x <= 0).all(axis=1).mean())


def explain_rate_one(study: Study, runs: Runs) -> np.ndarray:
    """Rate 1 over more seeds, ours beside PyTorch's; returns PyTorch's accuracies in percent, (seeds, epochs)."""
    images = dataset_of(study.options, runs.config).test.images
    dark = [100 * unlit(model, images) for model in runs.models()]
    peer = 100 * torch_runs(study.options, runs, quick=True)["test_top1"]  # with --quick fewer seeds than ours
    epochs = peer.shape[1]
    numbers = (runs.last("test_top1"), dark, runs.last("train_loss"), peer[:, -1])
    study.table(
        f"Rate 1, seed by seed, after {epochs} epochs",
        ("seed", "accuracy (%)", "images with every unit off (%)", "training loss", "PyTorch's accuracy (%)"),
        [(seed, *(f"{x:.2f}" for x in values)) for seed, values in enumerate(zip(*numbers, strict=False))],
        "Large steps push the ReLUs of the last hidden layer below zero. An image that turns no unit on gets its class "
        "from the last biases alone: if all do, the accuracy is 10 %; if a few units still tell two groups of classes "
        "apart, 20 %. PyTorch's seeds are others than ours, so rows need not agree, only what can happen: the report's "
        "10.0 % is one draw, a mean over seeds lies above it.",
    )
    return peer


def add_rows(study: Study, rates: dict[str, Runs], peer: np.ndarray) -> None:
    """Both tables of the report; `peer` are PyTorch's accuracies at rate 1, (seeds, epochs)."""
    last = peer[:, -1]
    note = f"PyTorch after 10 epochs: about 10 % in {sum(last < 10.5)} of {len(last)} seeds, "
    note += f"{last.max():.0f} % at most; see below"
    epochs = rates["1"]["test_top1"].shape[1]

    def add(what: str, rate: str, runs: Runs, epoch: int, theirs: int, known: dict[str, float]) -> None:
        beside = {"peer": peer[:, theirs - 1], "note": note} if rate == "1" else {}
        study.row(f"test accuracy {what}, rate {rate}", after(runs, "test_top1", epoch), **known, **beside)

    for rate, runs in rates.items():
        known = published(TEN_EPOCHS, "test_top1", {"learning_rate": rate})
        add("after 10 epochs", rate, runs, min(10, epochs), 0, known)
    for (rate, runs), converged_at in zip(rates.items(), PUBLISHED_EPOCHS, strict=True):
        epoch = min(converged_at, epochs)
        add(f"converged (epoch {epoch}, as published)", rate, runs, epoch, epoch, runs.published())
    for (rate, runs), converged_at in zip(rates.items(), PUBLISHED_EPOCHS, strict=True):
        ends = [outcome.converged_epoch for outcome in runs.outcomes]
        study.row(f"epoch of convergence, rate {rate}", ends, "epoch", published=converged_at)


def stacked(rates: dict[str, Runs], metric: str) -> np.ndarray:
    """A metric of all runs, (rates, seeds, epochs)."""
    return np.stack([runs[metric] for runs in rates.values()])


def judge_convergence(study: Study, rates: dict[str, Runs]) -> None:
    """Epochs of convergence under several thresholds, and whether they mean that anything has converged."""
    accuracy, loss = stacked(rates, "test_top1"), stacked(rates, "train_loss")
    epochs = accuracy.shape[2]
    ends = {t: np.array([[converged(run, t / 100) for run in runs] for runs in accuracy]) for t in THRESHOLDS}
    at_ends = {t: 100 * np.take_along_axis(accuracy, end[..., None] - 1, 2)[..., 0] for t, end in ends.items()}
    rows = []
    for i, (rate, runs) in enumerate(rates.items()):
        cells = [f"{span(ends[t][i])} ({np.mean(at_ends[t][i]):.1f} %)" for t in THRESHOLDS]
        rows.append((rate, f"{PUBLISHED_EPOCHS[i]} ({runs.published()['published']} %)", *cells))
    study.table(
        "Epoch of convergence by threshold",
        ("rate", "published", *(f"{threshold:g} points" for threshold in THRESHOLDS)),
        rows,
        f"Smallest to largest over seeds, and the mean accuracy at that epoch; {epochs} at most: still changing.",
    )
    threshold, late = THRESHOLDS[0], min(10, epochs - 1)
    drift = 100 * (accuracy[..., -1] - accuracy[..., -1 - late])
    change = 100 * (loss[..., -1] / loss[..., -1 - late] - 1).mean(axis=1)
    for i, rate in list(enumerate(rates))[1:]:  # those that learn
        at_limit, drifting = ends[threshold][i] > epochs - 5, np.abs(drift[i]) >= threshold
        study.claim(
            f"rate {rate} has converged after {PUBLISHED_EPOCHS[i]} epochs",
            ~(at_limit | drifting),
            f"the last change of {threshold:g} points from one epoch to the next is at epoch "
            f"{span(ends[threshold][i])} (the limit is {epochs}); over the last {late} epochs the test accuracy moves "
            f"by {drift[i].min():+.2f} to {drift[i].max():+.2f} points, and the training loss "
            f"{'rises' if change[i] > 0 else 'falls'} by {abs(change[i]):.1f} %. Rule: a run has converged if neither "
            f"a change within its last 5 epochs nor the drift over its last {late} reaches {threshold:g} points",
        )


def judge_overfitting(study: Study, rates: dict[str, Runs]) -> None:
    """Which rates overfit: the test loss rises by 5 % or more while the training loss falls on."""
    train_loss, test_loss, train_top1 = (stacked(rates, name) for name in ("train_loss", "test_loss", "train_top1"))
    best = test_loss.argmin(axis=2)[..., None]
    lowest = np.take_along_axis(test_loss, best, 2)[..., 0]
    rise = test_loss[..., -1] / lowest - 1
    fall = 1 - train_loss[..., -1] / np.take_along_axis(train_loss, best, 2)[..., 0]
    overfits = (rise >= 0.05) & (fall > 0)
    rows = []
    for i, rate in enumerate(rates):
        train, test = f"{train_loss[i, :, -1].mean():.3f}", f"{test_loss[i, :, -1].mean():.3f}"
        right, count = f"{100 * train_top1[i, :, -1].mean():.1f}", f"{overfits[i].sum()} of {overfits.shape[1]}"
        at_end = (f"{test} ({100 * rise[i].mean():+.0f} %)", train, right, count)
        rows.append((rate, f"{lowest[i].mean():.3f}", span(best[i, :, 0] + 1), *at_end))
    at_end = ("test loss at the end", "training loss at the end", "training accuracy (%)", "seeds that overfit")
    rule = "A run overfits if its test loss ends 5 % or more above its smallest while the training loss falls on."
    study.table("Overfitting by rate", ("rate", "smallest test loss", "at epoch", *at_end), rows, rule)
    others = [rate for i, rate in enumerate(rates) if overfits[i].all()]
    ends = ", ".join(f"{value:.2f}" for value in train_loss[0, :, -1])
    tops = ", ".join(f"{100 * value:.0f} %" for value in train_top1[0, :, -1])
    study.claim(
        "a high learning rate (1) overfits",
        overfits[0],
        f"at rate 1 {int(overfits[0].sum())} of {overfits.shape[1]} seeds overfit: the training loss ends at {ends} "
        f"(chance: ln 10 = {CHANCE:.2f}) and the training accuracy at {tops}. Rates at which every seed overfits: "
        f"{', '.join(others) or 'none'}",
    )


def span(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def draw(study: Study, rates: dict[str, Runs]) -> None:
    titles = {"Training loss": "train_loss", "Test loss": "test_loss"}
    panels = {title: {rate: runs[name] for rate, runs in rates.items()} for title, name in titles.items()}
    study.lines("loss", "Loss over epochs for each learning rate", panels, "cross-entropy", log=True, heading="rate")

    panels = {"": {rate: 100 * runs["test_top1"] for rate, runs in rates.items()}}
    caption = "Test accuracy over epochs for each learning rate"
    study.lines("accuracy", caption, panels, "test accuracy (%)", heading="rate", limits=(0, 100))

    losses = stacked(rates, "step_loss")
    losses = losses[..., : losses.shape[2] // len(rates["1"]["test_top1"][0])]  # of the first epoch
    every = max(1, losses.shape[2] // 67)  # 14 of 938: single steps are too noisy to tell the lines apart
    means = means_over(losses, every)
    caption = f"Loss of the first epoch's steps, means of {every} steps, a line a seed"
    look = {"xlabel": "step of the first epoch", "x": every * (np.arange(means.shape[2]) + 0.5), "heading": "rate"}
    look |= {"log": True, "each": True}  # rate 1 jumps at other steps in each seed
    study.lines("first_epoch", caption, {"": dict(zip(rates, means, strict=True))}, "training loss", **look)


if __name__ == "__main__":
    main()
