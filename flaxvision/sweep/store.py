"""The run directory: the resolved spec, an append-only line a finished trial, weights and histories."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.sweep.parse import DATA_KEYS, load_spec
from flaxvision.sweep.results import Outcome
from flaxvision.sweep.spec import Axis, Point, Settings, Spec, Stage, as_typed, config_hash
from flaxvision.sweep.work import Places
from flaxvision.training.confusion import as_pairs
from flaxvision.training.recipe import field_names

SPEC, TRIALS = "spec.toml", "trials.jsonl"


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


def open_run(directory: Path, spec: Spec, *, resume: bool) -> list[dict[str, Any]]:
    """Make a run directory, or take one up again, and return the records of its finished trials.

    Raises:
        UserError: If the folder holds another sweep, holds this one and `resume` is False, or cannot be written.
    """
    check_directory(directory, spec, resume=resume)
    with _writable(directory):
        (directory / "trials").mkdir(parents=True, exist_ok=True)
    records = read_records(directory)
    # A line that a kill cut short is dropped here, so that the next one starts on a line of its own.
    write_atomically(directory / TRIALS, "".join(_line(record) for record in records))
    write_atomically(directory / SPEC, dump_spec(spec))
    return records


def check_directory(directory: Path, spec: Spec, *, resume: bool) -> None:
    """Raise `UserError` for a folder that holds something else, or this sweep although it is not to be continued.

    It leaves nothing, and finds what making the folder would find.
    """
    with _writable(directory):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
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


def append_record(directory: Path, record: dict[str, Any]) -> None:
    """Add a finished trial; once this returns it survives a crash."""
    with open(directory / TRIALS, "a", encoding="utf-8") as file:
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())


def read_records(directory: Path) -> list[dict[str, Any]]:
    """The finished trials of a run directory, in the order in which they ended."""
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
    return records


def read_run(directory: str | Path) -> tuple[Spec, list[dict[str, Any]]]:
    """The spec and the records of a run directory.

    Raises:
        UserError: If it is none.
    """
    directory = Path(directory)
    if not (directory / SPEC).is_file():
        raise UserError(f"{directory} is no run: it has no {SPEC}; give a folder that a sweep wrote")
    return load_spec(directory / SPEC), read_records(directory)


def outcome_of(record: dict[str, Any], places: Places) -> Outcome:
    """A record with its history."""
    path = places.history(record["id"])
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            history = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path} ({error}): remove the trial's line from {TRIALS} and resume") from error
    return Outcome(
        **{key: record[key] for key in ("id", "stage", "seed", "status", "config", "parameters", "final")},
        **{key: record[key] for key in ("best_epoch", "converged_epoch", "seconds")},
        cell=tuple(record["cell"].items()),
        history=as_pairs(history, record["best_epoch"]),
    )


def _check_same(directory: Path, spec: Spec, resume: bool) -> None:
    if not (directory / SPEC).is_file():
        raise UserError(f"{directory} is not empty and holds no sweep: give an empty or new folder with --out DIR")
    held, _ = read_run(directory)
    if _identity(held) != _identity(spec):
        raise UserError(f"{directory} holds another sweep ({held.name}): give another folder with --out DIR")
    if not resume:
        raise UserError(f"{directory} holds this sweep already: add --resume to go on, or give another --out DIR")


def _identity(spec: Spec) -> str:
    """What must agree for a run to be continued; seeds and values may be added."""
    stages = [stage and [stage.settings, stage.only] for stage in (spec.pretrain, spec.final)]
    return config_hash([spec.name, spec.base, spec.keys, spec.objective, stages])


def _sections(settings: Settings) -> dict[str, Any]:
    table: dict[str, Any] = {"data": {}, "sizes": {}, "recipe": {}}
    for key, value in settings.items():
        if value is None:
            continue
        if key in ("dataset", "model"):
            table[key] = value
        else:
            section = "data" if key in DATA_KEYS else "recipe" if key in field_names() else "sizes"
            table[section][key] = value
    return {key: value for key, value in table.items() if value != {}}


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
