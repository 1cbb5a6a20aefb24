"""Damaged and hostile files: does every reader answer with a result or one line, soon and in bounded memory?

    python experiments/fuzzed_files.py --inputs 12000

Each input is a sound file of one of the formats of `file_formats`, damaged from its number alone (`mutations`): bits,
bytes and lengths anywhere, or, behind checksums that are right again, values of a header, members of an archive and
settings of a description. It is read in a process of its own kind. What may come of it is a result or a `UserError`;
counted are tracebacks (any other exception), hangs (more than 5 s of computing), more than 1 GB above what the process
held, and crashes. Of a run directory it is also asked that no damage changes a trial in silence.

A format's row is written once its inputs were read, with the commit that read them; `--formats` replaces theirs only.
`--only FORMAT:NUMBER` reads one input again and shows what it raises.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import RESULTS, all_versions, command_of, commit
from file_formats import Format, formats, makers, read_damaged

from flaxvision.errors import UserError
from flaxvision.sweep import device

NAME = "fuzzed_files"
SECONDS, MEMORY = 5.0, 2**30  # of one input, at most
PATIENCE = 60.0  # seconds after which a process that says nothing is ended
SPARE = 6 * 2**30  # bytes of addresses beyond what a process has at first, so that no input takes the machine


@dataclasses.dataclass(frozen=True)
class Fault:
    """An input that was answered by neither a result nor a `UserError`, or not soon, or not in bounded memory."""

    format: str
    number: int
    what: str  # "traceback", "hang", "memory" or "crash"
    where: str  # the error and the place in the code that raised it, or a number


@dataclasses.dataclass(frozen=True)
class Counts:
    """What came of the inputs of a format."""

    results: int = 0
    user_errors: int = 0
    faults: tuple[Fault, ...] = ()

    def plus(self, kind: str, faults: list[Fault]) -> Counts:
        """The counts with one input more."""
        return Counts(self.results + (kind == "result"), self.user_errors + (kind == "error"), (*self.faults, *faults))

    @property
    def inputs(self) -> int:
        """How many there were."""
        return self.results + self.user_errors + len({fault.number for fault in self.faults})


def peak_memory(*, reset: bool = False) -> int:
    """The most bytes that this process held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def try_input(form: Format, number: int, folder: Path) -> tuple[str, list[Fault]]:
    """What came of one input: "result", "error" or "", and its faults."""
    before, began = peak_memory(reset=True), time.process_time()
    kind, faults = "result", []

    def fault(what: str, where: str) -> None:
        faults.append(Fault(form.name, number, what, where))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_damaged(form, number, folder)
    except UserError as error:
        kind = "error"
        if not str(error).strip():
            fault("traceback", "UserError without words")
    except Exception as error:
        fault("traceback", place_of(error))
    took, grown = time.process_time() - began, peak_memory() - before
    if took > SECONDS:
        fault("hang", f"{took:.0f} s")
    if grown > MEMORY:
        fault("memory", f"{grown / 2**30:.1f} GB")
    return ("" if faults else kind), faults


def place_of(error: Exception) -> str:
    """An error's type, first words, and the innermost line of this project that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/site-packages/" not in f.filename and "flaxvision/" in f.filename] or frames
    ours = [f for f in ours if "/experiments/" not in f.filename] or ours
    words = " ".join(str(error).split())[:80]
    return f"{type(error).__name__}: {words} ({Path(ours[-1].filename).name}, {ours[-1].name})"


def serve(pipe: Connection, name: str, first: int, stop: int) -> None:
    """Read inputs in a process of its own and tell of each when it begins and what came of it."""
    logging.disable(logging.WARNING)
    (form,) = formats((name,)).values()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + SPARE, held + SPARE))
    with tempfile.TemporaryDirectory() as folder:
        # Sound ones, so that what is imported and compiled once counts for none.
        for sample in form.samples:
            sound = dataclasses.replace(form, samples=(sample,))
            path = Path(folder) / f"sound{form.suffix}"
            path.write_bytes(sample)
            sound.read(path)
        for number in range(first, stop):
            pipe.send((number, "", []))
            pipe.send((number, *try_input(form, number, Path(folder) / "input")))


def fuzz(name: str, inputs: range) -> Counts:
    """Try the inputs of a format, in a new process after each that does not come back."""
    counts, at = Counts(), inputs.start
    context = multiprocessing.get_context("spawn")
    while at < inputs.stop:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=serve, args=(theirs, name, at, inputs.stop), daemon=True)
        worker.start()
        theirs.close()
        began = None
        try:
            while ours.poll(PATIENCE if began is not None else 10 * PATIENCE):
                number, kind, faults = ours.recv()
                began = number
                if kind or faults:
                    counts, at, began = counts.plus(kind, faults), number + 1, None
            what, where = "hang", f"over {PATIENCE:.0f} s"
        except EOFError:
            what, where = "crash", "the process ended"
        worker.kill()
        worker.join()
        if at < inputs.stop:
            if began is None:
                raise RuntimeError(f"{name}: the process did not begin")
            counts, at = counts.plus("", [Fault(name, began, what, where)]), began + 1
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=12_000, help="of a usual format (default 12,000: 222,000 in all)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of every format (default 0)")
    parser.add_argument("--formats", default="", help="their names, with commas between; all by default")
    parser.add_argument("--only", metavar="FORMAT:NUMBER", help="read one input and show what it raises")
    parser.add_argument("--quick", action="store_true", help="10 inputs of a usual format")
    parser.add_argument("--out", type=Path, default=RESULTS / NAME, help="folder of the results")
    options = parser.parse_args(arguments)
    names = tuple(filter(None, options.formats.split(",")))
    if options.only:
        name, _, number = options.only.partition(":")
        (form,) = formats((name,)).values()
        with tempfile.TemporaryDirectory() as folder:
            print(read_damaged(form, int(number), Path(folder) / "input"))
        return 0
    inputs = 10 if options.quick else options.inputs
    first = ["--first", str(options.first)] if options.first else []
    command = command_of(f"experiments/{NAME}.py", ["--inputs", str(inputs), *first])  # whatever formats it was
    options.out.mkdir(parents=True, exist_ok=True)
    faults = 0
    for name, form in formats(names).items():
        count = max(1, round(inputs * form.share))
        counts = fuzz(name, range(options.first, options.first + count))
        faults += len(counts.faults)
        print(f"{name}: {counts.inputs:,} inputs, {len(counts.faults)} faults", flush=True)
        row = summary(counts) | {"commit": commit()}
        write(options.out, {"command": command, "first": options.first}, name, row, counts.faults)
    return 1 if faults else 0


def write(out: Path, about: dict[str, Any], name: str, row: dict[str, Any], faults: Sequence[Fault]) -> None:
    """Put a format's row among those that are there."""
    path = out / "results.json"
    old = json.loads(path.read_text()) if path.exists() else {"formats": {}, "faults": []}
    rows = {**old["formats"], name: row}
    others = [fault for fault in old["faults"] if fault["format"] != name]
    result = {
        **about,
        "formats": {form: rows[form] for form in makers() if form in rows},
        "faults": others + [dataclasses.asdict(fault) for fault in faults],
        "versions": all_versions(),
        "device": device(),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    (out / "README.md").write_text(readme(result))


def summary(counts: Counts) -> dict[str, int]:
    """The numbers of a format's row."""
    faults = collections.Counter(fault.what for fault in counts.faults)
    numbers = {what: faults[what] for what in ("traceback", "hang", "memory", "crash")}
    return {"inputs": counts.inputs, "results": counts.results, "user errors": counts.user_errors, **numbers}


def readme(result: dict[str, Any]) -> str:
    """The page of the results."""
    rows = result["formats"]
    total = {key: sum(row[key] for row in rows.values()) for key in next(iter(rows.values())) if key != "commit"}
    cells = {name: [f"{row[key]:,}" for key in total] + [row["commit"]] for name, row in rows.items()}
    cells["all"] = [*(f"{number:,}" for number in total.values()), ""]
    lines = [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]
    places = collections.Counter((f["format"], f["what"], f["where"]) for f in result["faults"])
    example = {(f["format"], f["what"], f["where"]): f["number"] for f in result["faults"]}
    bad = [f"- {key[0]}:{example[key]} and {n - 1} more: {key[1]}, {key[2]}" for key, n in places.most_common()]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return "\n".join(
        [
            "# Damaged and hostile files",
            "",
            f"    {result['command']}",
            "",
            f"{total['inputs']:,} inputs, numbered from {result['first']} in every format: "
            f"**{len(result['faults'])} faults**. A fault is an exception that is no `UserError`, more than "
            f"{SECONDS:.0f} s of computing, more than 1 GB beyond what the process held, or its end "
            "([how](../../fuzzed_files.py)).",
            "",
            f"| format | {' | '.join(total)} | commit |",
            f"| --- |{' ---: |' * len(total)} --- |",
            *lines,
            "",
            *bad,
            *([""] if bad else []),
            f"On {result['device']}; {versions}.",
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
