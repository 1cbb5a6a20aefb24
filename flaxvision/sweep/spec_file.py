"""spec.toml of a run directory: the sweep as it runs, under a checksum, so that nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path

from flaxvision._files import write_atomically
from flaxvision._text import SUBSTITUTE
from flaxvision.errors import UserError
from flaxvision.sweep.config import tables_of
from flaxvision.sweep.parse import MOST_BYTES, SPEC
from flaxvision.sweep.records import TRIALS, checksum
from flaxvision.sweep.spec import APART, Choices, Point, Range, Search, Settings, Spec, as_typed

MARK = b"# checksum "  # how the first line begins; a hash of all that follows it


def dump_spec(spec: Spec) -> str:
    """The spec as TOML that `load_spec` reads back to the same trials."""
    import tomli_w

    table: Settings = {"name": spec.name, "title": spec.title, "description": spec.description}
    table |= {**_sections(spec.base), "seeds": spec.seeds, "objective": spec.objective}
    devices = "" if spec.devices == APART else spec.devices
    optional = {"convergence_threshold": spec.convergence_threshold, "devices": devices, "changed": spec.changed}
    table |= {key: value for key, value in optional.items() if value}
    if spec.search is None:
        table["grid"] = {axis.key: point_values(axis.key, axis.points) for axis in spec.axes}
    else:
        table["search"] = search_table(spec.search)
    for name, stage in spec.stages.items():
        table[name] = {
            **_sections(stage.settings),
            "seeds": stage.seeds,
            **({"only": stage.only} if stage.only else {}),
        }
    table["published"] = [dataclasses.asdict(entry) for entry in spec.published]
    return tomli_w.dumps(table)


def _sections(settings: Settings) -> Settings:
    tables = tables_of(settings)
    return tables.pop("") | {name: table for name, table in tables.items() if table}


def search_table(search: Search) -> Settings:
    """A search as [search]: what is as it is without being given is left out."""
    unless = {field.name: field.default for field in dataclasses.fields(search)}
    given = {name: getattr(search, name) for name in unless if name != "space"}
    table: Settings = {name: value for name, value in given.items() if value != unless[name]}
    return table | {"space": {key: _dimension(key, each) for key, each in search.space.items()}}


def _dimension(key: str, each: Range | Choices) -> Settings:
    if isinstance(each, Choices):
        table: Settings = {"values": point_values(key, each.points)}
    else:
        table = {"low": each.low, "high": each.high, **({"log": True} if each.log else {})}
        table |= {} if each.step is None else {"step": each.step}
    return table | ({"when": {other: list(labels) for other, labels in each.when.items()}} if each.when else {})


def point_values(key: str, points: Sequence[Point]) -> list[object]:
    """The points of a key as a list of a spec: plain values where they are no more than that."""
    values = [point.settings.get(key) for point in points]
    if tuple(points) == tuple(Point(as_typed(value), {key: value}) for value in values):
        return values
    return [{"name": point.label, **point.settings} for point in points]


def write_spec(directory: Path, spec: Spec) -> None:
    """Write spec.toml to a run directory."""
    text = dump_spec(spec).encode(errors=SUBSTITUTE)
    write_atomically(directory / SPEC, MARK + checksum(text).encode() + b"\n" + text)


def damage_of(directory: Path) -> str:
    """What is wrong with a run directory's spec.toml, as a sentence; "" if nothing is.

    One without a checksum, which an earlier version or somebody by hand has written, is only read as TOML.
    """
    try:
        with open(directory / SPEC, "rb") as file:  # a part of it: a link may lead to a device without end
            content = file.read(2 * MOST_BYTES)
    except FileNotFoundError:
        return f"{SPEC} is gone" if (directory / TRIALS).is_file() else ""
    first, _, text = content.partition(b"\n")
    if first.startswith(MARK) or MARK.startswith(first):
        sound = first == MARK + checksum(text).encode()
    else:
        try:
            sound = bool(tomllib.loads(content[:MOST_BYTES].decode()))
        except (ValueError, RecursionError):
            sound = False
    return "" if sound else f"{SPEC} is not what was written"


def check_whole(directory: Path) -> None:
    """Raise `UserError` for a run directory whose spec.toml is not what was written, and must not be trained by."""
    if damage := damage_of(directory):
        raise UserError(
            f"{directory}: {damage}: type what the sweep was started with, with --out {directory} --resume, and it is "
            "written anew; or delete its first line, if it was you who changed it"
        )
