"""What report D's experiments share: its data, a pretrained encoder, and many seeds trained here and in PyTorch.

The report's encoder is not published. Ours has the same layers and learned to tell MNIST's digits apart.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Options, Study, cached, plus_minus

import flaxvision as fv

ENCODER = ("encoder",)  # name prefix of its layers
DIGITS_ONLY = "our encoder knows digits only"
HELD_OUT = 0.2  # share of the training images of which the hold-out tables are made
METRICS = ("loss", "top1", "top3")
OPTIMIZERS = {"Adam 0.001": ("adam", 0.001), "SGD 0.1": ("sgd", 0.1), "SGD 0.01": ("sgd", 0.01)}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """Pretrained weights of the encoder, for both libraries."""

    file: Path  # of `fv.save_model`
    checksum: str  # of that file
    in_torch: Arrays  # by the names of PyTorch's state_dict; empty where PyTorch is not installed


def load(options: Options, name: str, validation: float | None = None) -> fv.data.Dataset:
    """A data set; with --quick so few characters that validation and test share a compiled evaluation."""
    few = {"examples": 80} if options.quick else {}
    return options.load(name, quick="glyphs47", validation=validation, **few)


def recipe_of(options: Options, optimizer: str, epochs: int, **settings: Any) -> fv.Recipe:
    """The recipe of one of `OPTIMIZERS`; with --quick what compiles soonest, and all rates of SGD share a program."""
    kind, rate = OPTIMIZERS[optimizer]
    if options.quick:
        kind, epochs, settings = "sgd", 2, {**settings, "conv": "native"}
    return fv.Recipe(optimizer=kind, learning_rate=rate, batch_size=32, epochs=epochs, **settings)


def pretrain_encoder(study: Study, folder: str | Path) -> Encoder:
    """Train report D's classifier on MNIST and keep its encoder's weights, in a file in `folder`."""
    digits = load(study.options, "mnist", validation=HELD_OUT)
    recipe = recipe_of(study.options, "Adam 0.001", epochs=5)
    study.uses(digits, pretraining=recipe)
    model = fv.models.create("emnist_cnn", num_classes=digits.num_classes, init="torch")
    result = fv.fit(model, digits, recipe)
    print(f"encoder pretrained on digits: {result.history['test_top1'][-1]:.2%} of the test images right", flush=True)
    file = fv.save_model(result.model, Path(folder) / "encoder.safetensors")
    in_torch = {}
    if importlib.util.find_spec("torch"):
        import export

        tensors = export.to_torch(result.model).state_dict()
        in_torch = {name: tensor.numpy() for name, tensor in tensors.items() if name.startswith(ENCODER)}
    return Encoder(file, hashlib.sha256(file.read_bytes()).hexdigest(), in_torch)


def train(
    options: Options,
    data: fv.data.Dataset,
    network: str,
    recipe: fv.Recipe,
    seeds: Sequence[int],
    *,
    encoder: Encoder | None = None,
    show: np.ndarray | None = None,
    **sizes: Any,
) -> Arrays:
    """Train a network from several seeds, a handful in one compiled program.

    Args:
        options: Of the experiment.
        data: What to train and evaluate on.
        network: A name of `flaxvision.models`.
        recipe: How to train.
        seeds: Of the initial weights and of the order of images.
        encoder: Weights whose encoder is taken over and does not learn.
        show: Images whose outputs after the last epoch are to be kept.
        **sizes: Of the network.

    Returns:
        "train_loss", "test_top1" and so on, (seeds, epochs); "seconds" (seeds,); with `show` "outputs" (seeds, …).
    """
    together = 1 if options.quick else 6  # more members a program take longer to compile

    def make() -> Arrays:
        results: list[fv.Result] = []
        for start in range(0, len(seeds), together):
            some = seeds[start : start + together]
            models, recipes = starts(data, network, recipe, some, encoder, sizes)
            results += fv.training.train_cohort(models, data, recipes)
        arrays = {name: np.stack([result.history[name] for result in results]) for name in names_in(results[0].history)}
        arrays["seconds"] = np.array([result.timing.total for result in results])
        if show is not None:
            arrays["outputs"] = np.stack([fv.predict(result.model, show) for result in results])
        return arrays

    key = key_of(data, network, recipe, encoder, sizes)
    shown = None if show is None else hashlib.sha256(show.tobytes()).hexdigest()
    return cached(options, {**key, "seeds": list(seeds), "show": shown}, make)


def starts(
    data: fv.data.Dataset,
    network: str,
    recipe: fv.Recipe,
    seeds: Sequence[int],
    encoder: Encoder | None,
    sizes: dict[str, Any],
) -> tuple[list[fv.layers.Chain], list[fv.Recipe]]:
    """A fresh network and its recipe for every seed."""
    frozen = {"frozen": ENCODER, "warm_start": str(encoder.file), "warm_start_only": ENCODER} if encoder else {}
    create = functools.partial(fv.models.create, network, num_classes=data.num_classes, init="torch", **sizes)
    return [create(seed=seed) for seed in seeds], [replace(recipe, seed=seed, **frozen) for seed in seeds]


def time_alone(
    options: Options,
    data: fv.data.Dataset,
    network: str,
    recipe: fv.Recipe,
    seeds: Sequence[int],
    encoder: Encoder | None,
) -> np.ndarray:
    """Seconds of runs that train one after the other, (seeds,); the first one compiles."""

    def make() -> Arrays:
        runs = zip(*starts(data, network, recipe, seeds, encoder, {}), strict=True)
        return {"seconds": np.array([fv.fit(model, data, seeded).timing.total for model, seeded in runs])}

    key = {"timed": "one by one", **key_of(data, network, recipe, encoder, {}), "seeds": list(seeds)}
    return cached(options, key, make)["seconds"]


def train_peer(
    options: Options,
    data: fv.data.Dataset,
    network: str,
    recipe: fv.Recipe,
    seeds: Sequence[int],
    *,
    encoder: Encoder | None = None,
    **sizes: Any,
) -> Arrays:
    """The same in plain PyTorch, from the same encoder; empty where that is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    from peers import train_torch

    weights, frozen = (encoder.in_torch, ENCODER) if encoder else ({}, ())
    key = {"library": "PyTorch", **key_of(data, network, recipe, encoder, sizes)}
    runs = []
    for seed in seeds:
        seeded = replace(recipe, seed=seed)
        runs.append(
            cached(
                options,
                {**key, "seed": seed},
                lambda: train_torch(network, data, seeded, weights=weights, frozen=frozen, **sizes),  # noqa: B023
            )
        )
    return {name: np.stack([run[name] for run in runs]) for name in (*names_in(runs[0]), "seconds")}


def key_of(
    data: fv.data.Dataset, network: str, recipe: fv.Recipe, encoder: Encoder | None, sizes: Any
) -> dict[str, Any]:
    """What a training depends on."""
    return {
        "data": [data.name, data.source.checksum, data.source.counts],
        "network": [network, sizes],
        "recipe": recipe,
        "encoder": encoder and encoder.checksum,
    }


def names_in(history: Any) -> list[str]:
    """The names of the metrics that a history holds."""
    names = [f"{split}_{metric}" for split in ("train", "val", "test") for metric in METRICS]
    return [name for name in names if name in history]


def at(values: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Of every seed the value at its epoch, counted from 0."""
    return np.take_along_axis(values, epochs[:, None], axis=1)[:, 0]


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and its standard error, which is not a number for one seed."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def with_error(values: np.ndarray, unit: str = "", sign: bool = False) -> str:
    """Mean and standard error in words, such as "0.6120 ± 0.0044"."""
    return plus_minus(*mean_and_error(values), unit, sign)


def is_lower(differences: np.ndarray) -> str:
    """The verdict on "the first is lower": whether differences over seeds are below 0 by two standard errors."""
    mean, error = mean_and_error(differences)
    return "supported" if mean < -2 * error else "not supported" if mean > 2 * error else "not decided"


def best_epochs(runs: Arrays, split: str = "test") -> np.ndarray:
    """Of every seed the epoch, from 0, of its smallest loss."""
    return runs[f"{split}_loss"].argmin(axis=1)


def last_epochs(runs: Arrays) -> np.ndarray:
    """Of every seed the last epoch."""
    return np.full(len(runs["test_loss"]), -1)


def added(runs: Arrays, metric: str, epochs: np.ndarray) -> np.ndarray:
    """Of every seed the score at its epoch of smallest test loss, less that at another; accuracies in points."""
    scale = 1 if metric == "loss" else 100
    return scale * (at(runs[f"test_{metric}"], best_epochs(runs)) - at(runs[f"test_{metric}"], epochs))


def judge_epochs(study: Study, final: dict[str, Arrays], held: dict[str, Arrays], metrics: Sequence[str]) -> None:
    """How far the score of the epoch that does best on the test set is off; `held` has a validation split too."""

    def bias(runs: Arrays, epochs: np.ndarray) -> str:
        return ", ".join(
            f"{metric.replace('top', 'top-')} {with_error(added(runs, metric, epochs), sign=True)}"
            for metric in metrics
        )

    sizes = [
        f"{name}: against the last epoch {bias(final[name], last_epochs(final[name]))}; against the epoch that a "
        f"validation split chooses {bias(runs, best_epochs(runs, 'val'))}"
        for name, runs in held.items()
    ]
    study.claim(
        "choosing the epoch on the test set gives an unbiased score",
        "not supported",
        "the smallest of several test losses is at most the one at an epoch chosen without the test set, so the score "
        f"is too good by construction. By how much, mean and standard error over seeds: {'; '.join(sizes)}"
        + (" (top-1 in points)" if "top1" in metrics else ""),
    )
