"""The lines of trials.jsonl: a record each, with checksums of itself and of the trial's files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from flaxvision._files import write_atomically
from flaxvision.errors import UserError
from flaxvision.identity import AROUND
from flaxvision.sweep.parts import files_of_parts
from flaxvision.sweep.spec import config_hash
from flaxvision.sweep.trials import Record

TRIALS, DAMAGED = "trials.jsonl", "damaged.jsonl"
SUMS: Final = "checksums"  # the entry of a record with its checksums
OWN = "record"  # and in it the record's own
_NUMBER, _MISSING = (int, float), "not there"
_ID = re.compile("[0-9a-f]{1,64}")  # what names files


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """What a run directory's trials.jsonl holds, and those of parts that nobody has put together."""

    records: tuple[Record, ...]  # in the order in which they ended; of a trial trained again the newest
    sound: bytes = b""  # the lines that are whole
    damaged: tuple[tuple[str, str, bytes], ...] = ()  # where, what is wrong, the line
    cut: int = 0  # bytes at the end, of a line that a kill cut short
    ended: bool = True  # whether the last line has its end
    parts: bool = False  # whether there are those of parts

    @property
    def notes(self) -> list[str]:
        """What is to be said of the damaged lines."""
        return [
            f"{where} is damaged ({why}): it is kept in {DAMAGED}, and what it was is trained again"
            for where, why, _ in self.damaged
        ]


def checksum(content: bytes) -> str:
    """Sixteen hexadecimal digits of a file's bytes, as `flaxvision.identity.checksum_of_file` gives them."""
    return hashlib.sha256(content).hexdigest()[:16]


def line_of(record: Record) -> str:
    """A record's line, with a checksum over all that it says."""
    sums = {name: value for name, value in record.get(SUMS, {}).items() if name != OWN}
    whole = {**record, SUMS: sums}
    return json.dumps({**whole, SUMS: {**sums, OWN: _own(whole)}}, allow_nan=False, default=list) + "\n"


def _own(record: Mapping[str, object]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), default=list)
    return checksum(text.encode("utf-8", "surrogatepass"))


def read_log(directory: Path, name: str = TRIALS) -> Log:
    """What trials.jsonl, or another file of such lines, holds, and those of parts; a line that was cut short is none.

    Raises:
        UserError: If one cannot be read.
    """
    own, parts = _read_file(directory / name), [*map(_read_file, files_of_parts(directory, name))]
    logs = [own, *parts]
    return dataclasses.replace(
        own,
        records=_newest(record for log in logs for record in log.records),
        sound=b"".join(log.sound for log in logs),
        damaged=tuple(line for log in logs for line in log.damaged),
        parts=bool(parts),
    )


def _read_file(path: Path) -> Log:
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give yourself the right to read it") from error
    lines = content.split(b"\n")
    records: list[Record] = []
    sound, damaged, cut = [], [], 0
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                records.append(_read(line))
            except ValueError as error:
                if number < len(lines):
                    damaged.append((f"{path.name} line {number}", str(error), line))
                else:
                    cut = len(line)
                continue
            sound.append(line)
    whole = b"".join(line + b"\n" for line in sound)
    return Log(_newest(records), whole, tuple(damaged), cut, bool(cut) or not lines[-1])


def _newest(records: Iterable[Record]) -> tuple[Record, ...]:
    """The last record of each trial, in their order."""
    found: dict[str, Record] = {}
    for record in records:
        found.pop(record["id"], None)
        found[record["id"]] = record
    return tuple(found.values())


def _read(line: bytes) -> Record:
    """The record of a line; `ValueError` in a few words."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("it is not valid JSON") from None
    if not isinstance(record, dict) or not isinstance(record.get("id"), str) or not _ID.fullmatch(record["id"]):
        raise ValueError("it is no trial's record")
    sums = record.get(SUMS)
    if sums is None:  # an earlier version wrote it
        whole = record.keys() <= Record.__annotations__.keys()
    else:
        whole = isinstance(sums, dict) and sums.get(OWN) == _own(
            {**record, SUMS: {name: value for name, value in sums.items() if name != OWN}}
        )
    if not whole:
        raise ValueError("it is not what was written")
    if "config" in record and config_hash(record["config"]) != record["id"]:
        raise ValueError("its id is not that of its configuration")
    return cast(Record, record)


def mend(directory: Path, log: Log) -> None:
    """Leave whole lines alone in trials.jsonl, those of parts too, so that the next one starts on a line of its own.

    Damaged ones go to a file of their own: nothing is lost, and each is told of once.
    """
    if log.damaged:
        aside = directory / DAMAGED
        before = aside.read_bytes() if aside.exists() else b""
        write_atomically(aside, before + b"".join(line + b"\n" for _, _, line in log.damaged))
    if log.damaged or log.parts:
        write_atomically(directory / TRIALS, log.sound)
    else:
        _mend_end(directory / TRIALS, log)


def mend_end(path: Path) -> None:
    """Have the next line of a part start on a line of its own; damaged ones are set aside when all is put together."""
    _mend_end(path, _read_file(path))


def _mend_end(path: Path, log: Log) -> None:
    with open(path, "ab") as file:
        if log.cut:
            file.truncate(file.tell() - log.cut)
        elif not log.ended:
            file.write(b"\n")


def check_record(record: Record) -> None:
    """Raise `UserError` for a record that lacks something, or of which something is of another kind."""
    given = cast(Mapping[str, object], record)
    wanted: dict[str, tuple[type, ...]] = {"stage": (str,), "seed": (int,), "status": (str,), "config": (dict,)}
    if given.get("status") == "failed":
        wanted |= {"message": (str,)}
    else:
        wanted |= {"final": (dict,), "best_epoch": (int,), "parameters": (int,), "seconds": _NUMBER}
        wanted |= {"converged_epoch": (int, type(None)), **({"cores": (int,)} if "cores" in given else {})}
    wrong = [key for key, kinds in wanted.items() if not _is(given.get(key, _MISSING), kinds)]
    for key, kinds in (("cell", (str,)), ("final", (*_NUMBER, type(None))), (SUMS, (str,))):
        table = given.get(key, {} if key != "cell" else _MISSING)
        if not isinstance(table, dict) or not all(_is(value, kinds) for value in table.values()):
            wrong.append(key)
    for key in ("epoch_steps", "epoch_seconds"):
        values = given.get(key, [])
        if not isinstance(values, list) or not all(_is(value, _NUMBER) for value in values):
            wrong.append(key)
    identity = given.get("identity", {AROUND: {}})
    if not isinstance(identity, dict) or not isinstance(identity.get(AROUND), dict):
        wrong.append("identity")
    if wrong:
        raise UserError(f"its record has no right {' and '.join(dict.fromkeys(wrong))}")


def _is(value: object, kinds: Sequence[type]) -> bool:
    return isinstance(value, tuple(kinds)) and not isinstance(value, bool)
