"""What does a search cost: TPE with halving beside random search, and beside Optuna with plain PyTorch?

    python experiments/search.py --seeds 10

Five networks of the reports, each on 2,000 training and 500 held-out examples of its own data set; learning rate,
momentum and weight decay are searched for the lowest loss on the held-out ones after ten epochs. Random search is a
pool of 256 settings that trained to the end: what the best of k reaches on average is computed, not drawn. Optuna with
plain PyTorch trains one setting after the other. About three hours on two quiet cores, most of them PyTorch's; a
call that was interrupted goes on.
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

EXAMPLES, HELD_OUT, EPOCHS, BATCH_SIZE = 2500, 0.2, 10, 64
SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
    "momentum": {"low": 0.5, "high": 0.99},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
}
HALVING = {"sampler": "tpe", "trials": 128, "batch": 16, "halving": [1, 3], "factor": 4}
POOL, TORCH = 256, 32  # settings of random search, and of Optuna with PyTorch
LESS, SOONER = 3.0, 3.0  # times fewer trial-epochs than random search, times sooner than PyTorch


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
        return options.load(self.dataset, limit=EXAMPLES, validation=HELD_OUT)

    def spec(self, search: Mapping[str, Any], epochs: int) -> dict[str, Any]:
        """Its sweep, on data that are given."""
        return {
            "name": "search",
            "model": self.model,
            "sizes": {**self.sizes, "init": "torch"},
            "recipe": {"batch_size": BATCH_SIZE, "epochs": epochs},
            "objective": "val_loss",
            "search": {**search, "finalists": 1, "space": SPACE},
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

    @property
    def best(self) -> np.ndarray:
        """The best so far."""
        return np.fmin.accumulate(self.reached)

    def until(self, level: float) -> float:
        """Seconds until something as good was found; NaN if nothing was."""
        there = np.flatnonzero(self.best <= level)
        return float(self.seconds[there[0]]) if len(there) else math.nan


def main(arguments: list[str] | None = None) -> None:
    options = read_options("search", __doc__, arguments, seeds=10)
    study = Study(options, "", "Searches", __doc__.split("\n\n")[2])
    halving, pool, torch = HALVING, POOL, TORCH
    if options.quick:
        halving, pool, torch = {**HALVING, "trials": 8, "batch": 4, "factor": 2}, 8, 2
    study.uses(TASKS[0].data(options), halving=halving, pool=pool, torch=torch, space=SPACE, epochs=EPOCHS)
    rows, less, sooner = [], [], []
    for task in TASKS[:2] if options.quick else TASKS:
        data = task.data(options)
        study.uses(data)
        random = course(options, task, {"sampler": "random", "trials": pool, "batch": 64, "seed": 1000})
        ours = [course(options, task, {**halving, "seed": seed}) for seed in range(options.seeds)]
        theirs = [by_torch(options, task, data, torch, seed) for seed in range(options.seeds)]
        level = float(np.mean([one.best[-1] for one in ours]))
        spent = float(np.mean([one.epochs.sum() for one in ours]))
        needed = EPOCHS * settings_for(level, random.reached)
        came = [mine.until(other.best[-1]) for mine, other in zip(ours, theirs, strict=True)]
        times = [other.seconds[-1] / seconds for other, seconds in zip(theirs, came, strict=True)]
        less.append(min(needed, EPOCHS * pool) / spent)  # all of the pool may not be enough
        sooner.append(float(np.median(np.nan_to_num(times))))  # one that never got there: 0 times as fast
        rows.append(
            (
                task.name,
                f"{level:.4f}",
                f"{spent:,.0f}",
                f"{needed:,.0f}" if np.isfinite(needed) else f"> {EPOCHS * pool:,}",
                f"{less[-1]:.1f}" if np.isfinite(needed) else f"> {EPOCHS * pool / spent:.1f}",
                f"{np.mean([one.best[-1] for one in theirs]):.4f}",
                f"{np.median([one.seconds[-1] for one in theirs]):.0f}",
                f"{np.median([seconds for seconds in came if math.isfinite(seconds)] or [math.nan]):.1f}",
                f"{sooner[-1]:.1f}",
                f"{np.isfinite(came).sum()}",
            )
        )
        peer = [one.best[-1] for one in theirs]
        study.row(f"{task.name}: validation loss", [one.best[-1] for one in ours], "", peer=peer)
    header = ("task", "loss reached", "trial-epochs", "random search's", "times fewer")
    header += ("Optuna and PyTorch's loss", "its seconds", "ours to that loss", "times sooner", "seeds that came there")
    note = (
        f"Means over seeds of the loss that TPE with halving reached with {halving['trials']} settings, the epochs "
        "that all its trials trained, and those after which the best of random settings is on average as good; "
        f"of the loss that {torch} settings of Optuna's TPE with plain PyTorch reached; and medians of the seconds "
        "that these took, and that ours took to that seed's loss, with all that it compiled."
    )
    study.table("Cost of a search", header, rows, note)
    study.claim(
        f"TPE with halving reaches what random search reaches with at least {LESS:g} times the trial-epochs",
        [each >= LESS for each in less],
        ", ".join(f"{each:.1f}" for each in less),
    )
    study.claim(
        f"and what Optuna with plain PyTorch reaches trial by trial, at least {SOONER:g} times sooner",
        [each >= SOONER for each in sooner],
        ", ".join(f"{each:.1f}" for each in sooner),
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
    return _arrays(reached, epochs, [record["elapsed"] for record in trials])


def by_torch(options: Options, task: Task, data: fv.data.Dataset, trials: int, seed: int) -> Course:
    """How a search of Optuna's goes with plain PyTorch, one setting after the other."""

    def make() -> dict[str, np.ndarray]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        reached, seconds = [], [0.0]
        for number in range(trials):
            trial = study.ask()
            drawn = {
                key: trial.suggest_float(key, each["low"], each["high"], log=each.get("log", False))
                for key, each in SPACE.items()
            }
            recipe = fv.Recipe(batch_size=BATCH_SIZE, epochs=EPOCHS, seed=number, **drawn)
            found = train_torch(task.model, data, recipe, **task.sizes)
            loss = float(found["val_loss"][-1])
            study.tell(trial, loss)  # which takes one that is no number for a failure
            reached.append(loss if math.isfinite(loss) else math.nan)
            seconds.append(seconds[-1] + float(found["seconds"]))
        return _arrays(reached, [EPOCHS] * trials, seconds[1:])

    key = {"task": dataclasses.asdict(task), "torch": trials, "seed": seed, "space": SPACE}
    return Course(**cached(options, key, make))


def _arrays(reached: list[float], epochs: list[int], seconds: list[float]) -> dict[str, np.ndarray]:
    return {"reached": np.asarray(reached), "epochs": np.asarray(epochs), "seconds": np.asarray(seconds)}


def settings_for(level: float, pool: np.ndarray) -> float:
    """How many of a pool's settings, drawn at random, are on average as good as a level; infinity: all are not.

    >>> settings_for(1.0, np.array([1.0, 2.0, 3.0])), settings_for(2.0, np.array([1.0, 2.0, 3.0]))
    (3.0, 1.0)
    """
    values = np.sort(np.nan_to_num(pool, nan=float(np.nanmax(pool))))
    before = 0.0, math.inf
    for count in range(1, len(values) + 1):
        ways = [math.comb(len(values) - k, count - 1) for k in range(1, len(values) + 1)]
        weights = np.asarray([way / math.comb(len(values), count) for way in ways])
        mean = float(weights @ values)
        if mean <= level + 1e-12:
            number, worse = before
            share = 1.0 if math.isinf(worse) or worse == mean else (worse - level) / (worse - mean)
            return max(1.0, number + share * (count - number))
        before = float(count), mean
    return math.inf


if __name__ == "__main__":
    main()
