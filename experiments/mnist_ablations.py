"""Report B2: small networks on MNIST, and an experiment for each of the report's claims.

    python experiments/mnist_ablations.py --raw-dir DATA

Adam 0.001 where nothing else is said, batches of 32, 4 epochs, PyTorch's initialisation, the 5 seeds of a network as
one cohort. Some 7 minutes on one CPU core; `--quick` takes made data, seconds, and one network in place of all.
"""

from __future__ import annotations

from collections.abc import Mapping

import ablation_claims as claims
from ablation_networks import (
    CLIPPED,
    DEPTHS,
    LIBRARY,
    NETWORKS,
    OPTIMIZERS,
    UNCLEARED,
    WIDTHS,
    Estimate,
    Network,
    train,
)
from common import Study, read_options
from mnist_classifier import EVERY, Losses, compare_losses
from sweeps import dataset_of, published

ABOUT = """
The report prints the parameters of three networks, from which their sizes follow; the other sizes, and the depth of
its sigmoid network, are assumed. A layer is a linear map; hidden layers have 30 units and a ReLU unless more is said.

**Rule.** A claim says that a quantity lies in an interval: above 0 for "larger", within ± 0.7 points of accuracy for
"equal" (as far as a printed accuracy may be from ours). It is *supported* if the mean ± 2 standard errors over seeds
lies inside, for each quantity that it is about; *not supported* if it lies outside for one; else *not decided*. Numbers
in brackets are these 2 standard errors. Memory and output sizes are exact: they are as claimed in every case, or not.
"""
SMOOTH = 100  # iterations that a point of our curves is the mean of
PUBLISHED = {"2 layers, BatchNorm": "two-bn", "convolution": "conv", "convolution, max-pool": "conv-pool"}  # variants
LOSSES = {
    "2 layers, BatchNorm": (
        (0.712, 0.342, 0.273), (0.225, 0.217, 0.200), (0.176, 0.175, 0.169), (0.149, 0.157, 0.155),
    ),
    "convolution": (
        (0.391, 0.184, 0.130), (0.091, 0.085, 0.088), (0.065, 0.067, 0.067), (0.062, 0.052, 0.054),
    ),
}  # fmt: skip
LOSS_NOTES = {"convolution": "published: 0.054 or 0.056"}  # on the last of them
OTHERS = {  # network -> the sweep's counterpart, and what there is to say; these have no tolerance
    "convolution, max-pool": (None, 'published: "similar"'),
    "2 layers": ("two-plain", "published: about"),
    "3 layers": ("three-plain", "sizes assumed"),
    "3 layers, BatchNorm": ("three-bn", "sizes assumed"),
    "6 layers, sigmoid": ("deep-sigmoid", "the report does not describe the network, nor say which accuracy is whose"),
    "6 layers": ("deep-relu", "the same"),
    CLIPPED: ("deep-relu", "a guess: a ReLU that is always 0 is a class that is never predicted"),
}


def main(arguments: list[str] | None = None) -> None:
    options = read_options("mnist_ablations", __doc__, arguments, seeds=5)
    study = Study(options, "B2", "Ten small networks on MNIST, and what they are said to show", ABOUT)
    every, smooth, optimizers = (2, 2, ["Adam 0.001"]) if options.quick else (EVERY, SMOOTH, list(OPTIMIZERS))
    runs = train(study, *NETWORKS)
    data = dataset_of(options, runs["2 layers"].config)
    pairs = {f"{n} layers, Adam 0.001": (runs[f"{n} layers"], runs[f"{n} layers, sigmoid"]) for n in DEPTHS}
    clearing = {}
    for name in optimizers:
        settings = OPTIMIZERS[name]
        (cleared,), (kept,) = (
            train(study, "2 layers", **{**settings, **own}).values() for own in ({}, {"optimizer": UNCLEARED[name]})
        )
        clearing[name] = (cleared, kept)
        if settings:
            pairs[f"2 layers, {name}"] = (cleared, *train(study, "2 layers, sigmoid", **settings).values())

    compare_numbers(study, runs)
    losses = {}
    for name, printed in LOSSES.items():
        title, note = f"{name} ({runs[name].parameters:,} parameters)", LOSS_NOTES.get(name, "")
        losses[title] = Losses(printed, runs[name]["step_loss"], what=f"mean loss, {name}", note=note)
    compare_losses(study, "losses", losses, every, runs["2 layers"]["test_top1"].shape[1])
    list_networks(study, runs)
    claims.judge_clearing(study, clearing, smooth)
    claims.judge_modes(study, {name: runs[name] for name in ("2 layers, dropout", "2 layers, BatchNorm")}, data.test)
    claims.judge_sigmoid(study, runs, data.test.images[:1000], smooth)
    claims.judge_59_and_85(study, runs)
    claims.judge_speed(study, pairs, smooth)
    claims.judge_depth(study, runs, data.test.images)
    claims.judge_batch_norm(study, runs)
    claims.judge_width(study, {width: runs[name] for name, width in WIDTHS.items()}, data.train)
    claims.judge_convolution(study, runs)
    claims.judge_output_size(study)
    study.write()


def compare_numbers(study: Study, runs: Mapping[str, Network]) -> None:
    for name, variant in PUBLISHED.items():
        known = published(LIBRARY, "parameters", {"variant": variant})
        study.row(f"parameters, {name}", runs[name].parameters, "", **known)
    for name, variant in list(PUBLISHED.items())[:2]:
        known = published(LIBRARY, "test_top1", {"variant": variant})
        study.row(f"test accuracy, {name}", runs[name].last("test_top1"), **known)
    for name, (variant, note) in OTHERS.items():
        about = published(LIBRARY, "test_top1", {"variant": variant})["published"] if variant else None
        study.row(f"test accuracy, {name}", runs[name].last("test_top1"), published=about, note=note)


def list_networks(study: Study, runs: Mapping[str, Network]) -> None:
    rows = [
        (name, f"{run.parameters:,}", *(Estimate.of(run.last(m)) for m in ("test_top1", "test_loss", "train_loss")))
        for name, run in runs.items()
    ]
    header = ("network", "parameters", "test accuracy (%)", "test loss", "training loss, last epoch")
    note = "Convolution: 8 kernels of 6×6 at stride 2, BatchNorm, ReLU, one linear layer. Dropout: a quarter."
    study.table("Networks", header, rows, note)


if __name__ == "__main__":
    main()
