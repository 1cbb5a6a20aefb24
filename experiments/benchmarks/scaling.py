"""(c) How the cost grows with the number of trials."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from common import Options, Study
from contest import Times, Turn, timed
from contestants import TASKS, Task
from figures import draw_lines
from rows import number

from flaxvision.errors import check_choice

EXECUTORS = ("loop", "threads", "processes", "vmap")
SINGLE, CHOSEN = "loop", "auto"
TRIALS = (1, 4, 16, 64)
COHORTS = {"emnist_cnn": 0.8, "mlp": 1.0}  # network -> most that 64 trials may cost, of 64 single ones
EPOCHS = 2
ABOUT = f"""
Trials: the same network with other seeds, {EPOCHS} epochs of drawn characters, from the call to the results: models,
weights and histories written, worker processes started anew each time. Programs are compiled in a first run that does
not count; worker processes read them from the cache. The executors take turns, each in a process of its own. A single
trial is the median of a run of one trial by "loop", in which the steps are one compiled loop.
"""


def run(options: Options) -> None:
    for executor in options.extra.executors or ():
        check_choice("executor", executor, (*EXECUTORS, CHOSEN))
    study = Study(options, "", "How the cost grows with trials", ABOUT)
    repeats = 1 if options.quick else max(3, options.extra.repeats - 2)
    for network, wanted in COHORTS.items():
        add_trials(study, next(t for t in TASKS if t.network == network), wanted, repeats)
    study.write()


def add_trials(study: Study, task: Task, wanted: float, repeats: int) -> None:
    quick, asked = study.options.quick, study.options.extra.executors or EXECUTORS
    executors = [name for name in EXECUTORS if name in asked or name == SINGLE] + [CHOSEN]
    counts = TRIALS[:2] if quick else TRIALS
    images = task.batch * (2 if quick else task.steps)
    times: dict[int, dict[str, Times]] = {}
    for count in counts:
        arguments = {"task": task, "trials": count, "images": images}
        entries = {
            executor: (train_trials, {**arguments, "executor": executor})
            for executor in executors
            if count > 1 or executor in (SINGLE, CHOSEN)
        }
        key = {"executors": list(entries), **arguments}
        times[count] = timed(study.options, key, entries, repeats=repeats, warm_up=0)
        print(task.name, count, {name: number(t.median) for name, t in times[count].items()}, flush=True)
    single = times[1][SINGLE].median
    most = counts[-1]
    costs = {  # of a trial, in single ones
        name: [found[name].median / (count * single) if name in found else np.nan for count, found in times.items()]
        for name in executors
    }
    study.row(f"{task.name}: {most} trials, of {most} single ones", costs[CHOSEN][-1], "", interval=(-np.inf, wanted))
    rows = [
        (f"{n}", *(f"{found[x].median:.2f} ({costs[x][i]:.2f})" if x in found else "" for x in executors))
        for i, (n, found) in enumerate(times.items())
    ]
    note = f"In brackets, of as many single trials; one takes {single:.2f} s. Medians of {repeats} runs."
    study.table(f"Trials, {task.name}: seconds", ("trials", *executors), rows, note)
    lines = {name: np.array(costs[name]) for name in executors[:-1]}
    limits = 0.0, 1.05 * float(np.nanmax(list(lines.values())))
    figure = draw_lines(
        {"": lines}, "cost of a trial, in single ones", xlabel="trials", x=np.array(counts), limits=limits
    )
    figure.axes[0].set_xscale("log", base=2)
    figure.axes[0].set_xticks(counts, [str(count) for count in counts])
    study.figure(f"trials_{task.network}", figure, f"Cost of a trial of {task.name}, in single trials.")


def train_trials(turn: Turn, task: Task, trials: int, images: int, executor: str) -> None:
    """A sweep of so many seeds by an executor; a block is the whole sweep."""
    import flaxvision as fv
    from flaxvision.sweep import parse_spec
    from flaxvision.sweep import run as run_sweep

    fv.runtime.prepare()
    recipe = {"optimizer": task.optimizer, "learning_rate": task.recipe.learning_rate, "batch_size": task.batch}
    network = {"model": task.network, "sizes": {"init": "torch"}, "recipe": {**recipe, "epochs": EPOCHS}}
    data = {"dataset": "glyphs47" if task.network.startswith("emnist") else "glyphs", "data": {"drawn": images}}
    spec = parse_spec({"name": "trials", "seeds": trials, **data, **network})
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        while turn():
            run_sweep(spec, directory, executor=executor, export=False, report=False)
            shutil.rmtree(directory)
