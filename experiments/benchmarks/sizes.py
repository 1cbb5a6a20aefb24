"""(d) How the cost of a step grows with the batch and the width."""

from __future__ import annotations

import dataclasses
from typing import Any

import contestants
from common import Options, Study
from contest import timed
from contestants import TASKS, Task
from rows import number

BATCHES = (16, 64, 256, 1024)
NETWORKS = ("emnist_cnn", "tiny_cnn", "mnist_net")  # the last with BatchNorm
WIDTHS = (64, 256, 1024, 4096)
ABOUT = """
Train steps beside PyTorch's, as in the part "steps", at batch sizes and widths other than the reports'.
"""


def run(options: Options) -> None:
    study = Study(options, "", "How the cost grows with batch and width", ABOUT)
    tasks = {task.network: task for task in TASKS}
    repeats = options.extra.repeats
    for network in NETWORKS[:1] if options.quick else NETWORKS:
        varying = [varied(tasks[network], batch=batch) for batch in BATCHES]
        add_steps(study, f"Batch, {network}", varying, BATCHES, repeats)
    widths = [varied(tasks["mlp"], sizes=(("hidden", (w, w)),)) for w in WIDTHS]
    add_steps(study, "Width of both layers, mlp, batch 64", widths, WIDTHS, repeats)
    study.write()


def varied(task: Task, **changes: Any) -> Task:
    """A task with another batch or size, and blocks of as many examples."""
    batch = changes.get("batch", task.batch)
    return dataclasses.replace(task, **changes, steps=max(4, task.batch * task.steps // (4 * batch)))


def add_steps(study: Study, title: str, tasks: list[Task], values: tuple[int, ...], repeats: int) -> None:
    if study.options.quick:
        tasks, values = [dataclasses.replace(task, steps=2) for task in tasks[:1]], values[:1]
    rows = []
    for task, value in zip(tasks, values, strict=True):
        entries = {
            "flaxvision": (contestants.train_flaxvision, {"task": task}),
            "PyTorch": (contestants.train_torch, {"task": task}),
        }
        found = timed(study.options, {"task": task}, entries, repeats=repeats)
        ms = {name: 1e3 * times.median / task.steps for name, times in found.items()}
        each = number(1e3 * ms["flaxvision"] / task.batch)
        rows.append((f"{value}", *map(number, ms.values()), f"{ms['PyTorch'] / ms['flaxvision']:.2f}", each))
        print(title, rows[-1], flush=True)
    header = ("", "flaxvision, ms a step", "PyTorch, ms a step", "PyTorch / flaxvision", "flaxvision, us an example")
    study.table(title, header, rows)
