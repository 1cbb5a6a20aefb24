"""What the experiments share: their options, and a `Study` that keeps rows, claims and figures and writes results.

A script makes one `Study`, gives it rows (our values beside the published one), claims (with a verdict and evidence)
and figures, and calls `write`: results.json, README.md and the figures land in `experiments/results/NAME/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from figures import draw_lines
from rows import Row, cells_of, rows_markdown

import flaxvision as fv
from flaxvision.report import encode, markdown_table
from flaxvision.sweep import config_hash, data_sources, device, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
RECORD = "_record"  # name in a kept part of what it rests on
VERDICTS = ("supported", "not supported", "not decided")
KEPT: dict[str, dict[str, Any] | None] = {}  # parts that an earlier call left: file -> its record, if it has one
PEERS = {  # package -> modules of which one is imported where it takes part, maybe in a process of its own
    "torch": ("torch", "peers", "steps", "tables", "scaling", "sizes", "startup", "gpu"),
    "keras": ("keras", "frameworks", "random_networks", "steps", "tables"),
    "onnx": ("onnx", "random_networks"),
    "onnxruntime": ("onnxruntime", "random_networks"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of an experiment."""

    name: str  # of the script and its folder of results
    quick: bool  # made data and few epochs: seconds
    seeds: int  # runs of every cell
    raw_dir: str | None  # folder of original data files; None: FLAXVISION_RAW_DIR
    out: Path  # folder of the results
    command: str  # what was typed
    extra: argparse.Namespace  # the script's own options

    def load(self, name: str, *, quick_limit: int = 256, **settings: Any) -> fv.data.Dataset:
        """A data set, or with --quick a small made one."""
        if self.quick:
            return fv.data.load("glyphs", limit=quick_limit, **settings)
        return fv.data.load(name, raw_dir=self.raw_dir, **settings)


def read_options(
    name: str,
    description: str | None,
    arguments: Sequence[str] | None,
    *,
    seeds: int = 1,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> Options:
    """Read an experiment's command line; `extra` maps more flags to the settings of `add_argument`."""
    parser = parser_of(name, description)
    meaning = f"runs of every cell (default {seeds}; with --quick at most 2)"
    parser.add_argument("--seeds", type=int, default=seeds, help=meaning)
    for flag, settings in (extra or {}).items():
        parser.add_argument(flag, **settings)
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}: give 1 or more")
    if arguments is None:  # this process is the script's own
        fv.runtime.prepare()
    typed = sys.argv[1:] if arguments is None else arguments
    runs, command = min(given.seeds, 2) if given.quick else given.seeds, command_of(f"experiments/{name}.py", typed)
    return Options(name, given.quick, runs, given.raw_dir, given.out, command, given)


def parser_of(
    name: str, description: str | None, quick: str = "made data, seconds: shows that the script works"
) -> argparse.ArgumentParser:
    """What every command line here takes; `quick` is what --quick does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw-dir", help="folder of original data files (FLAXVISION_RAW_DIR)")
    parser.add_argument("--out", type=Path, default=RESULTS / name, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def command_of(script: str, typed: Sequence[str]) -> str:
    """What was typed, but for where things lie on somebody's machine."""
    hidden = {"--raw-dir", "--out"}
    shown = [a for i, a in enumerate(typed) if a.split("=")[0] not in hidden and (not i or typed[i - 1] not in hidden)]
    return " ".join(["python", script, *shown])


class Study:
    """One experiment's results, in the order in which they are given."""

    def __init__(self, options: Options, report: str, title: str, about: str):
        self.options, self.report, self.title, self.about = options, report, title, about
        self.rows: list[Row] = []
        self.claims: list[dict[str, str]] = []
        self.tables: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.sources: dict[str, dict[str, Any]] = {}  # of data sets
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._sections: list[str] = []
        self._files: dict[str, bytes] = {}
        self._commit = commit()  # the code may change while it runs
        self.began = time.perf_counter()

    def uses(self, dataset: fv.data.Dataset, **config: Any) -> None:
        """Note a data set and settings that the numbers rest on."""
        self.sources |= data_sources([dataset])
        self.config |= _plain(config)

    def row(self, what: str, values: Iterable[float] | float, unit: str = "%", **rest: Any) -> Row:
        """Add one number: see `Row`."""
        numbers = [values] if isinstance(values, (int, float, np.number)) else values
        peer = tuple(float(value) for value in rest.pop("peer", ()))
        row = Row(what, unit, tuple(float(value) for value in numbers), peer=peer, **rest)
        self.rows.append(row)
        print(cells_of(row), flush=True)
        return row

    def claim(self, statement: str, verdict: str | bool | Iterable[bool], evidence: str) -> None:
        """Judge a statement of the report: a verdict, or whether it holds (see `judge`), and why."""
        verdict = verdict if isinstance(verdict, str) else judge(verdict)
        if verdict not in VERDICTS:
            raise ValueError(f"verdict is {verdict!r}: give one of {', '.join(VERDICTS)}")
        self.claims.append({"claim": statement, "verdict": verdict, "evidence": evidence})
        print(f"{verdict}: {statement} ({evidence})", flush=True)

    def text(self, title: str, markdown: str) -> None:
        """Add a section."""
        self._sections.append(f"## {title}\n\n{markdown.strip()}\n")

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
        """Add a section that is a table; cells are shown as they are."""
        rows = [[cell if isinstance(cell, (int, float)) else str(cell) for cell in row] for row in rows]
        self.tables.append({"title": title, "header": list(header), "rows": rows, "note": note})
        self.text(title, "\n".join([markdown_table(header, rows), *(["", note] if note else [])]))

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """Add a figure: NAME.png and NAME.svg, and a section that shows it."""
        for kind in ("png", "svg"):
            self._files[f"{name}.{kind}"] = encode(figure, kind)
        self._sections.append(f"![{caption}]({name}.png)\n\n{caption} ([vector]({name}.svg))\n")

    def lines(self, name: str, caption: str, panels: Mapping[str, Any], ylabel: str, **look: Any) -> None:
        """Add a figure of lines: see `figures.draw_lines`."""
        self.figure(name, draw_lines(panels, ylabel, **look), caption)

    def scratch(self) -> Path:
        """A folder that is gone when the study is written."""
        self._scratch = self._scratch or tempfile.TemporaryDirectory()
        return Path(self._scratch.name)

    def write(self) -> Path:
        """Write everything; returns the folder."""
        folder = self.options.out
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        seconds = time.perf_counter() - self.began
        record = {
            "name": self.options.name,
            "report": self.report,
            "title": self.title,
            "command": self.options.command,
            "rows": [row.record(range(self.options.seeds)) for row in self.rows],
            "claims": self.claims,
            "tables": self.tables,
            "versions": all_versions(),
            "device": device(),
            "seconds": round(seconds),
            "kept": KEPT,
            "config": self.config,
            "data": self.sources,
            "commit": self._commit,
        }
        (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self._markdown(record), encoding="utf-8")
        if self._scratch is not None:
            self._scratch.cleanup()
        return folder

    def _markdown(self, record: dict[str, Any]) -> str:
        report = f"Report {self.report}. " if self.report else ""
        parts = [f"# {self.title}\n", f"{report}{self.about.strip()}\n"]
        if self.rows:
            parts += ["## Published and ours\n", rows_markdown(self.rows)]
        if self.claims:
            parts += ["## Claims\n", claims_markdown(self.claims)]
        parts += self._sections
        kept = f", besides {kept_in_words()}," if KEPT else ""
        seeds = f"Seeds 0 to {self.options.seeds - 1}" if self.options.seeds > 1 else "Seed 0"
        parts.append(
            f"## How this was made\n\n    {record['command']}\n\n{seeds}; {record['seconds']:,} s{kept} "
            f"on {record['device']}; {listed(record['versions'])}; commit {record['commit']}. Numbers, settings and "
            "checksums: [results.json](results.json).\n"
        )
        return "\n".join(parts)


def cached(options: Options, key: Any, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `make` returns, kept in runs/NAME/ by a hash of `key`, so that an interrupted experiment goes on.

    `key` must hold everything that the arrays depend on; a key is a dictionary of plain values and recipes. With
    --quick nothing is kept.
    """
    if options.quick:
        return make()
    path = RESULTS.parents[1] / "runs" / options.name / f"{config_hash(_plain(key))}.npz"
    if path.exists():
        with np.load(path) as stored:
            arrays = dict(stored)
        KEPT[path.name] = json.loads(str(arrays.pop(RECORD, "null")))
        return arrays
    began = time.perf_counter()
    arrays = make()
    record = {"commit": commit(), "seconds": round(time.perf_counter() - began), "versions": all_versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")  # a part is whole or not there
    with partial.open("wb") as file:
        np.savez(file, **arrays, **{RECORD: np.asarray(json.dumps(record))})
    os.replace(partial, path)
    return arrays


def stacked(runs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several runs by name, with an axis of runs in front."""
    return {name: np.stack([run[name] for run in runs]) for name in (runs[0] if runs else ())}


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def kept_in_words() -> str:
    """How many parts were kept, how long they took, and whose code made them, as far as they say so."""
    records = [record for record in KEPT.values() if record]
    seconds = sum(record["seconds"] for record in records)
    commits = ", ".join(sorted({record["commit"] for record in records}))
    known = f" ({len(records)} of them: {seconds:,} s, commit {commits})" if records else ""
    return f"{len(KEPT)} part{'s' * (len(KEPT) != 1)} kept from an earlier call{known}"


def claims_markdown(claims: Iterable[Mapping[str, str]]) -> str:
    rows = [(claim["claim"], f"**{claim['verdict']}**", claim["evidence"]) for claim in claims]
    return markdown_table(("statement", "verdict", "evidence"), rows) + "\n"


def listed(packages: Mapping[str, str]) -> str:
    """Packages and their versions in words."""
    return ", ".join(f"{name} {number}" for name, number in packages.items())


def write_page(
    options: argparse.Namespace,
    name: str,
    heading: str,
    sections: Iterable[str],
    packages: Iterable[str],
    typed: Sequence[str] = (),
    **rest: Any,
) -> None:
    """Write the README.md of a script whose tables are the library's, and results.json with `rest`.

    `typed` are options that were given beside --quick.
    """
    command = " ".join(["python", f"experiments/{name}.py", *typed, *(["--quick"] if options.quick else [])])
    taken = versions() | {package: metadata.version(package) for package in packages}
    options.out.mkdir(parents=True, exist_ok=True)
    if rest:
        record = {"command": command, "seed": 0, "device": device(), "versions": taken, **rest}
        (options.out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    about = f"Command: `{command}`;{' seed 0;' if rest else ''} {device()}; {listed(taken)}."
    (options.out / "README.md").write_text("\n".join([f"# {heading}\n", *sections, about, ""]), encoding="utf-8")


def all_versions() -> dict[str, str]:
    """Versions of what took part, peers included; one that is not installed was left out."""
    took_part = [package for package, modules in PEERS.items() if not sys.modules.keys().isdisjoint(modules)]
    return versions() | {name: metadata.version(name) for name in took_part if importlib.util.find_spec(name)}


@functools.cache
def commit() -> str:
    """The commit of the code that ran, with "+changes" if files outside results differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--", ":/", ":!results").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def judge(holds: bool | Iterable[bool]) -> str:
    """The verdict on a claim that was tested in one case or several: it holds in all of them, in none, or in some."""
    cases = [bool(held) for held in holds] if isinstance(holds, Iterable) else [bool(holds)]
    return "supported" if all(cases) else "not decided" if any(cases) else "not supported"


def _plain(value: Any) -> Any:
    if isinstance(value, fv.Recipe):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
