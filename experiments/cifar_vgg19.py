"""Report B3: VGG-19 on CIFAR-10, from scratch and pretrained, each trained correctly and as published.

    python experiments/cifar_vgg19.py --raw-dir DATA
    python experiments/cifar_vgg19.py --raw-dir DATA --epochs 2 --limit 25000  # a subset
    python experiments/cifar_vgg19.py --raw-dir DATA --weights vgg19_bn.pth    # from torchvision's ImageNet weights

The subset takes some 100 minutes on one CPU core, beside other work; all of it some 4 times as long (estimated).
`--quick` takes made data and seconds.

The published loop calls eval() at each test, every 100 iterations, and train() only when the next epoch starts: after
iteration 100 of every epoch, BatchNorm normalises by running statistics that no longer move. `train` below has both
ways. Without --weights, convolutions are pretrained on drawn coloured characters, a much weaker start than ImageNet.
Beside the correct loop from scratch stands PyTorch on the same images. Each finished training is kept in
runs/cifar_vgg19/, so that an interrupted run goes on.

Found, on the subset: the fault costs 6 to 10 points of test accuracy, from scratch and pretrained; the "100 test
images" are 100 batches, 6,400 images.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import Options, Study, cached, means_of, read_options, torch_runs
from figures import draw_confusions, draw_lines
from flax import nnx
from rows import plus_minus

import export
import flaxvision as fv
from flaxvision.layers import BatchNorm, Chain, Context, Conv, Preprocess
from flaxvision.ops.policy import NATIVE, Policy
from flaxvision.report import GRID, most_confused
from flaxvision.training.confusion import confusion_pairs

ARMS = ("scratch", "scratch-as-published", "pretrained", "pretrained-as-published")  # start, and how it is trained
STARTS = ("scratch", "pretrained")
PARAMETERS = 20_365_002
ADAM = optax.adam(1e-4)
EPOCHS = 4
TEST_BATCHES = 100  # of as many images as a training batch, from the start of the test set
PRETRAINING_EPOCHS = 2  # on drawn characters
PUBLISHED: dict[str, dict[str, float]] = {  # test accuracies in %
    "scratch": {"the first test": 34, "the last test": 71, "loss": 0.74},
    "pretrained": {"the first test": 66, "the last test of epoch 1": 83, "the last test": 87.5, "loss": 0.14},
}
PUBLISHED_SECONDS = (3.7, 4.2)  # of 100 iterations and their test


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all arms share."""

    network: str = "vgg19"
    batch: int = 64
    every: int = 100  # iterations from test to test
    epochs: int = EPOCHS
    limit: int | None = None  # training images; None for all
    weights: str | None = None  # file of the pretrained start
    characters: int | None = None  # drawn for pretraining; None for as many as there are

    @property
    def other(self) -> str:
        """How it differs from the report's; "" if it does not."""
        if self.network == "vgg19" and self.epochs == EPOCHS and self.limit is None:
            return ""
        images = "all" if self.limit is None else f"{self.limit:,}"
        return f"other setting: {self.network}, training images: {images}, epochs: {self.epochs}"


def main(arguments: list[str] | None = None) -> None:
    """Train, judge, draw."""
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
    study.row("parameters of VGG-19", counted, "", published=PARAMETERS, tolerance=0)

    runs = {arm: train_seeds(arm, data, setting, options) for arm in ARMS if arm in given.arms}
    peer = train_peer(data, setting, options) if "scratch" in runs else {}
    for arm, found in runs.items():
        add_rows(study, arm, found, data, setting, peer if arm == "scratch" else {})
    judge(study, runs, data, setting)
    draw(study, runs, data, setting)
    study.write()


def create(network: str, seed: int = 0, num_classes: int = 10) -> Chain:
    """A fresh network for coloured images of 32 x 32 pixels, initialised as PyTorch does."""
    model = fv.models.create(network, input_shape=(32, 32, 3), num_classes=num_classes, seed=seed, init="torch")
    model.preprocess = Preprocess(1 / 255)
    return model


State = tuple[nnx.State, nnx.State, optax.OptState]  # parameters, running statistics, Adam's moments


def mode(training: bool) -> Context:
    """How BatchNorm runs; on a CPU with the convolutions made for it."""
    return Context(train=training, policy=Policy.for_training("cpu") if jax.default_backend() == "cpu" else NATIVE)


@functools.partial(jax.jit, static_argnames=("graphdef", "training"), donate_argnames="state")
def update(
    graphdef: nnx.GraphDef, state: State, images: jax.Array, labels: jax.Array, training: bool
) -> tuple[State, jax.Array]:
    """One iteration; `training` is the mode of BatchNorm, the parameters learn either way."""
    params, statistics, moments = state

    def loss_of(params: nnx.State) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, params, statistics, copy=True)
        logits = model(model.preprocess(images, jnp.float32), mode(training))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, nnx.state(model, nnx.BatchStat)

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    with jax.numpy_dtype_promotion("standard"):  # Adam in optax mixes whole numbers and floats
        changes, moments = ADAM.update(gradient, moments)
    return (optax.apply_updates(params, changes), statistics, moments), loss


@functools.partial(jax.jit, static_argnames="graphdef")
def classify(graphdef: nnx.GraphDef, params: nnx.State, statistics: nnx.State, images: jax.Array) -> jax.Array:
    """The class of each image, in evaluation mode."""
    model = nnx.merge(graphdef, params, statistics)
    return model(model.preprocess(images, jnp.float32), mode(training=False)).argmax(axis=1)


def predict(graphdef: nnx.GraphDef, state: State, images: np.ndarray) -> np.ndarray:
    """The class of each of many images."""
    parts = [images[start : start + 400] for start in range(0, len(images), 400)]
    return np.concatenate([np.asarray(classify(graphdef, *state[:2], part)) for part in parts])


def begin(model: Chain) -> tuple[nnx.GraphDef, State]:
    """The model's definition, and a state that `update` may overwrite."""
    graphdef, params, statistics = jax.tree.map(jnp.copy, nnx.split(model, nnx.Param, nnx.BatchStat))
    return graphdef, (params, statistics, ADAM.init(params))


def batches(split: fv.data.Split, size: int, seed: int, epoch: int) -> Iterator[fv.data.Split]:
    """An epoch's whole batches, in an order of its own."""
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    for start in range(0, len(split) - size + 1, size):
        yield split[order[start : start + size]]


def train(model: Chain, data: fv.data.Dataset, setting: Setting, seed: int, as_published: bool) -> dict[str, Any]:
    """Train a model, testing it every so many iterations.

    Returns:
        "loss" and "training" (BatchNorm's mode) of each iteration, "accuracy" of each test and "seconds" since the one
        before, and "predicted", a class for every test image at the end.
    """
    tested = data.test[: TEST_BATCHES * setting.batch]
    graphdef, state = begin(model)
    found: dict[str, list[Any]] = {"loss": [], "training": [], "accuracy": [], "seconds": []}
    for epoch in range(setting.epochs):
        training = True
        began = perf_counter()
        for iteration, batch in enumerate(batches(data.train[: setting.limit], setting.batch, seed, epoch), 1):
            state, loss = update(graphdef, state, batch.images, batch.labels, training)
            found["loss"].append(float(loss))
            found["training"].append(training)
            if iteration % setting.every == 0:
                accuracy = np.mean(predict(graphdef, state, tested.images) == tested.labels)
                if as_published:
                    training = False  # eval() for the test, and no train() after it
                found["accuracy"].append(accuracy)
                found["seconds"].append(perf_counter() - began)
                began = perf_counter()
                print(f"  epoch {epoch + 1}, iteration {iteration}: accuracy {accuracy:.4f}", flush=True)
    return {
        **{name: np.array(values) for name, values in found.items()},
        "predicted": predict(graphdef, state, data.test.images),
    }


def pretrained(model: Chain, setting: Setting, seed: int) -> Chain:
    """The model with pretrained convolutions and BatchNorms; the linear layers stay as they are."""
    names = tuple(name for name, layer in model.named_layers() if isinstance(layer, (Conv, BatchNorm)))
    if setting.weights:
        return export.from_torch(setting.weights, model, only=names)
    source = trained_on_characters(setting.network, setting.batch, setting.characters, seed)
    for (name, layer), (_, trained) in zip(model.named_layers(), source.named_layers(), strict=True):
        if name in names:
            nnx.update(layer, nnx.state(trained))
    return model


@functools.cache
def trained_on_characters(network: str, batch: int, limit: int | None, seed: int) -> Chain:
    """The network, trained to tell 47 drawn characters apart; both ways of training start from it."""
    characters = fv.data.load("glyphs47", size=32, channels=3, limit=limit)
    graphdef, state = begin(create(network, seed, characters.num_classes))
    for epoch in range(PRETRAINING_EPOCHS):
        for drawn in batches(characters.train, batch, seed, epoch):
            state, _ = update(graphdef, state, drawn.images, drawn.labels, training=True)
    return nnx.merge(graphdef, *state[:2])


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
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def train_peer(data: fv.data.Dataset, setting: Setting, options: Options) -> dict[str, np.ndarray]:
    """From scratch in plain PyTorch, (seeds, ...); empty where that is not installed, or with --quick."""
    subset = dataclasses.replace(data, train=data.train[: setting.limit])
    recipe = fv.Recipe(optimizer="adam", learning_rate=1e-4, batch_size=setting.batch, epochs=setting.epochs)
    return torch_runs(options, subset, (setting.network, {}), recipe, limit=setting.limit)


def add_rows(
    study: Study,
    arm: str,
    found: dict[str, np.ndarray],
    data: fv.data.Dataset,
    setting: Setting,
    peer: dict[str, np.ndarray],
) -> None:
    """Accuracies, loss and speed; published numbers stand beside the arm that has the published fault."""
    start, _, as_published = arm.partition("-")
    other = {"other setting": setting.other, "other start": start == "pretrained" and not setting.weights}
    note = ", ".join(name for name, differs in other.items() if differs and as_published)
    published = PUBLISHED[start] if as_published else {}
    accuracy = 100 * found["accuracy"]
    numbers = {
        "the first test": accuracy[:, 0],
        "the last test of epoch 1": accuracy[:, accuracy.shape[1] // setting.epochs - 1],
        "the last test": accuracy[:, -1],
    }
    if setting.epochs == 1:
        del numbers["the last test of epoch 1"]
    for test, values in numbers.items():
        study.row(f"{named(arm)}: accuracy at {test}", values, published=published.get(test), note=note)
    loss, theirs = (
        losses[:, -setting.every :].mean(axis=1) if len(losses) else ()
        for losses in (found["loss"], peer.get("step_loss", ()))
    )
    study.row(f"{named(arm)}: loss at the end", loss, "", published=published.get("loss"), peer=theirs, note=note)
    right = 100 * (found["predicted"] == data.test.labels).mean(axis=1)
    theirs = 100 * peer["test_top1"][:, -1] if peer else ()
    study.row(f"{named(arm)}: accuracy on the whole test set", right, peer=theirs)
    study.row(
        f"{named(arm)}: {setting.every} iterations and their test",
        np.median(found["seconds"], axis=1),
        "s",
        published_range=PUBLISHED_SECONDS if as_published else None,
        note="another machine" if as_published else "",
    )


def named(arm: str) -> str:
    """An arm in words."""
    return arm.replace("-as-", ", as ")


def judge(study: Study, runs: dict[str, dict[str, np.ndarray]], data: fv.data.Dataset, setting: Setting) -> None:
    """What the fault costs, and the report's statements, by rules that the evidence names."""
    for start in STARTS:
        if not {start, f"{start}-as-published"} <= runs.keys():
            continue
        correct, faulty = runs[start], runs[f"{start}-as-published"]
        # (seeds, epochs): up to the first test of all both ways are the same, so that one says nothing.
        tests = 100 * (faulty["accuracy"] - correct["accuracy"])
        tests[:, 0] = np.nan
        change = np.nanmean(tests.reshape(len(tests), setting.epochs, -1), axis=2)
        by_epoch = ", ".join(mean_error(values) for values in change.T)
        share = 100 * np.mean(~faulty["training"])
        error = ", with the standard error over seeds" if len(tests) > 1 else "; one seed, so without an error"
        before, after = (found["loss"][:, -setting.every :].mean() for found in (correct, faulty))
        study.claim(
            f"{start}: BatchNorm is in training mode while the network learns",
            "supported" if faulty["training"].all() else "not supported",
            f"in the published loop {share:.0f} % of the iterations run in evaluation mode; beside the correct loop, "
            f"with the same start and batches, that changes the test accuracy by {by_epoch} points (epoch by epoch, "
            f"means of the tests{error}) and the last loss from {before:.3f} to {after:.3f}",
        )
    arm, found = next(iter(runs.items()))
    hits = found["predicted"][0] == data.test.labels
    tested = min(TEST_BATCHES * setting.batch, len(hits))
    size = min(100, tested // 2)
    groups = 100 * hits[: tested // size * size].reshape(-1, size).mean(axis=1)
    study.claim(
        "each test is on 100 test images",
        "supported" if tested == 100 else "not supported",
        f"{TEST_BATCHES} batches of {setting.batch} give {tested:,} images; the final network ({named(arm)}) has "
        f"{100 * hits[:tested].mean():.2f} % on them, and {groups.min():.0f} to {groups.max():.0f} % on {size} "
        "of them at a time",
    )
    if set(STARTS) <= runs.keys():
        scratch, start = (100 * runs[name]["accuracy"].mean(axis=0) for name in STARTS)
        ahead = start[0] > scratch[0] and start[-1] > scratch[-1]
        study.claim(
            "ImageNet weights learn faster and end higher",
            "not decided" if not setting.weights else "supported" if ahead else "not supported",
            f"trained correctly: {start[0]:.1f} against {scratch[0]:.1f} % at the first test, {start[-1]:.1f} against "
            f"{scratch[-1]:.1f} % at the last" + ("" if setting.weights else "; this start is not from ImageNet"),
        )


def mean_error(values: np.ndarray) -> str:
    """A mean over seeds and its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return plus_minus(float(values.mean()), float(error), "%", sign=True)


def draw(study: Study, runs: dict[str, dict[str, np.ndarray]], data: fv.data.Dataset, setting: Setting) -> None:
    """Loss and accuracy over iterations, and all confusion matrices."""
    per_epoch = next(iter(runs.values()))["loss"].shape[1] // setting.epochs
    tests = np.arange(setting.every, per_epoch + 1, setting.every)
    x = np.concatenate([epoch * per_epoch + tests for epoch in range(setting.epochs)])
    panels: dict[str, dict[str, np.ndarray]] = {}
    for arm, found in runs.items():
        start, _, way = arm.partition("-")
        line = way.replace("-", " ") or "correct"
        loss = np.array([np.concatenate(means_of(losses, setting.every, per_epoch)) for losses in found["loss"]])
        panels.setdefault(f"{start}: test accuracy (%)", {})[line] = 100 * found["accuracy"]
        panels.setdefault(f"{start}: training loss", {})[line] = loss
    figure = draw_lines(panels, "", xlabel="iteration", x=x)
    for axes in figure.axes:
        for epoch in range(1, setting.epochs):
            axes.axvline(epoch * per_epoch, color=GRID, linewidth=0.8, zorder=0)
    caption = f"Test accuracy every {setting.every} iterations and mean loss of these; upright lines part epochs."
    study.figure("curves", figure, caption)

    matrices = {named(arm): confusion(found["predicted"][0], data) for arm, found in runs.items()}
    worst = "; ".join(f"{name}: {most_confused(confusion_pairs(m), data.classes)}" for name, m in matrices.items())
    study.figure(
        "confusion",
        draw_confusions(matrices, data.classes),
        f"Confusion on the whole test set (seed 0). Most confused: {worst}.",
    )


def confusion(predicted: np.ndarray, data: fv.data.Dataset) -> np.ndarray:
    """Counts, rows true and columns predicted."""
    counts = np.zeros((data.num_classes, data.num_classes), int)
    np.add.at(counts, (data.test.labels, predicted), 1)
    return counts


if __name__ == "__main__":
    main()
