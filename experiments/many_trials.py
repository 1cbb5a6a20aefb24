"""How do memory, start, report and page of a sweep grow with its trials?

    python experiments/many_trials.py

Fills tables of 500, 2,000 and 10,000 trials of a tiny network on drawn digits, five seeds a cell, and one of 2,000
cells with a trial each, as a search has them. Each runs in a process of its own, as the command line would run it.
Measured are the computing until the first trial trains, the process's memory while trials end, the computing that
histories, tables, figures and page take at the end, the page's bytes, and how long Chromium, where there is one, takes
to lay the page out. About six minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import commit, parser_of, write_page

import flaxvision as fv
from flaxvision.report import markdown_table
from flaxvision.sweep.progress import Watcher
from flaxvision.sweep.spec import Spec
from flaxvision.sweep.trials import Record
from flaxvision.sweep.work import Cohort

NAME = "many_trials"
SIZES, QUICK = ((500, 5), (2000, 5), (2000, 1), (10000, 5)), ((50, 5), (100, 5))  # trials, seeds of a cell
MOMENTA, EVERY = 10, 50  # values, trials between two looks at the memory
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a sweep of so many trials took: seconds of computing, on all cores together, and bytes."""

    trials: int
    cells: int
    start: float  # from the call of `run` until the first trial trains
    training: float  # from then until the last one has ended
    report: float  # from then until `run` returns
    memory: list[tuple[int, int]]  # trials that have ended, what the process holds
    peak: int  # the most that it held, report included
    page: int
    directory: int  # everything in the run directory
    browser: float | None  # seconds until the page is laid out; None without one
    rows: tuple[int, int]  # rows of tables in the page as written, and as the browser has them


class Meter(Watcher):
    """Notes the time and the memory while trials end."""

    def __init__(self) -> None:
        self.memory: list[tuple[int, int]] = []

    def begin(self, cohorts: Sequence[Cohort], objective: str, kept: Sequence[Record] = ()) -> None:
        """As that of `Watcher`; from then on trials train."""
        super().begin(cohorts, objective, kept)
        self.first = time.process_time()

    def end(self, cohort: Cohort, records: Sequence[Record]) -> None:
        """As that of `Watcher`, and look at clock and memory."""
        super().end(cohort, records)
        self.last = time.process_time()
        if self.ended % EVERY == 0 or self.ended == self.trials:
            self.memory.append((self.ended, resident()))


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(NAME, __doc__, "tables of 50 and 100 trials")
    parser.add_argument("--table", nargs=2, type=int, metavar=("TRIALS", "SEEDS"), help="fill one and print it as JSON")
    options = parser.parse_args(arguments)
    if options.table:
        print(json.dumps(dataclasses.asdict(measured(*options.table))))
        return
    found = []
    for size in QUICK if options.quick else SIZES:
        words = [sys.executable, __file__, "--table", *map(str, size)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found.append(Measured(**json.loads(done.stdout.splitlines()[-1])))
        print(found[-1], flush=True)
    sections = [by_size(found), by_trial(found[-1])]
    write_page(options, NAME, "Many trials", sections, (), commit=commit(), sizes=list(map(dataclasses.asdict, found)))


def spec_of(trials: int, seeds: int) -> Spec:
    """A table of so many: `MOMENTA` momenta, so many seeds and as many rates as that takes."""
    rates = [round(0.001 * (number + 1), 6) for number in range(trials // (MOMENTA * seeds))]
    momenta = [round(0.05 * number, 6) for number in range(MOMENTA)]
    return fv.sweep.parse_spec(
        {
            "name": "many",
            "dataset": "glyphs",
            "model": "mlp",
            "data": {"limit": 100, "size": 8},
            "sizes": {"hidden": [4]},
            "recipe": {"batch_size": 50, "epochs": 1},
            "grid": {"learning_rate": rates, "momentum": momenta},
            "seeds": seeds,
        }
    )


def measured(trials: int, seeds: int) -> Measured:
    """Fill a table in this process."""
    fv.runtime.prepare()
    spec, meter = spec_of(trials, seeds), Meter()
    with tempfile.TemporaryDirectory() as folder:
        out, began = Path(folder) / "run", time.process_time()
        result = fv.sweep.run(spec, out, watch=meter, export=False)
        ended = time.process_time()
        if result.problems or len(result.outcomes) != trials:
            raise RuntimeError(f"{len(result.outcomes)} of {trials} trials, {result.problems}")
        page = out / "report.html"
        seconds, rows = laid_out(page)
        return Measured(
            trials=trials,
            cells=len(result.cells),
            start=meter.first - began,
            training=meter.last - meter.first,
            report=ended - meter.last,
            memory=meter.memory,
            peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            page=page.stat().st_size,
            directory=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
            browser=seconds,
            rows=(page.read_text(encoding="utf-8").count("<tr"), rows),
        )


def laid_out(page: Path) -> tuple[float | None, int]:
    """How many seconds a browser takes to read a page and lay it out, and the rows of tables that it has then."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None, 0
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.absolute().as_uri()]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    return time.perf_counter() - began, done.stdout.count("<tr")


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def by_size(found: Sequence[Measured]) -> str:
    """A row for each table."""
    header = (
        *("trials", "cells", "start", "training, a trial", "memory after 50 trials", "at the last trial"),
        *("histories, tables, figures, page", "page", "run directory", "laid out by Chromium"),
    )
    rows = [
        (
            f"{one.trials:,}",
            f"{one.cells:,}",
            f"{one.start:.1f} s",
            f"{1000 * one.training / one.trials:.0f} ms",
            f"{one.memory[0][1] / 2**20:.0f} MB",
            f"{one.memory[-1][1] / 2**20:.0f} MB",
            f"{one.report:.1f} s",
            f"{one.page / 1e6:.2f} MB",
            f"{one.directory / 1e6:.0f} MB",
            "not tried" if one.browser is None else f"{one.browser:.1f} s, {min(one.rows):,} of {one.rows[0]:,} rows",
        )
        for one in found
    ]
    about = (
        "Start: from the call until the first trial trains, with all checks and imports. Training "
        "is by the executor that `auto` chooses, with what it compiles. Seconds are those of computing, on all cores "
        "together, but for the browser's."
    )
    return f"{markdown_table(header, rows)}\n\n{about}\n"


def by_trial(one: Measured) -> str:
    """The memory of the largest table."""
    step = max(1, len(one.memory) // 8)
    looks = [one.memory[0], *one.memory[step - 1 :: step]]
    rows = [(f"{ended:,}", f"{held / 2**20:.0f} MB") for ended, held in dict(looks).items()]
    peak = f"With its report the process holds {one.peak / 2**20:.0f} MB at most."
    return f"Of the {one.trials:,}:\n\n{markdown_table(('trials that have ended', 'memory'), rows)}\n\n{peak}\n"


if __name__ == "__main__":
    main()
