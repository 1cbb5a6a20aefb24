"""Report B3: VGG-19 on CIFAR-10, from scratch and pretrained, each trained correctly and as published.

    python experiments/cifar_vgg19.py --raw-dir DATA
    python experiments/cifar_vgg19.py --raw-dir DATA --epochs 2 --limit 25000  # a subset
    python experiments/cifar_vgg19.py --raw-dir DATA --weights vgg19_bn.pth    # from torchvision's ImageNet weights

The subset takes some 100 minutes on one CPU core, beside other work; all of it some 4 times as long (estimated).
`--quick` takes made data and seconds.

The published loop calls eval() at each test, every 100 iterations, and train() only when the next epoch starts: after
iteration 100 of every epoch, BatchNorm normalises by running statistics that no longer move. `cifar_training.train` has
both ways. Without --weights, convolutions are pretrained on drawn coloured characters, a much weaker start than
ImageNet. Beside the correct loop from scratch stands PyTorch on the same images. Each finished training is kept in
runs/cifar_vgg19/, so that an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from cifar_training import EPOCHS, PRETRAINING_EPOCHS, TEST_BATCHES, Setting, create, pretrained, train
from common import Options, Study, cached, installed, read_options, stacked
from figures import draw_confusions, draw_lines
from flax import nnx
from rows import means_by_epoch, with_error
from sweeps import Arrays, after, published

import flaxvision as fv
from flaxvision.report import GRID, most_confused
from flaxvision.sweep import load_spec
from flaxvision.training.confusion import confusion_pairs

ARMS = ("scratch", "scratch-as-published", "pretrained", "pretrained-as-published")  # start, and how it is trained
STARTS = ("scratch", "pretrained")
SPEC = load_spec("cifar-vgg19")  # has the last accuracies
SCRATCH, WARM = ({"variant": name} for name in ("scratch", "warm start"))
LAST, WARM_LAST = (published(SPEC, "test_top1", where)["published"] for where in (SCRATCH, WARM))
PUBLISHED: dict[str, dict[str, float]] = {  # test accuracies in %
    "scratch": {"the first test": 34, "the last test": LAST, "loss": 0.74},
    "pretrained": {"the first test": 66, "the last test of epoch 1": 83, "the last test": WARM_LAST, "loss": 0.14},
}
PUBLISHED_SECONDS = (3.7, 4.2)  # of 100 iterations and their test


def main(arguments: list[str] | None = None) -> None:
    extra: dict[str, dict[str, Any]] = {
        "--arms": {"nargs": "+", "choices": ARMS, "default": ARMS, "help": "what to train (default: all)"},
        "--epochs": {"type": int, "default": EPOCHS, "help": f"of each arm (default {EPOCHS})"},
        "--limit": {"type": int, "help": "training images (default: all)"},
        "--weights": {"metavar": "FILE", "help": "torchvision's vgg19_bn, a .pth or .safetensors file"},
    }
    options = read_options("cifar_vgg19", __doc__, arguments, extra=extra)
    given = options.extra
    setting = Setting(epochs=given.epochs, limit=given.limit, weights=given.weights)
    if given.limit is not None and given.limit < setting.every * setting.batch:
        raise fv.UserError(f"--limit is {given.limit}: give {setting.every * setting.batch} or more, to reach a test")
    if options.quick:
        setting = Setting("strided_cnn", batch=16, every=2, epochs=1, weights=given.weights, characters=64)
    data = options.load("cifar10", quick_limit=64, size=32, channels=3)

    start = Path(given.weights).name if given.weights else "drawn coloured characters, not ImageNet"
    about = [f"Pretrained on: {start}.", "Published numbers stand beside the runs that have the published fault."]
    about += [f"{text.capitalize()}." for text in (setting.other, data.source.note) if text]
    study = Study(options, "B3", "VGG-19 on CIFAR-10", " ".join(about))
    settings = dataclasses.asdict(setting) | {"weights": given.weights and Path(given.weights).name}
    study.uses(data, **settings, optimizer="Adam 0.0001", init="torch", pretraining_epochs=PRETRAINING_EPOCHS)
    counted = fv.models.count_parameters(nnx.eval_shape(functools.partial(create, "vgg19")))
    study.row("parameters of VGG-19", counted, "", **published(SPEC, "parameters", SCRATCH))

    runs = {arm: train_seeds(arm, data, setting, options) for arm in ARMS if arm in given.arms}
    peer = train_peer(data, setting, options) if "scratch" in runs else {}
    for arm, found in runs.items():
        add_rows(study, arm, found, data, setting, peer if arm == "scratch" else {})
    judge(study, runs, data, setting)
    draw(study, runs, data, setting)
    study.write()


def train_seeds(arm: str, data: fv.data.Dataset, setting: Setting, options: Options) -> dict[str, np.ndarray]:
    """What `train` gives for every seed, with an axis of seeds in front."""
    start, _, as_published = arm.partition("-")

    def one(seed: int) -> dict[str, np.ndarray]:
        print(f"{arm}, seed {seed}", flush=True)
        model = create(setting.network, seed)
        if start == "pretrained":
            model = pretrained(model, setting, seed)
        return train(model, data, setting, seed, bool(as_published))

    key = {"arm": arm, **dataclasses.asdict(setting), "data": data.source.checksum, "pretraining": PRETRAINING_EPOCHS}
    if setting.weights:
        key["weights"] = hashlib.sha256(Path(setting.weights).read_bytes()).hexdigest()
    runs = [cached(options, {**key, "seed": seed}, functools.partial(one, seed)) for seed in range(options.seeds)]
    return stacked(runs)


def train_peer(data: fv.data.Dataset, setting: Setting, options: Options) -> dict[str, np.ndarray]:
    """From scratch in plain PyTorch, (seeds, ...); empty where that is not installed, or with --quick."""
    if options.quick or not installed("torch"):
        return {}
    from peers import train_torch

    subset = dataclasses.replace(data, train=data.train[: setting.limit])
    recipe = fv.Recipe(optimizer="adam", learning_rate=1e-4, batch_size=setting.batch, epochs=setting.epochs)
    runs = []
    for each in (dataclasses.replace(recipe, seed=seed) for seed in range(options.seeds)):
        key = {"peer": dataclasses.asdict(setting), "recipe": each, "data": data.source.checksum}
        runs.append(cached(options, key, functools.partial(train_torch, setting.network, subset, each)))
    return stacked(runs)


def add_rows(study: Study, arm: str, found: Arrays, data: fv.data.Dataset, setting: Setting, peer: Arrays) -> None:
    """Accuracies, loss and speed; published numbers stand beside the arm that has the published fault."""
    start, _, as_published = arm.partition("-")
    other = {"other setting": setting.other, "other start": start == "pretrained" and not setting.weights}
    note = ", ".join(name for name, differs in other.items() if differs and as_published)
    printed = PUBLISHED[start] if as_published else {}
    accuracy = 100 * found["accuracy"]
    tests = {"the first test": 0, "the last test of epoch 1": accuracy.shape[1] // setting.epochs - 1}
    for test, at in {**tests, "the last test": -1}.items():
        if setting.epochs == 1 and test.endswith("epoch 1"):
            continue
        study.row(f"{named(arm)}: accuracy at {test}", accuracy[:, at], published=printed.get(test), note=note)
    loss = found["loss"][:, -setting.every :].mean(axis=1)
    theirs = peer["step_loss"][:, -setting.every :].mean(axis=1) if peer else ()
    study.row(f"{named(arm)}: loss at the end", loss, "", published=printed.get("loss"), peer=theirs, note=note)
    right = 100 * (found["predicted"] == data.test.labels).mean(axis=1)
    study.row(f"{named(arm)}: accuracy on the whole test set", right, peer=after(peer, "test_top1"))
    what, seconds = f"{named(arm)}: {setting.every} iterations and their test", np.median(found["seconds"], axis=1)
    known = {"published_range": PUBLISHED_SECONDS, "note": "another machine"} if as_published else {}
    study.row(what, seconds, "s", **known)


def named(arm: str) -> str:
    return arm.replace("-as-", ", as ")


def judge(study: Study, runs: dict[str, Arrays], data: fv.data.Dataset, setting: Setting) -> None:
    for start in STARTS:
        if not {start, f"{start}-as-published"} <= runs.keys():
            continue
        correct, faulty = runs[start], runs[f"{start}-as-published"]
        # (seeds, epochs): up to the first test of all both ways are the same, so that one says nothing.
        tests = 100 * (faulty["accuracy"] - correct["accuracy"])
        tests[:, 0] = np.nan
        change = np.nanmean(tests.reshape(len(tests), setting.epochs, -1), axis=2)
        by_epoch = ", ".join(with_error(values, "%", sign=True) for values in change.T)
        share = 100 * np.mean(~faulty["training"])
        error = ", with the standard error over seeds" if len(tests) > 1 else "; one seed, so without an error"
        correctly, as_printed = (found["loss"][:, -setting.every :].mean() for found in (correct, faulty))
        study.claim(
            f"{start}: BatchNorm is in training mode while the network learns",
            bool(faulty["training"].all()),
            f"in the published loop {share:.0f} % of the iterations run in evaluation mode; beside the correct loop, "
            f"with the same start and batches, that changes the test accuracy by {by_epoch} points (epoch by epoch, "
            f"means of the tests{error}) and the last loss from {correctly:.3f} to {as_printed:.3f}",
        )
    arm, found = next(iter(runs.items()))
    hits = found["predicted"][0] == data.test.labels
    tested = min(TEST_BATCHES * setting.batch, len(hits))
    size = min(100, tested // 2)
    groups = 100 * hits[: tested // size * size].reshape(-1, size).mean(axis=1)
    study.claim(
        "each test is on 100 test images",
        tested == 100,
        f"{TEST_BATCHES} batches of {setting.batch} give {tested:,} images; the final network ({named(arm)}) has "
        f"{100 * hits[:tested].mean():.2f} % on them, and {groups.min():.0f} to {groups.max():.0f} % on {size} "
        "of them at a time",
    )
    if set(STARTS) <= runs.keys():
        scratch, start = (100 * runs[name]["accuracy"].mean(axis=0) for name in STARTS)
        ahead = start[0] > scratch[0] and start[-1] > scratch[-1]
        study.claim(
            "ImageNet weights learn faster and end higher",
            bool(ahead) if setting.weights else "not decided",
            f"trained correctly: {start[0]:.1f} against {scratch[0]:.1f} % at the first test, {start[-1]:.1f} against "
            f"{scratch[-1]:.1f} % at the last" + ("" if setting.weights else "; this start is not from ImageNet"),
        )


def draw(study: Study, runs: dict[str, Arrays], data: fv.data.Dataset, setting: Setting) -> None:
    per_epoch = next(iter(runs.values()))["loss"].shape[1] // setting.epochs
    tests = np.arange(setting.every, per_epoch + 1, setting.every)
    x = np.concatenate([epoch * per_epoch + tests for epoch in range(setting.epochs)])
    panels: dict[str, dict[str, np.ndarray]] = {}
    for arm, found in runs.items():
        start, _, way = arm.partition("-")
        line = way.replace("-", " ") or "correct"
        loss = means_by_epoch(found["loss"], setting.every, setting.epochs).reshape(len(found["loss"]), -1)
        panels.setdefault(f"{start}: test accuracy (%)", {})[line] = 100 * found["accuracy"]
        panels.setdefault(f"{start}: training loss", {})[line] = loss
    figure = draw_lines(panels, "", xlabel="iteration", x=x)
    for axes in figure.axes:
        for epoch in range(1, setting.epochs):
            axes.axvline(epoch * per_epoch, color=GRID, linewidth=0.8, zorder=0)
    caption = f"Test accuracy every {setting.every} iterations and mean loss of these; upright lines part epochs."
    study.figure("curves", figure, caption)

    matrices = {named(arm): np.zeros((data.num_classes, data.num_classes), int) for arm in runs}
    for matrix, found in zip(matrices.values(), runs.values(), strict=True):
        np.add.at(matrix, (data.test.labels, found["predicted"][0]), 1)
    worst = "; ".join(f"{name}: {most_confused(confusion_pairs(m), data.classes)}" for name, m in matrices.items())
    caption = f"Confusion on the whole test set (seed 0). Most confused: {worst}."
    study.figure("confusion", draw_confusions(matrices, data.classes), caption)


if __name__ == "__main__":
    main()
