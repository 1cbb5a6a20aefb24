"""The run directory: the resolved spec, an append-only line a finished trial, weights and histories."""

from __future__ import annotations

import errno
import functools
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxvision._files import is_unfinished, sync_folder, write_atomically
from flaxvision._text import visible
from flaxvision.data.raw import check_members
from flaxvision.errors import UserError
from flaxvision.identity import AROUND, Identity, differences, listed
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.lock import HOLDER, LOCK, writable
from flaxvision.sweep.parse import SPEC, load_spec
from flaxvision.sweep.parts import Part, files_of_parts, of_part
from flaxvision.sweep.records import SUMS, TRIALS, Log, check_record, checksum, line_of, mend, mend_end, read_log
from flaxvision.sweep.results import Outcome
from flaxvision.sweep.spec import Settings, Spec
from flaxvision.sweep.spec_file import damage_of, search_table, write_spec
from flaxvision.sweep.trials import Record, expand
from flaxvision.training.confusion import as_pairs
from flaxvision.training.history import History


def claim(stem: Path, number: int = 1) -> Path:
    """Make the folder `stem`, with a number behind its name where another job has taken that."""
    path = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
    with writable(stem):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            return claim(stem, number + 1)
    return path


def open_run(directory: Path, spec: Spec, *, resume: bool, part: Part | None = None) -> Log:
    """Make a run directory, or take one up again, and return what is on record of its trials.

    Damaged records are set aside, and the records of parts put together; a part leaves both to who fills all of it.
    `UserError` if the folder holds another sweep, holds this one and `resume` is False, or cannot be written.
    """
    check_directory(directory, spec, resume=resume)
    if part is not None:
        _check_parts(directory, spec, part)
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        log = read_log(directory)
        write_spec(directory, spec)  # first, as without it the folder is no run
        (directory / "trials").mkdir(exist_ok=True)
        if part is not None:
            mend_end(directory / of_part(TRIALS, part))  # which makes the file
            return log
        mend(directory, log)
        for path in files_of_parts(directory):
            path.unlink(missing_ok=True)
        for folder in (directory, directory / "trials"):
            for path in filter(is_unfinished, folder.iterdir()):
                path.unlink(missing_ok=True)
    return log


def _check_parts(directory: Path, spec: Spec, part: Part) -> None:
    """Raise `UserError` where others fill another number of parts, or parts of another table."""
    begun = files_of_parts(directory, TRIALS).values()  # a lock may be left by a part that was refused
    others = [other for other in begun if other != part]
    if divided := next((other for other in others if other.of != part.of), None):
        raise UserError(
            f"{directory} is filled in {divided.of} parts, and part {part} is none of these: give --part "
            f"{min(part.number, divided.of)}/{divided.of}, or put these together first: flaxvision resume {directory}"
        )
    if others and not damage_of(directory):
        theirs = load_spec(directory / SPEC)
        if [trial.id for trial in expand(theirs)] != [trial.id for trial in expand(spec)]:
            raise UserError(
                f"the other parts of {directory} are of a table of other trials: give the same seeds and values to "
                "every part"
            )


def check_directory(directory: Path, spec: Spec, *, resume: bool) -> None:
    """Raise `UserError` for a folder that holds something else, or this sweep although it is not to be continued.

    It leaves nothing, and finds what making the folder would find.
    """
    with writable(directory):
        if directory.exists() and (not directory.is_dir() or any(map(_counts, directory.iterdir()))):
            _check_same(directory, spec, resume)
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryDirectory(dir=there, prefix=LOCK):  # what a system lets a user write, only trying tells
            pass


def _counts(path: Path) -> bool:
    """Whether a file makes its folder more than an empty one, in which a run may have been killed as it began."""
    return not path.name.startswith((LOCK, HOLDER)) and not is_unfinished(path)


def _check_same(directory: Path, spec: Spec, resume: bool) -> None:
    if damage := damage_of(directory):
        if not resume:
            raise UserError(
                f"{directory} holds a sweep whose {damage}: add --resume to continue with what is given here, or give "
                "another --out DIR"
            )
        return
    if not (directory / SPEC).is_file():
        raise UserError(f"{directory} is not empty and holds no sweep: give an empty or new folder with --out DIR")
    if changed := differences(_experiment(load_spec(directory / SPEC)), _experiment(spec)):
        raise UserError(
            f"{directory} holds another sweep: {listed(changed)}: give what it was made with, or another folder with "
            "--out DIR"
        )
    if not resume:
        raise UserError(f"{directory} holds this sweep already: add --resume to continue, or give another --out DIR")


def _experiment(spec: Spec) -> Identity:
    """What must agree for a run to be continued; seeds and values may be added. In TOML tables come after values."""
    stages = {name: {**stage.settings, "only": stage.only} for name, stage in spec.stages.items()}
    alike = ("objective", "convergence_threshold", "devices")
    rest = {"grid": sorted(spec.keys), **{name: getattr(spec, name) for name in alike}}
    search = search_table(spec.search) if spec.search else {}
    search = {key: value for key, value in search.items() if key not in ("trials", "minutes", "finalists")}
    return {"name": spec.name, **spec.base, **rest, **stages, **({"search": search} if search else {})}


def append_record(directory: Path, *records: Record, name: str = TRIALS) -> None:
    """Add the finished trials of a cohort to trials.jsonl, or to another file of such lines.

    Once this returns they survive a crash, and before it none of them does.
    """
    lines = "".join(map(line_of, records))
    with writable(directory), open(directory / name, "ab", buffering=0) as file:  # in one piece
        file.write(lines.encode())
        os.fsync(file.fileno())
    sync_folder(directory)  # which may just have got the file


def read_records(directory: Path) -> list[Record]:
    """The finished trials of a run directory, in the order in which they ended; of one trained again the newest."""
    return list(read_log(directory).records)


def read_run(directory: str | Path) -> tuple[Spec, Log]:
    """The spec of a run directory and what is on record of its trials; `UserError` if it is none."""
    directory = Path(directory)
    if not (directory / SPEC).is_file():
        raise UserError(f"{directory} is not a run directory: it has no {SPEC}; give a folder that a sweep wrote")
    return load_spec(directory / SPEC), read_log(directory)


def outcome_of(record: Record, files: RunFiles, *, lazily: bool = False) -> Outcome:
    """A record with its history, which is read now, or when it is first asked for.

    Raises:
        UserError: If the record lacks something, or the history is not what was written.
    """
    check_record(record)
    fields: Settings = dict(record)
    about = {key: fields[key] for key in ("id", "stage", "seed", "status", "config")}
    about["cell"] = tuple(record["cell"].items())
    if record["status"] == "failed":
        return Outcome(**about, message=visible(record["message"]))
    numbers = {key: fields[key] for key in ("parameters", "final", "best_epoch", "converged_epoch", "seconds")}
    numbers |= {key: tuple(fields.get(key, ())) for key in ("epoch_steps", "epoch_seconds")}  # new in a later version
    if lazily:
        return Outcome(**about, **numbers, history=StoredHistory(record, files))
    path = files.history(record["id"])
    try:
        content = path.read_bytes()
        _check_sum(record, "history", content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            check_members(arrays.zip, len(content), str(path))
            history = as_pairs(dict(arrays), record["best_epoch"])
        scored = History(history).row(record["best_epoch"])
        if any(scored.get(name, np.nan) != value for name, value in record["final"].items() if value is not None):
            raise ValueError("it has other numbers than the record")
    except Exception as error:  # NumPy, zipfile and zlib tell of damage in many ways
        raise _unread(path, error, files) from error
    return Outcome(**about, **numbers, history=history)


class StoredHistory(Mapping[str, np.ndarray]):
    """A trial's history, read when it is first asked for."""

    def __init__(self, record: Record, files: RunFiles):
        self.record, self.files = record, files

    @functools.cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All of it; `UserError` as `outcome_of`."""
        return outcome_of(self.record, self.files).history

    def __bool__(self) -> bool:  # which reads nothing
        return True

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def take_weights(record: Record, files: RunFiles, to: Path) -> None:
    """Copy a trial's weights, which must be those that it ended with.

    Raises:
        UserError: If they are not, or cannot be read or written.
    """
    content = _weights_of(record, files)
    to.parent.mkdir(exist_ok=True)
    write_atomically(to, content)


def _weights_of(record: Record, files: RunFiles) -> bytes:
    from safetensors import SafetensorError, safe_open

    path = files.weights(record["id"])
    try:
        content = path.read_bytes()
        _check_sum(record, "weights", content)
        with safe_open(path, "numpy"):  # which checks the header against the size
            return content
    except (OSError, ValueError, SafetensorError) as error:
        raise _unread(path, error, files) from error


def _unread(path: Path, error: Exception, files: RunFiles) -> UserError:
    return UserError(f"cannot read {path} ({error}): flaxvision resume {files.directory} trains that trial again")


def _check_sum(record: Record, what: str, content: bytes) -> None:
    """Raise `ValueError` for the content of a file that is not what was written; earlier versions kept no checksums."""
    if record.get(SUMS, {}).get(what, checksum(content)) != checksum(content):
        raise ValueError("its checksum is not that on record")


def usable(records: Sequence[Record], files: RunFiles) -> tuple[list[Record], list[str]]:
    """The records of finished trials whose files are there and whole, and a line for each of the others."""
    ended = [record for record in records if record.get("status") != "failed"]
    broken = [_broken(record, files) for record in ended]
    sound = [record for record, why in zip(ended, broken, strict=True) if not why]
    pairs = zip(ended, broken, strict=True)
    return sound, [f"trial {record['id']} is trained again: {why}" for record, why in pairs if why]


def _broken(record: Record, files: RunFiles) -> str:
    """What is wrong with a finished trial; "" if nothing is."""
    try:
        check_record(record)
    except UserError as error:
        return str(error)
    read: tuple[tuple[Path, Callable[[Record, RunFiles], object]], ...] = (
        (files.weights(record["id"]), _weights_of),
        (files.history(record["id"]), outcome_of),
    )
    for path, attempt in read:
        try:
            attempt(record, files)
        except UserError:
            return f"{path.name} is {'damaged' if path.exists() else 'gone'}"
    return ""


def check_identity(directory: Path, records: Sequence[Record], identity: Identity) -> list[str]:
    """Raise where trials on record rest on other things than those to come; else what is to be said of them.

    Seeds and values may be added to a run. What they rest on may not change: the data, the code of a network of one's
    own, the weights that trials start from, JAX's switches.
    """
    held = [record["identity"] for record in records if "identity" in record]
    known = {key: value for each in [*held, identity] for key, value in each.items()}
    moved = dict.fromkeys(difference for each in held for difference in differences(each[AROUND], identity[AROUND]))
    elsewhere = listed(list(moved))
    if changed := _changes(held, known):
        raise UserError(
            f"{directory} holds trials made from other inputs: {changed}{f' (and {elsewhere})' if elsewhere else ''}: "
            "restore that to continue, or give another folder with --out DIR"
        )
    notes = []
    if len(held) < sum(record.get("status") != "failed" for record in records):
        notes.append(
            "some recorded trials do not say which data and code they were trained on: these may have been others"
        )
    if elsewhere:
        notes.append(f"resumed elsewhere: {'; '.join(moved)}")
    return notes


def check_unchanged(record: Record, identity: Identity) -> None:
    """Raise where a trial that just ended rests on other things than those that were there when the sweep began."""
    if changed := _changes([record.get("identity", {})], identity):
        raise UserError(f"inputs changed while the sweep ran: {changed}: start again with another --out DIR")


def _changes(held: Sequence[Identity], known: Identity) -> str:
    found = [line for each in held for line in differences({**each, AROUND: 0}, {**known, AROUND: 0}, common=True)]
    return listed(list(dict.fromkeys(found)))
