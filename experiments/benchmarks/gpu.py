"""(g) On a GPU: train steps, cohorts and whole tables, beside PyTorch."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import contestants
import numpy as np
from common import Options, Study
from contest import Contestant, Entry, Times, contest
from contestants import TASKS, Task
from figures import draw_lines
from roofline import PRODUCTS, multiply
from rows import number
from steps import JAX_JIT, OURS, milliseconds
from tables import COMPILED, EAGER, PEERS, commands_of, environment_of, take_accuracy
from torch_settings import TorchSetting
from whole import run as whole_run

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.report import plain_logarithmic
from flaxvision.sweep.parse import load_spec

NETWORKS = ("mlp", "wide_cnn, padded", "emnist_cnn", "vgg19")
STEPS = {"vgg19": 40}  # of a block; of other networks:
OTHERS = 300
BEST_TORCH = "the faster PyTorch"  # of the two
HALF, HALF_TORCH = f"{OURS}, bfloat16", f"{COMPILED}, bfloat16, channels last"
HALF_SETTING = TorchSetting(compiled=True, channels_last=True)
NAMES = (OURS, EAGER, COMPILED, JAX_JIT, HALF, HALF_TORCH)
MEMBERS = (4, 16, 64, 256, 512)
COHORTS = ("emnist_cnn", "mlp")
MOST = 8.0  # times a single trial's, for 256 of emnist_cnn
SWEEPS = ("fashion-learning-rate", "emnist-final", "digits", "mnist-ablations", "emnist-holdout")
WANTED = {EAGER: 10.0, COMPILED: 5.0}  # of each table
MEASURED = 150  # steps of a trial of PyTorch
PATIENCE = 120.0  # seconds for all contestants to compile
SIDE = 8192  # of the matrices that show the machine's ceiling
AGAIN = f"{OURS}, again"
ABOUT = f"""
Train steps: as in the part "steps", on a GPU; all contestants start and compile at the same time, so that their starts
are not comparable, and then take turns. Cohorts: so many seeds of a network by `fv.training.train_cohort`. Whole
tables: `python -m flaxvision.sweep NAME --no-export`, with the sweep's own epochs and seeds, from the start of the
command to its report, nothing compiled before ("again": compiled programs are kept); data sets are prepared. PyTorch's
time for a table is estimated: of every cell {MEASURED} steps and an evaluation are timed, compilation counted once a
cell, and the rest follows from the numbers of steps, epochs and seeds. Products of float32 are TF32 in both, which is
JAX's default.
"""


@dataclasses.dataclass
class Found:
    """What was measured so far."""

    seconds: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # sweep -> who -> whole table
    parts: dict[str, dict[str, dict[str, float]]] = dataclasses.field(default_factory=dict)  # of PyTorch's
    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)  # sweep -> our mean test accuracy
    times: dict[str, Times] = dataclasses.field(default_factory=dict)  # "task: name" -> of a block of steps


def run(options: Options) -> None:
    """Measure; what is wanted most comes first, and results are written after every stage."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # many processes share the memory
    import jax

    if jax.default_backend() == "cpu" and not options.quick:
        raise UserError("the part gpu needs a GPU that JAX sees: pip install 'jax[cuda13]', or give --quick")
    names = options.extra.tables or (SWEEPS[:1] if options.quick else SWEEPS)
    tasks = {
        task.name: dataclasses.replace(task, steps=2 if options.quick else STEPS.get(task.network, OTHERS))
        for task in TASKS
        if task.name in (NETWORKS[:1] if options.quick else NETWORKS)
    }
    found = Found()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        def table(name: str, *whose: str) -> Callable[[], None]:
            return lambda: fill(found, name, whose, options, Path(folder) / name)

        stages = [table(name, OURS, EAGER) for name in names]
        stages.append(lambda: found.times.update(steps(tasks, options)))
        stages += [table(name, who) for who in (COMPILED, AGAIN) for name in names]
        for stage in stages:
            if options.extra.minutes is None or time.perf_counter() - began < 60 * options.extra.minutes:
                stage()
                write(found, tasks, options, began)


def write(found: Found, tasks: Mapping[str, Task], options: Options, began: float) -> None:
    study = Study(options, "", "On a GPU", ABOUT)
    study.began = began
    for name in (name for name, seconds in found.seconds.items() if OURS in seconds):
        add_table(study, name, found)
    times: dict[str, dict[str, Times]] = collections.defaultdict(dict)
    for name, taken in found.times.items():
        task, _, who = name.partition(": ")
        times[task][who] = taken
    if found.times:
        add_ratios(study, times, tasks)
        for task in tasks.values():
            if task.network in COHORTS:
                add_cohorts(study, task, times[task.name])
    study.write()


def steps(tasks: Mapping[str, Task], options: Options) -> dict[str, Times]:
    """Train steps of single networks and of cohorts, in one contest."""
    entries: dict[str, Entry] = {}

    def enter(task: Task, name: str, function: Contestant, **arguments: Any) -> None:
        entries[f"{task.name}: {name}"] = function, {"task": task, **arguments}

    for task in tasks.values():
        enter(task, OURS, contestants.train_flaxvision)
        enter(task, EAGER, contestants.train_torch)
        enter(task, COMPILED, contestants.train_torch, setting=TorchSetting(compiled=True))
        enter(task, JAX_JIT, contestants.train_flax, jit="jax.jit")
        if task.network == "vgg19":
            enter(task, HALF, contestants.train_flaxvision, precision="bfloat16")
            enter(task, HALF_TORCH, contestants.train_torch, setting=HALF_SETTING, half=True)
        if task.network in COHORTS:
            for members in MEMBERS[:1] if options.quick else MEMBERS:
                enter(task, f"{members} trials", contestants.train_flaxvision, members=members)
    entries["ceiling: product"] = multiply, {"side": 64 if options.quick else SIDE, "dtype": "bfloat16"}
    return contest(entries, repeats=1 if options.quick else options.extra.repeats, patience=PATIENCE)


def add_ratios(study: Study, times: Mapping[str, Mapping[str, Times]], tasks: Mapping[str, Task]) -> None:
    """The steps beside PyTorch's, and how far vgg19 is from the machine's ceiling."""
    for name, task in tasks.items():
        of_task = times[name]
        if OURS not in of_task:
            continue
        wanted = {"interval": (1.0, np.inf)} if task.network == "vgg19" else {}
        ours = np.asarray(of_task[OURS].blocks)
        torches = [float(np.median(of_task[who].blocks / ours)) for who in (EAGER, COMPILED) if who in of_task]
        if torches:
            study.row(f"{name}: {BEST_TORCH} / {OURS}", min(torches), "", **wanted)
        if HALF in of_task and HALF_TORCH in of_task:
            ratio = of_task[HALF_TORCH].median / of_task[HALF].median
            study.row(f"{name}: {HALF_TORCH} / {HALF}", ratio, "", **wanted)
    rows = [
        (name, *(milliseconds(times[name][n], task.steps) if n in times[name] else "" for n in NAMES))
        for name, task in tasks.items()
    ]
    study.table("A step, ms", ["", *NAMES], rows, "Median, and 25 to 75 % of the blocks.")
    if "product" in times["ceiling"] and HALF in times["vgg19"]:
        task = tasks["vgg19"]
        ceiling = PRODUCTS * 2 * SIDE**3 / times["ceiling"]["product"].median
        rate = operations(task) / (times["vgg19"][HALF].median / task.steps)
        text = f"A product of {SIDE} x {SIDE} matrices reaches {ceiling / 1e12:.0f} TFLOP/s in bfloat16; a step of "
        text += f"vgg19 (batch {task.batch}) {rate / 1e12:.0f}, {rate / ceiling:.0%}."
        study.text("Of the machine's ceiling", text)


def operations(task: Task) -> float:
    """Floating-point operations of a train step: three times those of a forward pass, by XLA's count."""
    import jax
    from flax import nnx

    graphdef, state = nnx.split(task.chain())
    x = jax.ShapeDtypeStruct((task.batch, 32, 32, 3), "float32")
    with fv.runtime.on_host():  # a GPU's compiler counts nothing before it compiles
        return 3 * jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)).lower(state, x).cost_analysis()["flops"]


def add_cohorts(study: Study, task: Task, times: Mapping[str, Times]) -> None:
    found = {count: times[f"{count} trials"].median for count in MEMBERS if f"{count} trials" in times}
    if OURS not in times or not found:
        return
    single = times[OURS].median
    found = {1: single, **found}
    if task.network == "emnist_cnn" and 256 in found:
        study.row(f"{task.name}: 256 trials, of one", found[256] / single, "", interval=(-np.inf, MOST))
    rows = [
        (f"{count}", number(1e3 * t / task.steps), f"{t / single:.2f}", number(1e6 * t / task.steps / count))
        for count, t in found.items()
    ]
    header = ("trials", "a step of all, ms", "of a single one", "a step of one, us")
    study.table(f"Trials together, {task.name}", header, rows)
    cost = np.array([t / single / count for count, t in found.items()])
    label = "cost of a trial, in single ones"
    figure = draw_lines({"": {task.name: cost}}, label, xlabel="trials", x=np.array([*found]))
    axes = figure.axes[0]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([*found], [str(count) if count < MEMBERS[-1] else "" for count in found])
    axes.set_xlim(1, MEMBERS[-1])
    plain_logarithmic(axes.yaxis)
    study.figure(f"trials_{task.network}", figure, f"Cost of a trial of {task.name}, in single trials.")


def add_table(study: Study, name: str, found: Found) -> None:
    seconds, parts = found.seconds[name], found.parts.get(name, {})
    for peer, wanted in WANTED.items():
        if peer in seconds:
            study.row(f"{name}: {peer} / {OURS}", seconds[peer] / seconds[OURS], "", interval=(wanted, np.inf))
    header = ("", "seconds", "start", "compilation", "training and evaluation")
    rows = []
    for who, took in seconds.items():
        spent = parts.get(who)
        rows.append((who, f"{took:.1f}", *([f"{part:.1f}" for part in spent.values()] if spent else [""] * 3)))
    seeds = len(load_spec(name).seeds)
    note = f"Seeds of every cell: {seeds}; mean test top-1 {100 * found.accuracy[name]:.2f} %."
    study.table(f"{name}: seconds", header, rows, note)


def fill(found: Found, name: str, whose: Sequence[str], options: Options, folder: Path) -> None:
    """Add the seconds of some contestants for a table; `folder` keeps our compiled programs."""
    folder.mkdir(exist_ok=True)
    ours, script = commands_of(name, options)
    environment = environment_of(folder) | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    seconds, parts = found.seconds.setdefault(name, {}), found.parts.setdefault(name, {})
    for who in whose:
        out = folder / "found.json"
        estimate = ["--estimate", "2" if options.quick else str(MEASURED), "--out", str(out)]
        command = [*script, PEERS[who], *estimate] if who in PEERS else ours
        shutil.rmtree(folder / "runs", ignore_errors=True)
        try:
            took, _ = whole_run(command, folder, environment=environment)
        except RuntimeError as error:  # the rest is not lost
            print(f"{name}, {who} is left out: {error}", flush=True)
            continue
        if who in PEERS:
            parts[who] = json.loads(out.read_text())["seconds"]
            seconds[who] = sum(parts[who].values())
        else:
            found.accuracy[name] = take_accuracy(folder)
            seconds[who] = took
        print(f"{name}, {who}: {seconds[who]:.1f} s, measured in {took:.1f} s {parts.get(who, '')}", flush=True)
