"""How near to the real time of a sweep is what a dry run tells of it?

    python experiments/predicted_time.py

Twenty sweeps of several networks, data sets and executors: for each, what `--dry-run` tells by the networks'
operations, what `--dry-run --measure` tells, and what the training then takes, in processes of their own, one after the
other. About ten minutes on a quiet machine of two CPU cores. What was found stays in runs/predicted_time/, so that a
call does what is missing; `--minutes 3` begins no sweep after three minutes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, commit, parser_of, write_page

import flaxvision as fv
from flaxvision.report import markdown_table
from flaxvision.sweep._run import check
from flaxvision.sweep.arrange import arrange
from flaxvision.sweep.files import DataFolders
from flaxvision.sweep.foresee import ONE_BY_ONE, SIDE_BY_SIDE, Foreseen, guessed, measured
from flaxvision.sweep.measure import measure
from flaxvision.sweep.progress import Watcher
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.trials import Record
from flaxvision.sweep.work import Cohort

NAME = "predicted_time"
KEPT = RESULTS.parents[1] / "runs" / NAME / "sweeps.jsonl"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep by what it trains."""

    executor: str
    model: str
    dataset: str
    limit: int  # examples of every split
    epochs: int
    seeds: int = 1
    grid: str = "learning_rate=0.1,0.03,0.01"
    batch_size: int = 64

    @property
    def spec(self) -> Spec:
        """What the library takes."""
        table = {
            "name": "predicted",
            "dataset": self.dataset,
            "model": self.model,
            "data": {"limit": self.limit},
            "recipe": {"batch_size": self.batch_size, "epochs": self.epochs, "learning_rate": 0.01},
        }
        return fv.sweep.override(fv.sweep.parse_spec(table), seeds=self.seeds, settings=[self.grid])


SWEEPS = (
    Sweep("loop", "mlp", "fashion_mnist", 10000, 12),
    Sweep("loop", "mlp", "mnist", 5000, 12, grid="hidden=[16],[32],[64],[128],[256],[512]"),
    Sweep("loop", "lenet5", "mnist", 4000, 6),
    Sweep("loop", "emnist_cnn", "emnist_balanced", 3000, 6, grid="batch_size=32,64,128"),
    Sweep("loop", "linear", "two_clusters", 100, 500, 4, batch_size=20),
    Sweep("loop", "tiny_cnn", "glyphs", 4000, 8, 2),
    Sweep("loop", "resnet20", "cifar10", 256, 3, grid="learning_rate=0.1,0.01", batch_size=32),
    Sweep("loop", "mnist_net", "mnist", 3000, 4, 2, grid="optimizer=sgd,adam"),
    Sweep("threads", "mlp", "fashion_mnist", 10000, 10, 2),
    Sweep("threads", "mlp", "glyphs", 5000, 10, 2, grid="hidden=[16],[32],[64],[128],[256],[512]"),
    Sweep("threads", "lenet5", "mnist", 4000, 6, 2),
    Sweep("threads", "emnist_cnn", "emnist_balanced", 3000, 6, grid="batch_size=32,64,128,256"),
    Sweep("threads", "tiny_cnn", "glyphs", 4000, 8, 3),
    Sweep("threads", "wide_cnn", "mnist", 1500, 2, 2),
    Sweep("vmap", "mlp", "mnist", 4000, 10, 5),
    Sweep("loop", "tiny_cnn", "mnist", 2500, 6, 4),
    Sweep("processes", "mlp", "fashion_mnist", 10000, 12, 3),
    Sweep("processes", "lenet5", "mnist", 4000, 6, 2),
    Sweep("processes", "emnist_cnn", "emnist_balanced", 3000, 6, 3),
    Sweep("processes", "tiny_cnn", "glyphs", 4000, 8, grid="batch_size=32,64,128,256"),
)
QUICK = (
    Sweep("loop", "mlp", "glyphs", 500, 2),
    Sweep("threads", "linear", "glyphs", 500, 2, 2),
)


@dataclasses.dataclass(frozen=True)
class Told:
    """What was told of a sweep, and what it took: seconds of training."""

    guess: tuple[float, float]  # the ends of the range of `--dry-run`
    predicted: float  # the middle of that of `--dry-run --measure`
    real: float
    measuring: float  # seconds that the measuring took
    commit: str

    def right(self, sweep: Sweep) -> bool:
        """Whether the prediction is as near as it has to be."""
        return abs(self.error) <= bound(sweep)

    @property
    def error(self) -> float:
        """The prediction's, as a share of the real time."""
        return self.predicted / self.real - 1


class Clock(Watcher):
    """Times the training."""

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        """As that of `Watcher`."""
        super().begin(cohorts, objective, kept)
        self.began = time.perf_counter()

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """As that of `Watcher`."""
        super().end(cohort, records)
        self.ended = time.perf_counter()


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(NAME, __doc__, "two small sweeps over drawn glyphs")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no sweep after so many (default 60)")
    parser.add_argument("--tell", help="foretell a sweep, given as JSON, and print it as JSON")
    parser.add_argument("--train", help="train a sweep, given as JSON, and print what it took as JSON")
    options = parser.parse_args(arguments)
    if options.raw_dir:
        os.environ["FLAXVISION_RAW_DIR"] = options.raw_dir
    if options.tell or options.train:
        sweep = Sweep(**json.loads(options.tell or options.train))
        print(json.dumps(tell(sweep) if options.tell else train(sweep)))
        return
    sweeps, kept = (QUICK, options.out / "sweeps.jsonl") if options.quick else (SWEEPS, KEPT)
    found = all_told(sweeps, kept, time.monotonic() + 60 * options.minutes)
    if len(found) < len(sweeps):
        print(f"{len(found)} of {len(sweeps)} sweeps are told: call it again for the others")
        return
    sections = [summary(found), table(found)]
    each = [dataclasses.asdict(sweep) | dataclasses.asdict(told) for sweep, told in found.items()]
    write_page(options, NAME, "Predicted time", sections, (), sweeps=each)


def all_told(sweeps: Sequence[Sweep], path: Path, until: float) -> dict[Sweep, Told]:
    """What is known of sweeps: what is kept in a file, and what is found until it is too late to begin another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = {Sweep(**sweep): Told(**told) for sweep, told in map(json.loads, lines)}
    for sweep in sweeps:
        if sweep in kept or time.monotonic() > until:
            continue
        text = json.dumps(dataclasses.asdict(sweep))
        told = Told(**in_process("--tell", text), **in_process("--train", text), commit=commit())
        print(f"{sweep}: {told.predicted:.1f} s predicted, {told.real:.1f} s real", flush=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([dataclasses.asdict(sweep), dataclasses.asdict(told)]) + "\n")
        kept[sweep] = told
    return {sweep: kept[sweep] for sweep in sweeps if sweep in kept}


def in_process(*words: str) -> dict[str, float]:
    """What another process of this script prints."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tell(sweep: Sweep) -> dict[str, object]:
    """What a dry run tells, without measuring and with it."""
    fv.runtime.prepare()
    plan, files = check(sweep.spec, None, DataFolders(), sweep.executor, resume=False)
    arranged, began = arrange(plan.trials, files, sweep.executor, "cpu"), time.perf_counter()
    guess = guessed(arranged)
    found: Foreseen = measured(arranged, *measure(arranged, files, lambda _: None))
    return {
        "guess": (guess.low, guess.high),
        "predicted": found.likely,
        "measuring": time.perf_counter() - began,
    }


def train(sweep: Sweep) -> dict[str, float]:
    """Train a sweep as the command line would."""
    fv.runtime.prepare()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        done = fv.sweep.run(
            sweep.spec, Path(folder) / "run", executor=sweep.executor, watch=clock, export=False, report=False
        )
        if done.failures:
            raise RuntimeError(f"{sweep}: {done.failures[0].message}")
    return {"real": clock.ended - clock.began}


def bound(sweep: Sweep) -> float:
    """How large a share of the real time the prediction may be off."""
    return (SIDE_BY_SIDE if sweep.executor in ("threads", "processes") else ONE_BY_ONE) - 1


def summary(found: dict[Sweep, Told]) -> str:
    """How many predictions are as near as they have to be."""
    right = sum(told.right(sweep) for sweep, told in found.items())
    within = sum(told.guess[0] <= told.real <= told.guess[1] for told in found.values())
    errors = [abs(told.error) for told in found.values()]
    return (
        f"Of {len(found)} sweeps, {right} took what `--dry-run --measure` told, within {100 * (ONE_BY_ONE - 1):.0f} % "
        f"where cohorts train one after the other and {100 * (SIDE_BY_SIDE - 1):.0f} % where they train side by side. "
        f"Half of the errors are below {100 * statistics.median(errors):.0f} %; the largest is "
        f"{100 * max(errors):.0f} %. The range of `--dry-run` alone, which takes no time, holds the real time of "
        f"{within}.\n"
    )


def table(found: dict[Sweep, Told]) -> str:
    """A row for each sweep."""
    header = (
        *("executor", "network", "data", "examples", "epochs", "varied", "seeds"),
        *("without measuring", "measured", "real", "error", "measuring took"),
    )
    rows = [
        (
            *(sweep.executor, sweep.model, sweep.dataset, f"{sweep.limit:,}", sweep.epochs, sweep.grid, sweep.seeds),
            f"{told.guess[0]:.0f} to {told.guess[1]:.0f} s",
            f"{told.predicted:.1f} s",
            f"{told.real:.1f} s",
            f"{100 * told.error:+.0f} %" + ("" if told.right(sweep) else ", too much"),
            f"{told.measuring:.0f} s",
        )
        for sweep, told in found.items()
    ]
    about = "All are seconds of training: start, report and export, which come before and after it, are not in them."
    return f"{markdown_table(header, rows)}\n\n{about}\n"


if __name__ == "__main__":
    main()
