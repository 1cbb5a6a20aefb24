"""(a) The train step of one trial: the reports' networks, those that the field knows, and six read from PyTorch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import contestants
import measured
from bars import add_means, add_ratios, draw_ratios
from common import Options, Study, all_versions, commit, installed
from contest import Entry, Times, contest
from contestants import REPORTS, TASKS, Task
from measured import Measured
from roofline import Ceilings, Work
from rows import number
from torch_settings import FIRST, SETTINGS, TorchSetting, settings_here

from flaxvision.errors import UserError, check_choice
from flaxvision.sweep import device

OURS, BEST_TORCH = "flaxvision", "PyTorch at its fastest"
KERAS, JAX_JIT, NNX_JIT = "Keras on JAX", "Flax, jax.jit", "Flax, nnx.jit"
TORCH = "torch"  # the peer of every network; the others are peers of the reports' networks:
OTHERS: dict[str, dict[str, Entry]] = {
    "keras": {KERAS: (contestants.train_keras, {})},
    "flax": {
        JAX_JIT: (contestants.train_flax, {"jit": "jax.jit"}),
        NNX_JIT: (contestants.train_flax, {"jit": "nnx.jit"}),
    },
}
NAMES = (OURS, BEST_TORCH, KERAS, JAX_JIT, NNX_JIT)
WANTED = {BEST_TORCH: 1.8, KERAS: 2.5, JAX_JIT: 2.5}  # geometric means over the networks
WANTED_REPORTS = {BEST_TORCH: 2.2}  # over the reports' networks
WANTED_EACH = 1.0  # of PyTorch, on each network
PATIENCE = 600.0  # seconds for all settings of PyTorch to start, and for the first steps of each, compilation included
ABOUT = """
One training of each network at its batch size, on drawn characters that lie in memory: the reports' networks, named
ones at CIFAR-10's shape, and six read from PyTorch (experiments/brought/networks.py). PyTorch is run in eight settings:
eager and compiled, contiguous and channels last, with plain and fused optimizer; after a short selection the fastest
takes part. Every contestant has a process of its own and all cores; they take turns, a block of steps each. A ratio is
a contestant's time over flaxvision's in the same turn: above 1, flaxvision is faster. The autoencoder learns whole, its
encoder too.
"""
LIMITS = """
A float32 matrix product and a copy reach {speeds}. Products: three times the forward pass's, without the gradient of
the images; forms with fewer multiplications (Winograd's) may reach more than 100 %. Maps: what layers with products
give, written or read five times in a step; small ones stay in the cache. Share: of the larger limit in a step.
"""
QUICK = ("tiny_cnn", "sequential")


def run(options: Options) -> None:
    """Measure network by network; every row is kept when it is measured, beside those of earlier calls."""
    asked, peers = options.extra.networks, options.extra.peers or [TORCH]
    for peer in peers:
        check_choice("peer", peer, (TORCH, *OTHERS))
    others = set(peers) - {TORCH}
    eligible = REPORTS if others else TASKS
    for name in asked:
        check_choice("network of the reports" if others else "network", name, dict.fromkeys(map(short, eligible)))
    if not installed("torch"):
        raise UserError("the part steps needs PyTorch, for the machine's limits too: pip install torch")
    tasks = [task for task in eligible if not asked or short(task) in asked]
    if options.quick:
        tasks = [dataclasses.replace(task, steps=2) for task in tasks if asked or task.name in QUICK]
    if others:
        options = dataclasses.replace(options, out=options.out / "peers")
    rows = {} if options.quick else measured.read_rows(options.out)
    began, minutes = time.perf_counter(), options.extra.minutes
    repeats = 1 if options.quick else options.extra.repeats
    ceilings = Ceilings.measured(**({"side": 64, "copied": 2**16} if options.quick else {}))
    made = {"versions": all_versions(), "device": device(), "command": options.command, "commit": commit()}
    missing = []
    for task in tasks:
        late = minutes is not None and time.perf_counter() - began > 60 * minutes
        row = None if late else measure(task, peers, repeats, ceilings, made)
        if row is None:
            missing.append(short(task))
            continue
        rows[task.name] = row
        measured.write_rows(options.out, rows)
        print(f"{task.name}, ms: {', '.join(f'{n} {number(row.milliseconds(n))}' for n in row.times)}", flush=True)
    if missing:
        again = " ".join(dict.fromkeys(missing))
        print(f"Not measured: python experiments/benchmarks steps {again} adds the rest", flush=True)
    if rows:
        write([rows[task.name] for task in TASKS if task.name in rows], options, began)


def short(task: Task) -> str:
    """The name by which a network is asked for; two sizes of one have the same."""
    return task.name.split(",")[0]


def measure(
    task: Task, peers: Sequence[str], repeats: int, ceilings: Ceilings, made: Mapping[str, object]
) -> Measured | None:
    """A network's row; None if flaxvision failed."""
    entries: dict[str, Entry] = {OURS: (contestants.train_flaxvision, {"task": task})}
    speeds = selection(task) if TORCH in peers else {}
    fastest = min(speeds, key=speeds.__getitem__, default=FIRST)
    if speeds:
        print(f"{task.name}: PyTorch's fastest setting of {len(speeds)} is {fastest.name}", flush=True)
        entries[BEST_TORCH] = contestants.train_torch, {"task": task, "setting": fastest}
    for peer in peers:
        for name, (function, more) in OTHERS.get(peer, {}).items():
            entries[name] = function, {"task": task, **more}
    times = contest(entries, repeats=repeats)
    if OURS not in times:
        return None
    return Measured(
        network=task.name,
        batch=task.batch,
        steps=task.steps,
        times=times,
        setting=fastest.name if BEST_TORCH in times else "",
        settings={each.name: milliseconds for each, milliseconds in speeds.items()},
        left_out=tuple(each.name for each in SETTINGS if TORCH in peers and each not in speeds),
        work=Work.of(task),
        ceilings=ceilings,
        made=dict(made),
    )


def selection(task: Task) -> dict[TorchSetting, float]:
    """The settings of PyTorch that work, each with the ms of a step in its fastest block of three short ones."""
    part = dataclasses.replace(task, steps=max(1, task.steps // 3))
    entries = {
        setting.name: (contestants.train_torch, {"task": part, "setting": setting}) for setting in settings_here()
    }
    times = contest(entries, repeats=3, warm_up=0, patience=PATIENCE, in_turn=True)
    return {each: 1e3 * min(times[each.name].blocks) / part.steps for each in SETTINGS if each.name in times}


def write(rows: Sequence[Measured], options: Options, began: float) -> None:
    """The page, its figure and results.json."""
    study = Study(options, "", "Train steps", ABOUT)
    study.began = began
    study.config["blocks"] = {row.network: f"{row.steps} steps of batch {row.batch}" for row in rows}
    names = [name for name in NAMES if any(name in row.times for row in rows)]
    ratios = {row.network: row.ratios(OURS) for row in rows}
    reports = {task.name: ratios[task.name] for task in REPORTS if task.name in ratios}
    add_ratios(study, ratios, BEST_TORCH, WANTED_EACH, {row.network: note_of(row) for row in rows})
    add_means(study, ratios, names[1:], WANTED)
    if len(reports) < len(ratios):
        add_means(study, reports, [BEST_TORCH], WANTED_REPORTS, "geometric mean of the reports' networks")
    for title, cell, note in TABLES:
        cells = [(row.network, *(cell(row, n) if n in row.times else "" for n in names)) for row in rows]
        study.table(title, ["", *names], cells, note)
    add_settings(study, rows)
    add_limits(study, rows)
    add_others(study, rows)
    figure = draw_ratios(ratios, names[1:], "time of a train step, in flaxvision's")
    study.figure("ratios", figure, "Time of a train step, in flaxvision's: median and quartiles over turns.")
    study.write()


def note_of(row: Measured) -> str:
    """PyTorch's setting, and where it is faster, what a step would take at the least."""
    if BEST_TORCH not in row.times:
        return ""
    products, memory = map(number, row.least())
    ours, theirs = number(row.milliseconds(OURS)), number(row.milliseconds(BEST_TORCH))
    why = f"; {ours} ms against {theirs}, where products alone take {products}, maps through the memory {memory}"
    return row.setting + (why if row.milliseconds(BEST_TORCH) < row.milliseconds(OURS) else "")


def add_settings(study: Study, rows: Sequence[Measured]) -> None:
    """What the selection found."""
    rows = [row for row in rows if row.settings]
    cells = [
        (row.network, *(number(row.settings[each.name]) if each.name in row.settings else "" for each in SETTINGS))
        for row in rows
    ]
    note = "The fastest of three short blocks, by which the setting is chosen."
    note += " Empty: it failed, or there was no C++ compiler." if any(row.left_out for row in rows) else ""
    if cells:
        study.table("PyTorch's settings, a step in ms", ["", *(setting.name for setting in SETTINGS)], cells, note)


def add_limits(study: Study, rows: Sequence[Measured]) -> None:
    """How far the steps are from what the machine does at best."""
    names = [name for name in (OURS, BEST_TORCH) if any(name in row.times for row in rows)]
    cells = []
    for row in rows:
        products, memory = row.least()
        shares = (f"{max(products, memory) / row.milliseconds(n):.0%}" if n in row.times else "" for n in names)
        work = f"{row.work.multiply_adds / 1e9:.3g}", f"{row.work.traffic / 1e6:,.0f}"
        limit = "products" if products > memory else "memory"
        cells.append((row.network, *work, number(products), number(memory), limit, *shares))
    speeds = "; ".join(sorted({str(row.ceilings) for row in rows}))
    note = " ".join(LIMITS.format(speeds=speeds).split())
    header = ("", "billion multiply-adds", "maps, MB", "products, ms", "memory, ms", "limit")
    study.table("The machine's limits", [*header, *(f"{name}, share" for name in names)], cells, note)


def add_others(study: Study, rows: Sequence[Measured]) -> None:
    """Which rows other calls measured."""
    makers: dict[str, list[str]] = {}
    for row in rows:
        made = row.made
        if (made["command"], made["commit"]) != (study.options.command, commit()):
            maker = f"`{made['command']}` at commit {made['commit']} on {made['device']}"
            makers.setdefault(maker, []).append(row.network)
    if makers:
        lines = [f"- {maker}: {', '.join(networks)}" for maker, networks in makers.items()]
        study.text("Rows of other calls", "\n".join(lines))


def milliseconds(times: Times, steps: int) -> str:
    """Of a step: median and quartiles."""
    low, high = times.quartiles
    median, low, high = (1e3 * value / steps for value in (times.median, low, high))
    return f"{number(median)} ({number(low)}–{number(high)})"


def start(row: Measured, name: str) -> str:
    """From the start of a process to its first block's end."""
    times = row.times[name]
    return f"{times.ready + times.first:.1f} ({times.compilation:.1f})"


TABLES: tuple[tuple[str, Callable[[Measured, str], str], str], ...] = (  # title, cell, note
    (
        "A step, ms",
        lambda row, name: milliseconds(row.times[name], row.steps),
        "Median, and 25 to 75 % of the blocks.",
    ),
    (
        "Start, s",
        start,
        "From the start of the process to the end of its first block of steps, imports and data included; in brackets "
        "how much longer that block took than a usual one: compilation, of which PyTorch keeps what the selection "
        "compiled.",
    ),
    ("Most memory, MB", lambda row, name: f"{row.times[name].memory:,.0f}", "Resident, of the whole process."),
)
