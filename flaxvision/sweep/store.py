"""The run directory: the resolved spec, an append-only line a finished trial, weights and histories."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.identity import AROUND, Identity, differences, listed
from flaxvision.sweep.config import table_of
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.parse import load_spec
from flaxvision.sweep.results import Outcome
from flaxvision.sweep.spec import Axis, Point, Settings, Spec, Stage, as_typed
from flaxvision.training.confusion import as_pairs

SPEC, TRIALS, LOCK = "spec.toml", "trials.jsonl", ".lock"
ARRANGED = "arrangement.json"  # how the trials of each stage were shared out


def dump_spec(spec: Spec) -> str:
    """The spec as TOML that `load_spec` reads back to the same trials."""
    import tomli_w

    table: dict[str, Any] = {"name": spec.name, "title": spec.title, "description": spec.description}
    table |= _sections(spec.base)
    table |= {"seeds": list(spec.seeds), "objective": spec.objective}
    if spec.convergence_threshold is not None:
        table["convergence_threshold"] = spec.convergence_threshold
    if spec.changed:
        table["changed"] = list(spec.changed)
    table["grid"] = {axis.key: _axis_values(axis) for axis in spec.axes}
    for name, stage in (("pretrain", spec.pretrain), ("final", spec.final)):
        if stage is not None:
            table[name] = _stage_table(stage)
    table["published"] = [
        {"where": p.where, "metric": p.metric, "value": p.value, "tolerance": p.tolerance, "source": p.source}
        | {"stage": p.stage}
        for p in spec.published
    ]
    return tomli_w.dumps(table)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make a run directory and keep other processes from filling it; the lock ends with the process that holds it.

    Raises:
        UserError: If another process fills it.
    """
    import filelock

    with _writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / LOCK, timeout=0)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock)
        except filelock.Timeout as error:
            raise UserError(
                f"another process is filling {directory}: wait until it has ended, or give another --out DIR"
            ) from error
        except (OSError, NotImplementedError):  # a file system without locks
            pass
        yield


def claim(stem: Path) -> Path:
    """Make the folder `stem`, with a number behind its name where another job has taken that."""
    with _writable(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    raise AssertionError


def open_run(directory: Path, spec: Spec, *, resume: bool) -> list[dict[str, Any]]:
    """Make a run directory, or take one up again, and return the records of its finished trials.

    Raises:
        UserError: If the folder holds another sweep, holds this one and `resume` is False, or cannot be written.
    """
    check_directory(directory, spec, resume=resume)
    with _writable(directory):
        (directory / "trials").mkdir(parents=True, exist_ok=True)
        records = read_records(directory)
        _end_line(directory / TRIALS)
    write_atomically(directory / SPEC, dump_spec(spec))
    return records


def check_directory(directory: Path, spec: Spec, *, resume: bool) -> None:
    """Raise `UserError` for a folder that holds something else, or this sweep although it is not to be continued.

    It leaves nothing, and finds what making the folder would find.
    """
    with _writable(directory):
        if directory.exists() and (not directory.is_dir() or any(path.name != LOCK for path in directory.iterdir())):
            _check_same(directory, spec, resume)
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryDirectory(dir=there):  # what a system lets a user write, only trying tells
            pass


@contextlib.contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {directory}: {error.strerror}; give a folder that you can write: --out DIR"
        ) from error


def append_record(directory: Path, *records: dict[str, Any]) -> None:
    """Add the finished trials of a cohort; once this returns they survive a crash, and before it none of them does."""
    lines = "".join(map(_line, records)).encode()
    with open(directory / TRIALS, "ab", buffering=0) as file:  # in one piece, whoever else appends
        file.write(lines)
        os.fsync(file.fileno())


def _end_line(path: Path) -> None:
    """Drop a line that a kill cut short, so that the next one starts on a line of its own."""
    with open(path, "a+b") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            try:
                json.loads(content[whole:])
            except ValueError:
                file.truncate(whole)
            else:
                file.write(b"\n")


def read_records(directory: Path) -> list[dict[str, Any]]:
    """The finished trials of a run directory, in the order in which they ended; of one trained again the newest."""
    path = directory / TRIALS
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path} line {number} is no JSON ({error.msg}): remove that line to go on") from error
    return list({record.get("id", number): record for number, record in enumerate(records)}.values())


def read_run(directory: str | Path) -> tuple[Spec, list[dict[str, Any]]]:
    """The spec and the records of a run directory.

    Raises:
        UserError: If it is none.
    """
    directory = Path(directory)
    if not (directory / SPEC).is_file():
        raise UserError(f"{directory} is no run: it has no {SPEC}; give a folder that a sweep wrote")
    return load_spec(directory / SPEC), read_records(directory)


def outcome_of(record: dict[str, Any], files: RunFiles) -> Outcome:
    """A record with its history."""
    known = {key: record[key] for key in ("id", "stage", "seed", "status", "config")}
    cell = tuple(record["cell"].items())
    if record["status"] == "failed":
        return Outcome(
            **known, cell=cell, parameters=0, final={}, best_epoch=0, converged_epoch=None, seconds=0.0, history={},
            message=record["message"],
        )  # fmt: skip
    path = files.history(record["id"])
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            history = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy, zipfile and zlib tell of damage in many ways
        raise UserError(f"cannot read {path} ({error}): --resume trains that trial again") from error
    return Outcome(
        **known,
        **{key: record[key] for key in ("parameters", "final", "best_epoch", "converged_epoch", "seconds")},
        cell=cell,
        history=as_pairs(history, record["best_epoch"]),
    )


def usable(records: Sequence[dict[str, Any]], files: RunFiles) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of finished trials whose files are there and whole, and a line for each of the others."""
    from safetensors import SafetensorError, safe_open

    sound, notes = [], []
    for record in records:
        if record.get("status") == "failed":
            continue
        name = record.get("id", "without id")
        try:
            outcome_of(record, files)
            with safe_open(files.weights(name), "numpy"):  # which checks the header against the size
                pass
        except KeyError as error:
            notes.append(f"trial {name} is trained again: its record has no {error}")
        except (UserError, OSError, SafetensorError) as error:
            path = files.history(name) if isinstance(error, UserError) else files.weights(name)
            notes.append(f"trial {name} is trained again: {path.name} is {'damaged' if path.exists() else 'gone'}")
        else:
            sound.append(record)
    return sound, notes


def read_arrangement(directory: Path) -> dict[str, Any]:
    """How the trials of each stage were shared out; empty where that is not known, or in another way than now."""
    try:
        found = json.loads((directory / ARRANGED).read_text(encoding="utf-8"))
        keys = {"asked", "platform", "executor", "mode", "cohorts"}
        return found if all(stage.keys() == keys for stage in found.values()) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def write_arrangement(directory: Path, arranged: dict[str, Any]) -> None:
    """Keep how the trials of each stage are shared out."""
    write_atomically(directory / ARRANGED, json.dumps(arranged, indent=0) + "\n")


def check_identity(directory: Path, records: Sequence[dict[str, Any]], identity: Identity) -> list[str]:
    """Raise where trials on record rest on other things than those to come; else what is to be said of them.

    Seeds and values may be added to a run. What they rest on may not change: the data, the code of a network of one's
    own, the weights that trials start from, JAX's switches.

    Raises:
        UserError: Naming what changed.
    """
    held = [record["identity"] for record in records if "identity" in record]
    known = {key: value for each in [*held, identity] for key, value in each.items()}
    moved = dict.fromkeys(difference for each in held for difference in differences(each[AROUND], identity[AROUND]))
    elsewhere = listed(list(moved))
    if changed := _changes(held, known):
        raise UserError(
            f"{directory} holds trials of something else: {changed}{f' (and {elsewhere})' if elsewhere else ''}: put "
            "that back to go on, or give another folder with --out DIR"
        )
    notes = []
    if len(held) < sum(record.get("status") != "failed" for record in records):
        notes.append("some trials on record do not say on what data and code they were trained: they may be of others")
    if elsewhere:
        notes.append(f"resumed elsewhere: {elsewhere}")
    return notes


def check_unchanged(record: dict[str, Any], identity: Identity) -> None:
    """Raise where a trial that just ended rests on other things than those that were there when the sweep began.

    Raises:
        UserError: Naming what changed.
    """
    if changed := _changes([record.get("identity", {})], identity):
        raise UserError(f"what is trained changed while the sweep ran: {changed}: start again with another --out DIR")


def _changes(held: Sequence[Identity], known: Identity) -> str:
    found = [line for each in held for line in differences({**each, AROUND: 0}, {**known, AROUND: 0}, common=True)]
    return listed(list(dict.fromkeys(found)))


def _check_same(directory: Path, spec: Spec, resume: bool) -> None:
    if not (directory / SPEC).is_file():
        raise UserError(f"{directory} is not empty and holds no sweep: give an empty or new folder with --out DIR")
    held, _ = read_run(directory)
    changed = differences(_experiment(held), _experiment(spec))
    if changed:
        raise UserError(
            f"{directory} holds another sweep: {listed(changed)}: give what it was made with, or another folder with "
            "--out DIR"
        )
    if not resume:
        raise UserError(f"{directory} holds this sweep already: add --resume to go on, or give another --out DIR")


def _experiment(spec: Spec) -> Identity:
    """What must agree for a run to be continued; seeds and values may be added. In TOML tables come after values."""
    stages = {
        name: {**stage.settings, "only": list(stage.only)}
        for name, stage in (("pretrain", spec.pretrain), ("final", spec.final))
        if stage is not None
    }
    rest = {"grid": sorted(spec.keys), "objective": spec.objective, "convergence_threshold": spec.convergence_threshold}
    return {"name": spec.name, **spec.base, **rest, **stages}


def _sections(settings: Settings) -> dict[str, Any]:
    tables: dict[str, Settings] = {"": {}, "data": {}, "sizes": {}, "recipe": {}}
    for key, value in settings.items():
        tables[table_of(key)][key] = value
    return tables.pop("") | {name: table for name, table in tables.items() if table}


def _axis_values(axis: Axis) -> list[Any]:
    values = [point.settings.get(axis.key) for point in axis.points]
    if axis.points == tuple(Point(as_typed(value), {axis.key: value}) for value in values):
        return values
    return [{"name": point.label, **point.settings} for point in axis.points]


def _stage_table(stage: Stage) -> dict[str, Any]:
    return {
        **_sections(stage.settings),
        "seeds": list(stage.seeds),
        **({"only": list(stage.only)} if stage.only else {}),
    }


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, default=list) + "\n"
