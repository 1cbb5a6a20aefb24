"""(b) Whole tables: from the start of the command to the results, every cell and seed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bars import add_means, add_ratios, draw_ratios
from common import Options, Study
from contest import kept
from whole import run as whole_run

from flaxvision._files import cache_folder
from flaxvision.errors import check_choice
from flaxvision.sweep.parse import load_spec

OURS, AGAIN, EAGER, COMPILED, LOADER = "flaxvision", "flaxvision, again", "PyTorch", "torch.compile", "DataLoader"
KERAS, FLAX = "Keras on JAX", "Flax, nnx.jit"
PEERS = {EAGER: "torch", COMPILED: "compile", LOADER: "loader", KERAS: "keras", FLAX: "flax"}
SCALED = (LOADER, KERAS, FLAX)  # one seed on the clock, of the DataLoader one epoch
TABLES = {  # sweep -> epochs
    "fashion-learning-rate": 4,
    "digits": 2,
    "emnist-holdout": 2,
    "mnist-ablations": 2,
    "emnist-final": 2,
}
WANTED = {EAGER: 2.5, LOADER: 4.0}  # geometric means
WANTED_EACH = 1.7  # of PyTorch, on each table
EXTRA_MEMORY = 500  # MB above PyTorch's
ABOUT = """
Each table is filled whole, from the start of the command to its results: imports, data from the prepared files,
compilation, every cell and seed, evaluation after every epoch. flaxvision is `python -m flaxvision.sweep NAME
--no-export` (with all its tables, figures and report.html) with an empty cache of compiled programs, as on the first
day; "again" finds its programs there. The others are `experiments/benchmarks/peer_table.py`, one trial after
the other: PyTorch on tensors in memory, also with `torch.compile`, and with a DataLoader that turns PIL images into
tensors one by one, as the reports do; Keras 3 on JAX; Flax NNX as in its own MNIST example. The commands take turns. Of
the last three one seed is timed, of the DataLoader one epoch, and its seconds are multiplied.
"""


def run(options: Options) -> None:
    study = Study(options, "", "Whole tables", ABOUT)
    for name in options.extra.tables or ():
        check_choice("table", name, TABLES)
    for peer in options.extra.peers or ():
        check_choice("peer", peer, PEERS.values())
    asked = {name: epochs for name, epochs in TABLES.items() if name in (options.extra.tables or TABLES)}
    chosen = {"fashion-learning-rate": 1} if options.quick else asked
    found: dict[str, dict[str, Filled]] = {}
    for name, epochs in chosen.items():
        key = {"table": [name, epochs], "peers": options.extra.peers, "repeats": options.extra.repeats}
        fill_it = functools.partial(fill, name, epochs, options)
        found[f"{name}, {epochs} epochs"] = kept(options, key, Filled, fill_it)
    ratios = {
        table: {peer: np.divide(filled.seconds, of_table[OURS].seconds) for peer, filled in of_table.items()}
        for table, of_table in found.items()
    }
    peers = [peer for peer in PEERS if all(peer in of_table for of_table in ratios.values())]
    add_ratios(study, ratios, EAGER, WANTED_EACH)
    add_means(study, ratios, peers, WANTED)
    for table, of_table in found.items() if EAGER in peers else ():
        more = of_table[OURS].memory - of_table[EAGER].memory
        study.row(f"{table}: memory, flaxvision - {EAGER}", more, "MB", interval=(-np.inf, EXTRA_MEMORY))
    rows = [
        (table, peer, spread(filled.seconds), f"{filled.memory:,.0f}", f"{100 * filled.accuracy:.2f}")
        for table, of_table in found.items()
        for peer, filled in of_table.items()
    ]
    header = ("table", "", "seconds", "most memory, MB", "mean test top-1, %")
    note = "Median and range of the runs. Memory is that of all processes of the command. Accuracies are means over "
    study.table("Seconds", header, rows, f"{note}all cells and seeds; of what is timed.")
    figure = draw_ratios(ratios, peers, "time of the whole table, in flaxvision's")
    study.figure("ratios", figure, "Time of a whole table, in flaxvision's: median and quartiles.")
    study.write()


@dataclasses.dataclass(frozen=True)
class Filled:
    """How a contestant filled a table."""

    seconds: tuple[float, ...]  # of every counted run
    memory: float  # most memory of all its processes together, in MB
    accuracy: float  # mean test accuracy over all cells and seeds


def spread(seconds: Sequence[float]) -> str:
    return f"{np.median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})"


def commands_of(name: str, options: Options, *more: str) -> tuple[list[str], list[str]]:
    """The command that fills a table by flaxvision, with more of its options, and that of a peer yet to be named."""
    given = ["--limit", "640", "--seeds", "1"] if options.quick else []
    given += ["--raw-dir", str(Path(options.raw_dir).resolve())] if options.raw_dir else []
    ours = [sys.executable, "-m", "flaxvision.sweep", name, *more, *given, "--no-export", "--quiet"]
    return ours, [sys.executable, str(Path(__file__).with_name("peer_table.py")), name, *given]


def environment_of(cache: Path) -> dict[str, str]:
    """A process's own cache of compiled programs, beside the prepared data sets that all share."""
    data = os.environ.get("FLAXVISION_DATA_DIR", str(cache_folder()))
    return {"XDG_CACHE_HOME": str(cache), "FLAXVISION_DATA_DIR": data}


def fill(name: str, epochs: int, options: Options) -> dict[str, Filled]:
    """Fill a table by every contestant in turn: once to warm up and look at the memory, then on the clock."""
    ours, script = commands_of(name, options, "--epochs", str(epochs))
    commands = {OURS: ours, AGAIN: ours}
    for peer, short in PEERS.items():
        if short in (options.extra.peers or PEERS.values()):
            duration = ["--epochs", str(1 if peer == LOADER else epochs), *(["--seeds", "1"] if peer in SCALED else [])]
            commands[peer] = [*script, short, *duration, "--out", "found.json"]
    repeated = 1 if options.quick else len(load_spec(name).seeds)
    seconds: dict[str, list[float]] = {peer: [] for peer in commands}
    memory, accuracy = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        apart, programs = environment_of(folder / "cache"), folder / "cache" / "flaxvision" / "compiled"
        for number in range(1 + options.extra.repeats):
            for peer, command in commands.items():
                if peer == OURS:
                    shutil.rmtree(programs, ignore_errors=True)
                took, most = whole_run(command, folder, watch=number == 0, environment=apart)
                if peer in (OURS, AGAIN):
                    accuracy[peer] = take_accuracy(folder)
                else:
                    found = json.loads((folder / "found.json").read_text())
                    accuracy[peer] = found["accuracy"]
                    parts, times = found["seconds"], epochs if peer == LOADER else 1
                    if peer in SCALED:
                        took += (times - 1) * parts["pretrain"] + (times * repeated - 1) * parts["trials"]
                if number == 0:
                    memory[peer] = most
                else:
                    seconds[peer].append(took)
                print(f"{name}, {peer}: {took:.1f} s", flush=True)
    return {peer: Filled(tuple(seconds[peer]), memory[peer], accuracy[peer]) for peer in commands}


def take_accuracy(folder: Path) -> float:
    """Of all trials of the sweep that ran in a folder, by its own record; the run is deleted."""
    (directory,) = (folder / "runs").iterdir()
    records = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]
    shutil.rmtree(directory)
    return float(np.mean([record["final"]["test_top1"] for record in records if record["stage"] == "sweep"]))
