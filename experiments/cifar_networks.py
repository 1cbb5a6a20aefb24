"""ResNet-20 by He et al.'s recipe and airbench94 on CIFAR-10, on a CPU, and airbench94's step beside PyTorch's.

    python experiments/cifar_networks.py --raw-dir DATA --only airbench94 --seeds 3
    python experiments/cifar_networks.py --raw-dir DATA --only resnet20
    python experiments/cifar_networks.py --raw-dir DATA --only steps     # on a machine that does nothing else

Without --only all three, in hours. Finished trainings are kept in runs/cifar_networks/, unfinished ones go on from
their checkpoints there. `airbench94.py` holds the recipe, `airbench94_torch.py` the same in plain PyTorch.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import time
from typing import Any

import airbench94
import numpy as np
from common import RESULTS, Options, Study, cached, installed, read_options, stacked
from sweeps import fill

import flaxvision as fv
from flaxvision.training import Progress

PARTS = ("airbench94", "resnet20", "steps")
BEFORE, AFTER = 2, 5  # updates that are not measured, and that are
PUBLISHED = 94.01  # mean of 1,000 runs of the paper's code
GOAL_MINUTES, GOAL_RATIO = 30, 1.5
SMALL: dict[str, Any] = {"batch_size": 16, "steps": 6, "warmup_epochs": 0.25}  # what --quick trains


def main(arguments: list[str] | None = None) -> None:
    extra: dict[str, dict[str, Any]] = {
        "--only": {"nargs": "+", "choices": PARTS, "default": PARTS, "help": "what to do (default: all)"}
    }
    options = read_options("cifar_networks", __doc__, arguments, extra=extra)
    data = options.load("cifar10", quick_limit=64, size=16, channels=3)
    about = ["Networks and recipes of two papers on CIFAR-10, and the time of a step beside PyTorch's."]
    about += [f"{data.source.note.capitalize()}."] if data.source.note else []
    study = Study(options, "", "CIFAR-10 on a CPU", " ".join(about))
    study.uses(data, airbench94=airbench94.RECIPE)
    wanted = options.extra.only
    if "airbench94" in wanted:
        add_airbench94(study, stacked([train(data, seed, options) for seed in range(options.seeds)]))
    if "resnet20" in wanted:
        add_resnet20(study)
    if "steps" in wanted:
        add_steps(study, data)
    study.write()


def train(data: fv.data.Dataset, seed: int, options: Options) -> dict[str, np.ndarray]:
    """airbench94's test accuracy after each epoch, and at last that of six views, (1,)."""
    recipe = dataclasses.replace(airbench94.RECIPE, seed=seed, **(SMALL if options.quick else {}))
    folder = None if options.quick else RESULTS.parents[1] / "runs" / options.name / f"airbench94-{seed}"

    def make() -> dict[str, np.ndarray]:
        model = airbench94.create(data, seed, width=8 if options.quick else 64)
        result = fv.fit(model, data, recipe, callbacks=[tell], checkpoint=folder, checkpoint_every=120)
        views = airbench94.top1_of_views(result.model, data.test)
        return {"accuracy": result.history["test_top1"], "views": np.array([views])}

    return cached(options, {"recipe": recipe, "data": data.source.checksum}, make)


def tell(progress: Progress) -> None:
    """Print where a training is."""
    accuracy = "".join(f", test accuracy {100 * metrics['test_top1']:.2f} %" for metrics in progress.metrics)
    if accuracy or progress.note:
        print(f"update {progress.step} of {progress.steps}{accuracy} {progress.note}", flush=True)


def add_airbench94(study: Study, found: dict[str, np.ndarray]) -> None:
    """Accuracies, and a figure of them by epoch."""
    views, alone = 100 * found["views"][:, 0], 100 * found["accuracy"]
    study.row("airbench94: test accuracy, six views", views, published=PUBLISHED, tolerance=0.3)
    study.row("airbench94: test accuracy, the image alone", alone[:, -1])
    caption = "Test accuracy of airbench94 after each epoch, of Lookahead's slow weights, without views."
    study.lines("accuracy", caption, {"airbench94": {"": alone}}, "test accuracy (%)")
    study.claim("airbench94 reaches 94 %", bool(views.mean() >= 94), f"{views.mean():.2f} % over {len(views)} seeds")


def add_resnet20(study: Study) -> None:
    """The last accuracy of the library's sweep."""
    sizes = {"size": 16, "channels": 3} if study.options.quick else {}
    (runs,) = fill(study, "cifar-resnet20", seeds=1, quick={"batch_size": 32, **sizes}).values()
    study.row("ResNet-20: parameters", runs.parameters, "", **runs.published("parameters"))
    study.row("ResNet-20: test accuracy", runs.last("test_top1"), **runs.published())


def add_steps(study: Study, data: fv.data.Dataset) -> None:
    """Seconds of an update of airbench94, of ours and of PyTorch's settings, and what they make of a whole training."""
    options, updates = study.options, airbench94.UPDATES
    shared = {"data": data.source.checksum, "updates": [BEFORE, AFTER]}
    ours = cached(options, {"steps": "ours", **shared}, functools.partial(our_steps, data, options.quick))["seconds"]
    if options.quick or not installed("torch"):
        study.row("airbench94: an update", float(np.median(ours)), "s")
        return
    found = torch_steps(options, data, shared)
    seconds = {name: float(np.median(values)) for name, values in {"flaxvision": ours, **found}.items()}
    note = (
        f"Medians of {AFTER} updates after {BEFORE} others; a training has {updates} updates; evaluation is left out."
    )
    rows = [
        (name if name == "flaxvision" else f"PyTorch, {name}", f"{value:.2f}", f"{value * updates / 60:.1f}")
        for name, value in seconds.items()
    ]
    study.table("Steps of airbench94", ("", "seconds an update", "minutes a training, extrapolated"), rows, note)
    mine, best = seconds.pop("flaxvision"), min(seconds, key=seconds.__getitem__)
    study.row(
        "airbench94: an update of 1,024 images", mine, "s", peer=[seconds[best]], note=f"PyTorch's fastest: {best}"
    )
    minutes, ratio = mine * updates / 60, seconds[best] / mine
    goal = f"a training takes less than {GOAL_MINUTES} minutes"
    study.claim(goal, minutes < GOAL_MINUTES, f"{minutes:.1f} minutes, extrapolated from {AFTER} updates")
    goal = f"{GOAL_RATIO} times as fast as PyTorch at its best"
    study.claim(goal, ratio >= GOAL_RATIO, f"{ratio:.2f} times as fast as PyTorch, {best}")


def our_steps(data: fv.data.Dataset, quick: bool) -> dict[str, np.ndarray]:
    """Seconds of each update."""
    constant = {"schedule": "constant", "warmup_epochs": 0.0, "start_factor": 0.0, "end_factor": 0.0}
    size = {"batch_size": 16} if quick else {}
    recipe = dataclasses.replace(airbench94.RECIPE, **{**constant, **size, "steps": BEFORE + AFTER + 1})
    marks: dict[int, float] = {}

    def mark(progress: Progress) -> None:
        marks.setdefault(progress.step, time.perf_counter())

    few = dataclasses.replace(data, test=data.test[:500])
    fv.fit(airbench94.create(few, 0, width=8 if quick else 64), few, recipe, callbacks=[mark])
    steps, times = np.array(list(marks)), np.array(list(marks.values()))
    each = np.diff(times) / np.diff(steps)  # a call is one update where that takes long
    return {"seconds": each[BEFORE - 1 :][:AFTER]}


def torch_steps(options: Options, data: fv.data.Dataset, key: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same of each of PyTorch's settings, in a process of its own, which begins with the same weights."""
    import airbench94_torch

    import export

    weights = {name: x.numpy() for name, x in export.to_torch(airbench94.create(data, 0)).state_dict().items()}
    found = {}
    for name in airbench94_torch.SETTINGS:

        def make(name: str = name) -> dict[str, np.ndarray]:
            spawn = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, spawn) as process:
                return process.submit(airbench94_torch.step_seconds, name, data, weights, BEFORE, AFTER).result()

        found[name] = cached(options, {"steps": name, **key}, make)["seconds"]
    return found


if __name__ == "__main__":
    main()
