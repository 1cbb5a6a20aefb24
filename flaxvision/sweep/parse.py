"""Reads sweeps: TOML text to a `Spec`, with every mistake named in one line."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from flaxvision._text import visible
from flaxvision.errors import UserError, check_choice, unknown
from flaxvision.models.registry import all_argument_names
from flaxvision.sweep import keys
from flaxvision.sweep.axes import axis_of, check_plain
from flaxvision.sweep.config import DATA_KEYS, RECIPE_KEYS, table_of
from flaxvision.sweep.given import as_toml
from flaxvision.sweep.search.read import search_of
from flaxvision.sweep.spec import (
    APART,
    AUTO,
    DEVICES,
    PRETRAINED,
    Axis,
    Published,
    Settings,
    Spec,
    Stage,
    Typed,
    as_typed,
)
from flaxvision.training.metrics import PARAMETERS, TABLE_METRICS, selection_metrics

T = TypeVar("T")
Table = Mapping[str, object]  # of a TOML file, not yet checked
MOST_SEEDS = 10_000
MOST_BYTES = 1_000_000  # of a TOML file
SPEC = "spec.toml"  # of a run directory
SPECS = Path(__file__).with_name("specs")


def list_specs() -> list[str]:
    """The names of the sweeps in the package."""
    return sorted(path.stem for path in SPECS.glob("*.toml"))


def load_spec(given: Spec | Mapping[str, object] | str | Path = "demo") -> Spec:
    """A sweep: of the package by its name, or of your own by the path of a TOML file or as tables in Python.

    Args:
        given: A name of `list_specs()`, the path of a TOML file or of a run directory, or the tables of such a file as
            a dict. A `Spec` is given back.

    Raises:
        UserError: If there is no such sweep, or it is no valid spec; the message says what to mend.

    >>> sizes = {"model": "mlp", "dataset": "glyphs", "grid": {"hidden": [(8,), (16, 8)]}}
    >>> [point.label for point in load_spec(sizes).axes[0].points]
    ['[8]', '[16, 8]']
    """
    if isinstance(given, Spec):
        return given
    if isinstance(given, Mapping):
        return parse_spec(as_toml(given, "the sweep"))
    if not isinstance(given, (str, Path)):
        raise UserError(f"the sweep is a {type(given).__name__}: give a name, a path, a dict of tables or a Spec")
    name, path = str(given), Path(given)
    if name in list_specs():
        path = SPECS / f"{name}.toml"
    elif path.suffix != ".toml" and os.path.isfile(path / SPEC):
        path = path / SPEC
    elif path.suffix != ".toml" and not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise unknown("sweep", name, [*list_specs(), "a path to a .toml file"])
    try:
        with open(path, "rb") as file:  # a part of it: a link may lead to a device without end
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{name} has more than {MOST_BYTES:,} bytes: give a sweep's TOML file")
        table = tomllib.loads(content.decode("utf-8"), parse_float=Typed)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a sweep's name or a TOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not valid TOML: it is not UTF-8 text") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # beside TOML's own: a number or a nesting past Python's limits
        raise UserError(f"{name} is not valid TOML: {error}") from error
    try:
        return parse_spec({"name": path.stem, **table})
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def parse_spec(table: Mapping[str, object]) -> Spec:
    """A spec from the tables of its TOML file.

    Raises:
        UserError: For an unknown key, a wrong type or an empty grid.
    """
    for key in table.keys() - set(keys.names(keys.TOP)):
        if key in keys.setting_keys():
            raise UserError(f"{key} is a setting of [{table_of(key)}]: move it there")
    _known("key", table, keys.names(keys.TOP))
    name = _text(table, "name", "sweep")
    if not name or Path(name).name != name or not name.isprintable():
        raise UserError(f"name is {name!r}: give a valid folder name")
    base = _settings(table)
    for key in ("select", "select_on"):
        if key in table:
            if key in base:
                raise UserError(f"{key} is given twice, at the top and in [recipe]: leave it to one of them")
            base[key] = _text(table, key)
    if "init" in table:
        start = _is(table["init"], dict, "init", 'a table with "from"; the framework\'s defaults are [sizes] init')
        _known("key of [init]", start, keys.names(keys.INIT))
        if "from" not in start:
            raise UserError('[init] needs from = "RUN or FILE"')
        if "warm_start" in base or "warm_start_only" in base:
            raise UserError("a warm start is given twice, by [init] and in [recipe]: leave it to one of them")
        base["warm_start"] = _is(start["from"], str, "[init] from", "a path")
        base["warm_start_only"] = _strings(start.get("only", []), "[init] only")
    grid = _table(table, "grid", "a table")
    if "variants" in table:
        if "variant" in grid:
            raise UserError("variant is given by both [grid] and [[variants]]: leave it to one of them")
        grid = {**grid, "variant": table["variants"]}
    model = base.get("model", "")
    axes = tuple(axis_of(key, values, model) for key, values in grid.items())
    search = search_of(_table(table, "search"), model) if "search" in table else None
    threshold = _number(table, "convergence_threshold") if "convergence_threshold" in table else None
    if threshold is not None and not 0 < threshold < math.inf:
        raise UserError(f"convergence_threshold is {as_typed(threshold)}: give a number above 0")
    pretrain, final = _stage(table, "pretrain", model), _stage(table, "final", model)
    varied = (*axes, *(search.choices.values() if search else ()))
    settings = [base, *(point.settings for each in varied for point in each.points)]
    if pretrain is not None and not any(each.get("warm_start") == PRETRAINED for each in settings):
        raise UserError(
            "[pretrain] has no effect, since no trial starts from it: "
            f"give warm_start = {PRETRAINED!r} in [recipe] or a variant"
        )
    published = _is(table.get("published", []), list, "published", "[[published]] tables")
    return Spec(
        name=name,
        title=visible(_text(table, "title", name)),
        description=visible(_text(table, "description").strip(), keep="\n"),
        base=base,
        axes=axes,
        seeds=seeds_of(table.get("seeds", 1)),
        objective=objective_of(table.get("objective", AUTO)),
        convergence_threshold=threshold,
        published=tuple(_published(entry, axes) for entry in published),
        pretrain=pretrain,
        final=final,
        search=search,
        devices=devices_of(table.get("devices", APART)),
        changed=_strings(table.get("changed", []), "changed"),
    )


def seeds_of(value: object) -> tuple[int, ...]:
    """The seeds of a number of seeds, or of a list of them; `UserError` if it is neither."""
    if isinstance(value, list) and len(value) > MOST_SEEDS:
        raise UserError(f"seeds is a list of {len(value):,}: give {MOST_SEEDS:,} of them at most")
    if isinstance(value, list) and value and all(type(seed) is int and 0 <= seed < 2**32 for seed in value):
        return tuple(value)
    if type(value) is not int or not 1 <= value <= MOST_SEEDS:
        raise UserError(
            f"seeds is {as_typed(value)}: give a number of them, 1 to {MOST_SEEDS}, or a list of seeds below 2**32"
        )
    return tuple(range(value))


def devices_of(value: object) -> str:
    """What several devices have a share of, as given, or `UserError`."""
    devices = _is(value, str, "devices", "a string")
    check_choice("devices", devices, DEVICES)
    return devices


def objective_of(value: object) -> str:
    """An objective as given, or `UserError`; "auto" leaves it to the data, see `flaxvision.sweep.plan`."""
    objective = _is(value, str, "objective", "a string")
    check_choice("objective", objective, (AUTO, *selection_metrics()))
    return objective


def _settings(table: Table, model: str = "") -> Settings:
    """The flat settings of a spec's or a stage's `dataset`, `model`, `[data]`, `[sizes]` and `[recipe]`."""
    settings: Settings = {key: _text(table, key) for key in ("dataset", "model") if key in table}
    own = ":" in settings.get("model", model)  # a model of one's own may have arguments of any name
    allowed = {"data": DATA_KEYS[1:], "sizes": (*all_argument_names(), "init"), "recipe": RECIPE_KEYS}
    for section, names in allowed.items():
        content = _table(table, section)
        if section != "sizes" or not own:
            _known(f"key of [{section}]", content, names)
        for key, value in content.items():
            if section == "sizes" and (named := table_of(key)) != "sizes":
                there = f"[{named}]" if named else "the top"
                raise UserError(f"[sizes] has {key}, which is a setting of {there}: move it there")
            check_plain(key, value)
        settings |= content
    return settings


def _stage(table: Table, name: str, model: str) -> Stage | None:
    if name not in table:
        return None
    content = _table(table, name)
    _known(f"key of [{name}]", content, keys.names(keys.STAGE))
    if "seed" in content and "seeds" in content:
        raise UserError(f"[{name}] gives both seed and seeds: leave it to one of them")
    seeds = seeds_of([content["seed"]] if "seed" in content else content.get("seeds", 1))
    if name == "pretrain" and len(seeds) > 1:
        raise UserError(f"[pretrain] has {len(seeds)} seeds, but all trials start from one pretraining: give seed = 0")
    only = _strings(content.get("only", []), f"[{name}] only")
    if only and name != "pretrain":
        raise UserError(f"[{name}] only has no effect: the layers that are handed on are those of [pretrain] only")
    return Stage(_settings(content, model), seeds, only)


def _published(given: object, axes: tuple[Axis, ...]) -> Published:
    entry = _is(given, dict, "published", "[[published]] tables")
    _known("key of [[published]]", entry, [field.name for field in dataclasses.fields(Published)])
    for key in ("metric", "value", "tolerance"):
        if key not in entry:
            raise UserError(f"a [[published]] entry has no {key}: give where, metric, value, tolerance and source")
    cells = _table(entry, "where", "a table, such as where = { learning_rate = 0.1 }")
    where = {key: visible(as_typed(value)) for key, value in cells.items()}
    labels = {axis.key: [point.label for point in axis.points] for axis in axes}
    for key, label in where.items():
        if key not in labels:
            raise unknown("key of a [[published]] where", key, labels)
        if label not in labels[key]:
            raise unknown(f"value of {key} in [[published]]", label, labels[key])
    stage = entry.get("stage", "sweep")
    check_choice("metric in [[published]]", entry["metric"], (*TABLE_METRICS, PARAMETERS.key))
    check_choice("stage in [[published]]", stage, ("sweep", "final"))
    value, tolerance = (_number(entry, key) for key in ("value", "tolerance"))
    for key in ("value", "tolerance"):
        check_plain(key, entry[key])
    return Published(where, entry["metric"], value, tolerance, visible(_text(entry, "source")), stage)


def _number(table: Table, key: str) -> float:
    return _is(table[key], int if isinstance(table[key], int) else float, key, "a number")


def _text(table: Table, key: str, default: str = "") -> str:
    return _is(table.get(key, default), str, key, "a string")


def _table(table: Table, key: str, words: str = "") -> Settings:
    return _is(table.get(key, {}), dict, key, words or f"a table [{key}]")


def _strings(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{what} is {as_typed(value)}: give a list of strings")
    return tuple(value)


def _is(value: object, kind: type[T], key: str, words: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{key} is {as_typed(value)!r}: give {words}")
    return value


def _known(what: str, table: Table, allowed: Iterable[str]) -> None:
    for key in table:
        check_choice(what, key, allowed)
