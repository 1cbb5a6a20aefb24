"""Made-up results that look like the real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision.sweep.results import Cell, Outcome, SweepResult, Verdict
from flaxvision.training.confusion import confusion_pairs

SPLITS = ("train", "test")
ALL_SPLITS = ("train", "val", "test")
PROVENANCE = {
    "command": "python -m flaxvision.sweep fashion-learning-rate --seeds 3",
    "data sets": {"fashion_mnist": {"train": 60000, "test": 10000, "checksum": "2f1c7a…", "official": True}},
    "versions": {"flaxvision": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "python": "3.11.9"},
    "device": "cpu, 2 cores",
    "config hash": "9be41f07",
}


def history(
    rng: np.random.Generator, epochs: int, loss: float, error: float, classes: int, fail_at: int | None = None,
    splits: Sequence[str] = SPLITS, speed: float = 0.6,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Curves that fall to `loss` and `error` and then flatten; NaN from epoch `fail_at` on."""
    arrays = {}
    start = np.log(max(classes, 2))
    for split in splits:
        shrink = 0.9 if split == "train" else 1.0
        fall = np.exp(-speed * np.arange(1, epochs + 1))
        noise = rng.normal(1, 0.03, epochs)
        arrays[f"{split}_loss"] = (shrink * loss + (start - shrink * loss) * fall) * noise
        if fail_at is not None:
            arrays[f"{split}_loss"][fail_at - 1 :] = np.nan
        top1 = 1 - np.clip((shrink * error + (1 - 1 / max(classes, 2) - error) * fall) * noise, 0, 1)
        if fail_at is not None:
            top1[fail_at - 1 :] = 1 / max(classes, 2)
        if classes:
            confusion = np.stack([_confusion(rng, classes, value) for value in top1])
            if split != "train":
                arrays[f"{split}_pairs"] = confusion_pairs(confusion[-1])
            arrays[f"{split}_per_class"] = np.stack([np.diag(m) / m.sum(axis=1) for m in confusion])
            top1 = np.trace(confusion, axis1=1, axis2=2) / confusion[0].sum()
            arrays[f"{split}_top3"] = 1 - (1 - top1) / 4
        else:
            arrays[f"{split}_per_class"] = np.zeros((epochs, 0))
            top1 = arrays[f"{split}_top3"] = np.full(epochs, np.nan)
        arrays[f"{split}_top1"] = top1
    return arrays


def _confusion(rng: np.random.Generator, classes: int, top1: float, examples: int = 400) -> np.ndarray:
    rows = []
    for i in range(classes):
        shares = rng.gamma(0.25, size=classes)
        shares[i] = 0
        if classes > 1:
            shares *= (1 - top1) / shares.sum()
        shares[i] = 1 - shares.sum() if classes > 1 else 1
        rows.append(rng.multinomial(examples, np.clip(shares, 0, 1) / np.clip(shares, 0, 1).sum()))
    return np.stack(rows)


def outcome(
    where: Mapping[str, str], seed: int, arrays: dict[str, np.ndarray], *, stage: str = "sweep",
    parameters: int = 337_674, best_epoch: int | None = None, threshold: int | None = None, seconds: float = 57.25,
) -> Outcome:  # fmt: skip
    """A trial with this history."""
    loss = arrays["train_loss"]
    best = best_epoch or len(loss)
    final = {
        f"{split}_{metric}": float(arrays[f"{split}_{metric}"][best - 1])
        for split in ("train", "val", "test")
        for metric in ("loss", "top1", "top3")
        if f"{split}_{metric}" in arrays
    }
    return Outcome(
        id=hashlib.sha256(repr((stage, tuple(where.items()), seed)).encode()).hexdigest()[:12],
        stage=stage,
        cell=tuple(where.items()),
        seed=seed,
        status="ok" if np.isfinite(loss).all() else "diverged",
        config={"batch_size": 64, **where},
        parameters=parameters,
        final={name: value if np.isfinite(value) else None for name, value in final.items()},
        best_epoch=best,
        converged_epoch=threshold,
        seconds=seconds + seed,
        history=arrays,
    )


def cell(where: Mapping[str, str], outcomes: Sequence[Outcome], verdicts: Sequence[Verdict] = ()) -> Cell:
    """A cell of these trials."""
    return Cell(outcomes[0].stage, dict(where), tuple(outcomes), tuple(verdicts))


def verdict(outcomes: Sequence[Outcome], metric: str, published: float, tolerance: float) -> Verdict:
    """A published number judged."""
    values = [o.final[metric] for o in outcomes if o.final.get(metric) is not None]
    ours = float(np.mean(values)) if values else None
    word = "missing" if ours is None else "within" if abs(ours - published) <= tolerance else "outside"
    return Verdict(metric, published, tolerance, "report E, table 1", ours, word)


def result(directory: Path, cells: Sequence[Cell], keys: Sequence[str], **changes: Any) -> SweepResult:
    """A result of these cells; its winner has the highest objective."""
    objective = changes.get("objective", "test_top1")
    trials = [o for c in cells for o in c.outcomes]
    sign = -1 if objective.endswith("loss") else 1
    winner = max(trials, key=lambda o: -np.inf if o.final.get(objective) is None else sign * o.final[objective])
    settings: dict[str, Any] = {
        "name": "example",
        "title": "An example",
        "description": "Made up.",
        "keys": tuple(keys),
        "cells": tuple(cells),
        "objective": objective,
        "winner": winner,
        "classes": tuple("0123456789"),
        "provenance": PROVENANCE,
        "directory": directory,
    }
    return SweepResult(**{**settings, **changes})


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CHARACTERS = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")


def learning_rates(directory: Path, seeds: int = 3, epochs: int = 10) -> SweepResult:
    """Report E: one key, published numbers, one rate that diverges."""
    rng = np.random.default_rng(0)
    cells = []
    settings = [("1", 0, 0.9, 0.10, 0.01), ("0.1", 0.36, 0.128, 0.87, 0.01), ("0.01", 0.46, 0.166, 0.835, 0.01),
                ("0.001", 0.79, 0.30, 0.719, 0.015)]  # fmt: skip
    for rate, loss, error, published, tolerance in settings:
        where = {"learning_rate": rate}
        fail_at = 2 if rate == "1" else None
        speed = {"1": 1, "0.1": 0.9, "0.01": 0.6, "0.001": 0.25}[rate]
        outcomes = [
            outcome(where, seed, history(rng, epochs, loss, error, 10, fail_at, speed=speed), threshold=epochs - seed)
            for seed in range(seeds)
        ]
        verdicts = [verdict(outcomes, "test_top1", published, tolerance)]
        cells.append(cell(where, outcomes, verdicts))
    return result(
        directory, cells, ["learning_rate"], name="fashion-learning-rate",
        title="Fashion-MNIST by learning rate",
        description="784-256-512-10 with ReLU, batch 64, SGD, 10 epochs.\n\nReport E prints one run of each.",
        classes=FASHION, convergence_threshold=0.001,
    )  # fmt: skip


def holdout(directory: Path, seeds: int = 2) -> SweepResult:
    """Report D: three keys, 47 classes, chosen by validation loss, with a final stage."""
    rng = np.random.default_rng(1)
    published = iter([0.836, 1.192, 0.8832, 1.119, 3.851, 2.183, 0.6833, 1.121, 0.7601, 1.063, 3.851, 2.001])
    cells = []
    for hidden in ("32", "64"):
        for optimizer in ("Adam 0.001", "SGD 0.1", "SGD 0.01"):
            for encoder in ("scratch", "pretrained"):
                where = {"hidden": hidden, "optimizer": optimizer, "encoder": encoder}
                loss = next(published)
                outcomes = [
                    outcome(
                        where, seed,
                        history(rng, 10, loss * rng.normal(1, 0.02), min(0.97, 0.28 * loss), 47, splits=ALL_SPLITS),
                        parameters=8751 if hidden == "32" else 11311, best_epoch=10 - seed, seconds=180,
                    )
                    for seed in range(seeds)
                ]  # fmt: skip
                cells.append(cell(where, outcomes, [verdict(outcomes, "val_loss", loss, 0.03 * loss)]))
    where = {"hidden": "64", "optimizer": "Adam 0.001", "encoder": "scratch"}
    final = [
        outcome(where, seed, history(rng, 20, 0.6, 0.2, 47), stage="final", parameters=11311, best_epoch=20 - seed)
        for seed in range(5)
    ]
    cells.append(cell(where, final, [verdict(final, "test_top1", 0.8023, 0.015)]))
    return result(
        directory, cells, ["hidden", "optimizer", "encoder"], name="emnist-holdout",
        title="47 characters: hold-out", description="Which head, optimiser and encoder?", classes=CHARACTERS,
        objective="val_loss", winner=final[0],
    )  # fmt: skip


def clusters(directory: Path) -> SweepResult:
    """Report C: variants by name, five seeds, two classes."""
    rng = np.random.default_rng(2)
    cells = []
    for variant, loss, error, count in [("linear", 0.69, 0.49, 3), ("mlp", 0.006, 0.001, 337), ("polar", 0.32, 0.1, 3)]:
        where = {"variant": variant}
        outcomes = [
            outcome(where, seed, history(rng, 10, loss, error, 2), parameters=count, seconds=1.5) for seed in range(5)
        ]
        cells.append(cell(where, outcomes))
    return result(directory, cells, ["variant"], name="clusters", title="Two clusters", classes=("inner", "outer"))


def autoencoder(directory: Path) -> SweepResult:
    """Report D's autoencoder: losses only, one optimiser that diverges in two of three seeds."""
    rng = np.random.default_rng(3)
    cells = []
    for optimizer, loss in [("Adam 0.001", 23.9), ("SGD 0.1", 111.1), ("SGD 0.01", 22.67)]:
        where = {"optimizer": optimizer}
        outcomes = []
        for seed in range(3):
            arrays = history(rng, 10, loss, 0.0, 0, fail_at=4 + seed if optimizer == "SGD 0.01" and seed else None)
            for split in SPLITS:
                arrays[f"{split}_loss"] *= 1 + 3 * np.exp(-np.arange(10))
            outcomes.append(outcome(where, seed, arrays, parameters=12869))
        cells.append(cell(where, outcomes, [verdict(outcomes, "test_loss", loss, 1.0)]))
    return result(
        directory, cells, ["optimizer"], name="autoencoder", title="Autoencoder", classes=(), objective="test_loss"
    )


def grid(directory: Path, rows: int = 3, columns: int = 4, seeds: int = 3, epochs: int = 5) -> SweepResult:
    """Two keys."""
    rng = np.random.default_rng(4)
    cells = []
    for i in range(rows):
        for j in range(columns):
            where = {"learning_rate": f"{10.0 ** -(i + 1):g}", "width": str(32 * 2**j)}
            error = 0.05 * (i + 1) + 0.02 * (columns - j)
            fail_at = 3 if i == j == 0 else None
            outcomes = [
                outcome(where, seed, history(rng, epochs, 3 * error, error, 10, fail_at), parameters=1000 * (j + 1))
                for seed in range(seeds)
            ]
            cells.append(
                cell(where, outcomes, [verdict(outcomes, "test_top1", round(1 - error, 2), 0.01)] if i == 1 else [])
            )
    return result(directory, cells, ["learning_rate", "width"], name="grid", title="Rates and widths")


def single(directory: Path, epochs: int = 1) -> SweepResult:
    """No key, one cell, one seed."""
    arrays = history(np.random.default_rng(5), epochs, 0.4, 0.1, 10)
    return result(directory, [cell({}, [outcome({}, 0, arrays)])], [], name="single", title="One trial")


EXAMPLES = {
    "learning_rates": learning_rates, "holdout": holdout, "clusters": clusters, "autoencoder": autoencoder,
    "grid": grid, "single": single,
}  # fmt: skip
