"""(a) The train step: every network of the reports at its batch size, one trial."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import contestants
import numpy as np
from bars import draw_ratios
from common import Options, Study
from contest import Contestant, Times, contest, kept
from contestants import TASKS
from rows import number

from flaxvision.errors import check_choice

OURS, EAGER, COMPILED = "flaxvision", "PyTorch", "torch.compile"
KERAS, JAX_JIT, NNX_JIT = "Keras on JAX", "Flax, jax.jit", "Flax, nnx.jit"
BEST_TORCH = "the faster PyTorch"
ENTRIES: dict[str, tuple[Contestant, dict[str, Any]]] = {
    OURS: (contestants.train_flaxvision, {}),
    EAGER: (contestants.train_torch, {}),
    COMPILED: (contestants.train_torch, {"compiled": True}),
    KERAS: (contestants.train_keras, {}),
    JAX_JIT: (contestants.train_flax, {"jit": "jax.jit"}),
    NNX_JIT: (contestants.train_flax, {"jit": "nnx.jit"}),
}
WANTED = {BEST_TORCH: 2.0, KERAS: 2.5, JAX_JIT: 2.5}  # geometric means over the networks
WANTED_EACH = 1.15  # of the faster PyTorch, on each network
ABOUT = """
One training of each network, at the report's batch size, on drawn characters that lie in memory. Every contestant has a
process of its own and all cores; they take turns, a block of steps each. A ratio is a contestant's time over
flaxvision's in the same turn: above 1, flaxvision is faster. The autoencoder learns whole, its encoder too.
"""


def run(options: Options) -> None:
    """Time every network; write tables and a figure."""
    study = Study(options, "", "Train steps", ABOUT)
    for name in options.extra.networks or ():
        check_choice("network", name, dict.fromkeys(task.network for task in TASKS))
    tasks = [task for task in TASKS if task.network in (options.extra.networks or (task.network,))]
    if options.quick:
        tasks = [dataclasses.replace(t, steps=2) for t in tasks if t.network in ("mlp", "tiny_cnn")]
    study.config["blocks"] = {task.name: f"{task.steps} steps of batch {task.batch}" for task in tasks}
    found: dict[str, dict[str, Times]] = {}
    for task in tasks:
        entries = {name: (function, {"task": task, **more}) for name, (function, more) in ENTRIES.items()}
        measure = functools.partial(contest, entries, repeats=options.extra.repeats)
        found[task.name] = kept(options, {"task": task, "repeats": options.extra.repeats}, Times, measure)
        medians = ", ".join(f"{n} {number(1e3 * t.median / task.steps)}" for n, t in found[task.name].items())
        print(f"{task.name}, ms: {medians}", flush=True)
    ratios = {name: ratios_of(times) for name, times in found.items()}
    add_ratios(study, ratios)
    steps = {task.name: task.steps for task in tasks}
    names = list(ENTRIES)

    def table(title: str, cell: Any, note: str) -> None:
        rows = [
            (task, *(cell(times[n], steps[task]) if n in times else "" for n in names)) for task, times in found.items()
        ]
        study.table(title, ["", *names], rows, note)

    table("A step, ms", milliseconds, "Median, and 25 to 75 % of the blocks.")
    note = (
        "From the start of the process to the end of its first block of steps, imports and data included; in brackets "
    )
    table("Start, s", start, note + "how much longer that block took than a usual one: compilation.")
    table("Most memory, MB", lambda times, _: f"{times.memory:,.0f}", "Resident, of the whole process.")
    figure = draw_ratios(ratios, [BEST_TORCH, KERAS, JAX_JIT], "time of a train step, in flaxvision's")
    study.figure("ratios", figure, "Time of a train step, in flaxvision's: median and quartiles over turns.")
    study.write()


def milliseconds(times: Times, steps: int) -> str:
    """Of a step: median and quartiles."""
    low, high = times.quartiles
    median, low, high = (1e3 * value / steps for value in (times.median, low, high))
    return f"{number(median)} ({number(low)}–{number(high)})"


def start(times: Times, _: int) -> str:
    """Seconds from nothing to the first block's end, and of compilation."""
    return f"{times.ready + times.first:.1f} ({times.compilation:.1f})"


def ratios_of(times: Mapping[str, Times]) -> dict[str, np.ndarray]:
    """Contestant -> its blocks' seconds over ours, turn by turn."""
    ours = np.asarray(times[OURS].blocks)
    ratios = {name: np.asarray(other.blocks) / ours for name, other in times.items() if name != OURS}
    torches = [ratios[name] for name in (EAGER, COMPILED) if name in ratios]
    return ratios | ({BEST_TORCH: min(torches, key=np.median)} if torches else {})


def add_ratios(study: Study, ratios: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """A row for every network against the faster PyTorch, and one for the mean against each contestant."""
    for task, of_task in ratios.items():
        if BEST_TORCH in of_task:
            values = of_task[BEST_TORCH]
            study.row(
                f"{task}: {BEST_TORCH} / flaxvision", float(np.median(values)), "", interval=(WANTED_EACH, np.inf)
            )
    for name in [BEST_TORCH, *ENTRIES]:
        medians = [float(np.median(of_task[name])) for of_task in ratios.values() if name in of_task]
        if medians:
            wanted = {"interval": (WANTED[name], np.inf)} if name in WANTED else {}
            study.row(f"geometric mean: {name} / flaxvision", float(np.exp(np.mean(np.log(medians)))), "", **wanted)
