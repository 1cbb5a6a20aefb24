"""(a) The train step: every network of the reports at its batch size, one trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import contestants
import numpy as np
from bars import add_ratios, draw_ratios
from common import Options, Study
from contest import Entry, Times, timed
from contestants import TASKS
from rows import number

from flaxvision.errors import check_choice

OURS, EAGER, COMPILED = "flaxvision", "PyTorch", "torch.compile"
KERAS, JAX_JIT, NNX_JIT = "Keras on JAX", "Flax, jax.jit", "Flax, nnx.jit"
BEST_TORCH = "the faster PyTorch"
ENTRIES: dict[str, Entry] = {
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
        found[task.name] = timed(options, {"task": task}, entries, repeats=options.extra.repeats)
        medians = ", ".join(f"{n} {number(1e3 * t.median / task.steps)}" for n, t in found[task.name].items())
        print(f"{task.name}, ms: {medians}", flush=True)
    ratios = {name: ratios_of(times) for name, times in found.items()}
    add_ratios(study, ratios, BEST_TORCH, WANTED_EACH, [BEST_TORCH, *ENTRIES], WANTED)
    for title, cell, note in TABLES:
        rows = [
            (task.name, *(cell(found[task.name][n], task.steps) if n in found[task.name] else "" for n in ENTRIES))
            for task in tasks
        ]
        study.table(title, ["", *ENTRIES], rows, note)
    figure = draw_ratios(ratios, [BEST_TORCH, KERAS, JAX_JIT], "time of a train step, in flaxvision's")
    study.figure("ratios", figure, "Time of a train step, in flaxvision's: median and quartiles over turns.")
    study.write()


def milliseconds(times: Times, steps: int) -> str:
    """Of a step: median and quartiles."""
    low, high = times.quartiles
    median, low, high = (1e3 * value / steps for value in (times.median, low, high))
    return f"{number(median)} ({number(low)}–{number(high)})"


TABLES: tuple[tuple[str, Callable[[Times, int], str], str], ...] = (  # title, cell, note
    ("A step, ms", milliseconds, "Median, and 25 to 75 % of the blocks."),
    (
        "Start, s",
        lambda times, _: f"{times.ready + times.first:.1f} ({times.compilation:.1f})",
        "From the start of the process to the end of its first block of steps, imports and data included; in brackets "
        "how much longer that block took than a usual one: compilation.",
    ),
    ("Most memory, MB", lambda times, _: f"{times.memory:,.0f}", "Resident, of the whole process."),
)


def ratios_of(times: Mapping[str, Times]) -> dict[str, np.ndarray]:
    """Contestant -> its blocks' seconds over ours, turn by turn."""
    ours = np.asarray(times[OURS].blocks)
    ratios = {name: np.asarray(other.blocks) / ours for name, other in times.items() if name != OURS}
    torches = [ratios[name] for name in (EAGER, COMPILED) if name in ratios]
    return ratios | ({BEST_TORCH: min(torches, key=np.median)} if torches else {})
