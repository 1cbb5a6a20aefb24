"""Do trials that several devices have each cost no more, and give the same, as on one device?

    python experiments/devices.py

Fills tables on one CPU device and on four forced ones (`XLA_FLAGS`): eight vmapped cohorts, each of a width of its own,
with eight seeds each, and eight single trials in threads, for a few epochs and for many: each device begins with a
program of its own. Each table runs in a process of its own, the two numbers of devices in turn. Counted are the devices
that trained, and compared the tables: single trials are equal to the bit, vmapped ones but for rounding, as their
programs have fewer rows. About six minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
from common import commit, parser_of, write_page

import flaxvision as fv
from flaxvision.report import markdown_table
from flaxvision.training import run as training

NAME = "devices"
COUNTS = (1, 4)
KINDS = {"eight cohorts, vmapped": "vmap", "eight single trials": "threads"}  # -> executor
EPOCHS = (5, 50)
REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Filled:
    """A table on so many devices."""

    kind: str
    epochs: int
    devices: int
    seconds: float  # from the call to the results
    used: list[int]  # devices on which trials trained
    losses: list[float]  # test losses of all trials


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(NAME, __doc__, "small tables, of two cohorts in place of eight, each once")
    words = "fill one here and print it as JSON"
    parser.add_argument("--table", nargs=4, metavar=("KIND", "EPOCHS", "EXAMPLES", "COHORTS"), help=words)
    options = parser.parse_args(arguments)
    if options.table:
        kind, *sizes = options.table
        print(json.dumps(dataclasses.asdict(filled(kind, *map(int, sizes)))))
        return
    lengths, sizes, repeats = (EPOCHS[:1], (200, 2), 1) if options.quick else (EPOCHS, (4000, 8), REPEATS)
    tables, found = list(itertools.product(KINDS, lengths)), []
    for _, (kind, epochs), count in itertools.product(range(repeats), tables, COUNTS):
        words = [sys.executable, __file__, "--table", kind, *map(str, (epochs, *sizes))]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        environment = {**os.environ, "XLA_FLAGS": flags}
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found.append(Filled(**json.loads(done.stdout.splitlines()[-1])))
        print(kind, epochs, count, round(found[-1].seconds, 2), flush=True)
    rows = [row_of(table, [each for each in found if (each.kind, each.epochs) == table]) for table in tables]
    head = [
        "table",
        "epochs",
        "one device, s",
        "four devices, s",
        "ratio",
        "devices used",
        "largest difference of a test loss",
    ]
    section = (
        markdown_table(head, rows) + f"\nMedians of {repeats}, forced devices of one CPU: they share its cores, so "
        "that at best they cost nothing.\n"
    )
    filled_tables = list(map(dataclasses.asdict, found))
    write_page(options, NAME, "Trials over devices", [section], (), commit=commit(), tables=filled_tables)


def row_of(table: tuple[str, int], found: list[Filled]) -> list[str]:
    """A table: what it takes on one device and on several, and whether it is the same."""
    one, many = ([each for each in found if each.devices == count] for count in COUNTS)
    seconds = [statistics.median(each.seconds for each in some) for some in (one, many)]
    used = sorted({device for each in many for device in each.used})
    off = max(abs(a - b) for a, b in zip(one[0].losses, many[0].losses, strict=True))
    return [
        *map(str, table),
        *(f"{each:.1f}" for each in seconds),
        f"{seconds[1] / seconds[0]:.2f}",
        f"{len(used)}",
        f"{off:.1e}",
    ]


def filled(kind: str, epochs: int, examples: int, cohorts: int) -> Filled:
    """Fill a table in this process, of so many cohorts where they are vmapped."""
    fv.runtime.prepare()
    used: set[int] = set()
    steps = training.Run._steps

    def seen(self: training.Run, members: int) -> tuple:
        used.update(device.id for leaf in jax.tree.leaves(self.states) for device in leaf.devices())
        return steps(self, members)

    widths = [[16 + 4 * number] for number in range(cohorts)] if KINDS[kind] == "vmap" else [[32]]
    table = {
        "name": "devices",
        "dataset": "glyphs",
        "model": "mlp",
        "data": {"limit": examples},
        "recipe": {"epochs": epochs},
        "grid": {"hidden": widths},
        "seeds": 8,
    }
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(training.Run, "_steps", seen):
        began = time.perf_counter()
        result = fv.sweep.run(table, Path(folder) / "run", executor=KINDS[kind], export=False, report=False)
        seconds = time.perf_counter() - began
        losses = [outcome.final["test_loss"] or math.nan for outcome in result.outcomes]
    return Filled(kind, epochs, jax.local_device_count(), seconds, sorted(used), losses)


if __name__ == "__main__":
    main()
