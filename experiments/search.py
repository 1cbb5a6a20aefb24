"""What does a search cost: TPE with halving beside random search, and beside Optuna with plain PyTorch?

    python experiments/search.py --seeds 10

Five networks of the reports, each on 3,000 training and 2,000 held-out examples of its own data set; learning rate,
momentum and weight decay are searched for the lowest loss on the held-out ones after ten epochs. What a search has
found is worth what three trainings with fresh seeds reach, as what it reached itself is partly luck. Random search is a
pool of 256 settings that trained to the end, of which the best 64 were trained anew: what the best of k is worth on
average is computed, not drawn. Optuna with plain PyTorch trains one setting after the other. About four hours on two
quiet cores, most of them PyTorch's; a call that was interrupted goes on.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import multiprocessing
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import Options, Study, cached, read_options
from peers import train_torch

import flaxvision as fv

EXAMPLES, HELD_OUT, EPOCHS, BATCH_SIZE = 5000, 0.4, 10, 64
TESTED = 500  # of the test examples, on which nothing here depends: evaluating more would be PyTorch's time above all
SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "momentum": {"low": 0.01, "high": 0.99},
    "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
}
HALVING = {"sampler": "tpe", "trials": 64, "batch": 16, "halving": [1, 3], "factor": 4, "finalists": 1}
POOL, AGAIN, TORCH = 256, 64, 32  # settings of random search, those trained anew, and settings of Optuna with PyTorch
SEEDS = 3  # with which what was found is trained anew
TIMES = 3.0  # fewer trial-epochs than random search takes, and sooner than PyTorch


@dataclasses.dataclass(frozen=True)
class Task:
    """A network of a report on its data."""

    report: str
    dataset: str
    model: str
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.model} on {self.dataset} ({self.report})"

    def data(self, options: Options) -> fv.data.Dataset:
        """Its examples."""
        if options.quick:
            return options.load(self.dataset, quick_limit=200, validation=HELD_OUT)
        data = options.load(self.dataset, limit=EXAMPLES, validation=HELD_OUT)
        return data.with_splits(test=data.test[:TESTED])

    def spec(self, search: Mapping[str, Any], epochs: int) -> dict[str, Any]:
        """Its sweep, on data that are given."""
        return {
            "name": "search",
            "model": self.model,
            "sizes": {**self.sizes, "init": "torch"},
            "recipe": {"batch_size": BATCH_SIZE, "epochs": epochs},
            "objective": "val_loss",
            "seeds": SEEDS,
            "search": {**search, "space": SPACE},
        }


TASKS = (
    Task("B1", "mnist", "mnist_net"),
    Task("C2", "mnist", "mlp", {"hidden": [32]}),
    Task("C2", "mnist", "tiny_cnn"),
    Task("D", "emnist_balanced", "emnist_cnn"),
    Task("E", "fashion_mnist", "mlp", {"hidden": [256, 512]}),
)


@dataclasses.dataclass(frozen=True)
class Course:
    """How a search went: row by row its trials."""

    reached: np.ndarray  # the loss of those that trained to the end; NaN of others
    epochs: np.ndarray  # of training
    seconds: np.ndarray  # of the search, until the trial's batch was over
    worth: np.ndarray  # the mean loss with fresh seeds; NaN of those that were not trained anew

    @property
    def found(self) -> float:
        """What the best one is worth."""
        return float(self.worth[np.nanargmin(self.reached)])

    def until(self, level: float) -> float:
        """Seconds until a trial has reached that by itself, be it by luck; infinity if none has."""
        there = np.flatnonzero(np.fmin.accumulate(self.reached) <= level)
        return float(self.seconds[there[0]]) if len(there) else math.inf


def main(arguments: list[str] | None = None) -> None:
    options = read_options("search", __doc__, arguments, seeds=10)
    study = Study(options, "", "Searches", __doc__.split("\n\n")[2])
    halving, pool, again, torch = HALVING, POOL, AGAIN, TORCH
    if options.quick:
        halving, pool, again, torch = {**HALVING, "trials": 8, "batch": 4, "factor": 2}, 8, 2, 2
    study.uses(TASKS[1].data(options), halving=halving, pool=pool, torch=torch, space=SPACE, epochs=EPOCHS)
    rows: list[tuple[str, ...]] = []
    reaches: list[bool] = []
    sooner: list[float] = []
    as_good: list[bool] = []
    for task in TASKS[1:2] if options.quick else TASKS:
        study.uses(task.data(options))
        drawn = course(
            options, task, {"sampler": "random", "trials": pool, "batch": 64, "finalists": again, "seed": 1000}
        )
        ours = [course(options, task, {**halving, "seed": seed}) for seed in range(options.seeds)]
        theirs = [by_torch(options, task, torch, seed) for seed in range(options.seeds)]
        found, spent = (float(np.mean(each)) for each in ([o.found for o in ours], [o.epochs.sum() for o in ours]))
        random = {times: random_search(times * spent / EPOCHS, drawn) for times in (1.0, TIMES)}
        reaches.append(found <= random[TIMES])
        took, theirs_took = (float(np.median([one.seconds[-1] for one in some])) for some in (ours, theirs))
        found_by_torch = float(np.mean([other.found for other in theirs]))
        sooner.append(theirs_took / took)
        as_good.append(found <= found_by_torch)
        study.row(
            f"{task.name}: validation loss of what was found",
            [one.found for one in ours],
            "",
            peer=[one.found for one in theirs],
        )
        losses = [f"{each:.4f}" for each in (found, random[1.0], random[TIMES], found_by_torch)]
        better = sum(mine.found <= other.found for mine, other in zip(ours, theirs, strict=True))
        lucky = np.median([b.seconds[-1] / a.until(np.nanmin(b.reached)) for a, b in zip(ours, theirs, strict=True)])
        times = [
            f"{theirs_took:.1f}",
            f"{took:.1f}",
            f"{sooner[-1]:.1f}",
            f"{better} of {options.seeds}",
            f"{lucky:.1f}",
        ]
        rows.append((task.name, f"{spent:,.0f}", *losses, *times))
    header = ("task", "trial-epochs", "loss", "random search's", f"{TIMES:g} times as long", "Optuna and PyTorch's")
    header += ("its seconds", "ours", "times sooner", "seeds as good", "times sooner by luck")
    note = (
        f"Means over seeds: the epochs that all {halving['trials']} trials of TPE with halving trained; the loss, with "
        "fresh seeds, of what it found, of what random search finds in as many trial-epochs and in "
        f"{TIMES:g} times as many, and of what {torch} trials of Optuna's TPE find with plain PyTorch. Medians: the "
        "seconds of whole searches, ours with all that they compile. Seeds count as good with which ours found a "
        "setting worth as much as PyTorch's with that seed. The last column has the median over seeds of how much "
        "sooner one of our trials had itself reached the lowest loss that any of PyTorch's had, 0 for a search in "
        f"which none had: the lowest of many is partly luck, and of PyTorch's {torch} train to the end, of ours one of "
        "each batch. On EMNIST none of the three finds anything: within "
        "these ten epochs no setting leaves the loss of chance, ln 47 = 3.850."
    )
    study.table("Cost of a search", header, rows, note)
    study.claim(
        f"TPE with halving finds what random search finds in {TIMES:g} times the trial-epochs, or better",
        reaches,
        "; ".join(f"{row[2]} against {row[4]}" for row in rows),
    )
    study.claim(
        f"and reaches what Optuna with plain PyTorch reaches trial by trial at least {TIMES:g} times sooner",
        [each >= TIMES and good for each, good in zip(sooner, as_good, strict=True)],
        "; ".join(f"{row[2]} against {row[5]}, {row[8]} times sooner" for row in rows),
    )
    print(study.write())


def course(options: Options, task: Task, search: Mapping[str, Any]) -> Course:
    """How a search of ours goes, in a process of its own, which compiles all that it takes."""

    def make() -> dict[str, np.ndarray]:
        if options.quick:
            return searched(options, task, search)
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(in_own_process, options, task, search).result()

    return Course(**cached(options, {"task": dataclasses.asdict(task), "search": search, "space": SPACE}, make))


def in_own_process(*args: Any) -> dict[str, np.ndarray]:
    """`searched` where nothing has been compiled, nor is kept."""
    import jax

    fv.runtime.prepare()
    jax.config.update("jax_enable_compilation_cache", False)
    return searched(*args)


def searched(options: Options, task: Task, search: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The course of a search of ours, as arrays."""
    with tempfile.TemporaryDirectory() as folder:
        spec, data = task.spec(search, EPOCHS), task.data(options)
        result = fv.sweep.run(spec, Path(folder) / "run", data=data, export=False, report=False)
    assert result.search is not None
    trials = result.search.trials
    reached = [record["rungs"][-1][1] if record["status"] == "ok" else math.nan for record in trials]
    epochs = [record["rungs"][-1][0] if record["rungs"] else 0 for record in trials]
    worth = np.full(len(trials), math.nan)
    for number, cell in zip(result.search.finalists, result.cells, strict=True):
        worth[number] = math.nan if (mean := cell.mean("val_loss")) is None else mean
    return _arrays(reached, epochs, [record["elapsed"] for record in trials], worth)


def by_torch(options: Options, task: Task, trials: int, seed: int) -> Course:
    """How a search of Optuna's goes with plain PyTorch, one setting after the other."""

    def make() -> dict[str, np.ndarray]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        data = task.data(options)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        reached, seconds, settings = [], [0.0], []
        for number in range(trials):
            trial = study.ask()
            drawn = {
                key: trial.suggest_float(key, each["low"], each["high"], log=each.get("log", False))
                for key, each in SPACE.items()
            }
            loss, took = trained(data, drawn, SEEDS + number)
            study.tell(trial, loss)  # which takes one that is no number for a failure
            settings.append(drawn)
            reached.append(loss if math.isfinite(loss) else math.nan)
            seconds.append(seconds[-1] + took)
        best, worth = int(np.nanargmin(reached)), np.full(trials, math.nan)
        worth[best] = np.mean([trained(data, settings[best], number)[0] for number in range(SEEDS)])
        return _arrays(reached, [EPOCHS] * trials, seconds[1:], worth)

    def trained(data: fv.data.Dataset, drawn: dict[str, float], number: int) -> tuple[float, float]:
        recipe = fv.Recipe(batch_size=BATCH_SIZE, epochs=EPOCHS, seed=number, **drawn)
        found = train_torch(task.model, data, recipe, **task.sizes)
        return float(found["val_loss"][-1]), float(found["seconds"])

    key = {"task": dataclasses.asdict(task), "torch": trials, "seed": seed, "space": SPACE}
    return Course(**cached(options, key, make))


def _arrays(reached: list[float], epochs: list[int], seconds: list[float], worth: np.ndarray) -> dict[str, np.ndarray]:
    named = {"reached": reached, "epochs": epochs, "seconds": seconds, "worth": worth}
    return {name: np.asarray(values) for name, values in named.items()}


def random_search(settings: float, pool: Course) -> float:
    """What the best of so many settings, drawn at random from a pool, is worth on average.

    Settings that were not trained anew are worth what they reached, and those that diverged as little as the worst.

    >>> none = np.array([np.nan])
    >>> pool = Course(np.array([1.0, 2.0, 3.0]), none, none, np.array([1.5, np.nan, np.nan]))
    >>> random_search(1, pool), random_search(3, pool)
    (2.1666666666666665, 1.5)
    """
    scores = np.nan_to_num(pool.reached, nan=float(np.nanmax(pool.reached)))
    values = np.where(np.isnan(pool.worth), scores, pool.worth)[np.argsort(scores, kind="stable")]
    count = min(max(1, round(settings)), len(values))
    ways = [math.comb(len(values) - k, count - 1) for k in range(1, len(values) + 1)]
    return float(np.asarray([way / math.comb(len(values), count) for way in ways]) @ values)


if __name__ == "__main__":
    main()
