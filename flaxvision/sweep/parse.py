"""Reads sweeps: TOML text to a `Spec`, with every mistake named in one line."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from flaxvision.errors import UserError, check_choice, unknown
from flaxvision.models.registry import all_argument_names
from flaxvision.sweep.config import DATA_KEYS, RECIPE_KEYS, table_of
from flaxvision.sweep.spec import (
    AUTO,
    PRETRAINED,
    PUBLISHED_METRICS,
    Axis,
    Point,
    Published,
    Settings,
    Spec,
    Stage,
    Typed,
    as_typed,
)
from flaxvision.training.metrics import selection_metrics

TOP_KEYS = (
    *("name", "title", "description", "dataset", "model", "seeds", "objective", "convergence_threshold", "select"),
    *("select_on", "data", "sizes", "recipe", "grid", "variants", "init", "pretrain", "final", "published", "changed"),
)
STAGE_KEYS = ("dataset", "model", "seeds", "seed", "only", "data", "sizes", "recipe")
DEFAULT_SWEEP = "demo"
MOST_SEEDS = 10_000


def list_specs() -> list[str]:
    """The names of the sweeps in the package."""
    folder = resources.files("flaxvision.sweep") / "specs"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_spec(name_or_path: str | Path = DEFAULT_SWEEP) -> Spec:
    """A sweep of the package by its name, or of your own by the path of a TOML file.

    Raises:
        UserError: If there is no such sweep, or the file is no valid spec; the message says what to mend.
    """
    text, name = _read(name_or_path)
    try:
        table = tomllib.loads(text, parse_float=Typed)
    except (ValueError, RecursionError) as error:  # beside TOML's own: a number or a nesting past Python's limits
        raise UserError(f"{name_or_path} is no TOML: {error}") from error
    try:
        return parse_spec({"name": name, **table})
    except UserError as error:
        raise UserError(f"{name_or_path}: {error}") from error


def parse_spec(table: dict[str, Any]) -> Spec:
    """A spec from the tables of its TOML file.

    Raises:
        UserError: For an unknown key, a wrong type or an empty grid.
    """
    _known("key", table, TOP_KEYS)
    name = _is(table["name"], str, "name", "a string")
    if not name or Path(name).name != name or not name.isprintable():
        raise UserError(f"name is {name!r}: give one that a folder may have")
    base = _settings(table)
    model = base.get("model", "")
    for key in ("select", "select_on"):
        if key in table:
            if key in base:
                raise UserError(f"{key} is given twice, at the top and in [recipe]: leave it to one of them")
            base[key] = _is(table[key], str, key, "a string")
    if "init" in table:
        start = _is(table["init"], dict, "init", 'a table with "from"; the framework\'s defaults are [sizes] init')
        _known("key of [init]", start, ("from", "only"))
        if "from" not in start:
            raise UserError('[init] needs from = "RUN or FILE"')
        if "warm_start" in base or "warm_start_only" in base:
            raise UserError("a warm start is given twice, by [init] and in [recipe]: leave it to one of them")
        base["warm_start"] = _is(start["from"], str, "[init] from", "a path")
        base["warm_start_only"] = _strings(start.get("only", []), "[init] only")
    grid = _is(table.get("grid", {}), dict, "grid", "a table")
    if "variants" in table:
        if "variant" in grid:
            raise UserError("variant is given by both [grid] and [[variants]]: leave it to one of them")
        grid = {**grid, "variant": table["variants"]}
    spec = Spec(
        name=name,
        title=_is(table.get("title", name), str, "title", "a string"),
        description=_is(table.get("description", ""), str, "description", "a string").strip(),
        base=base,
        axes=tuple(axis_of(key, values, model) for key, values in grid.items()),
        seeds=seeds_of(table.get("seeds", 1)),
        objective=objective_of(table.get("objective", AUTO)),
        convergence_threshold=_number(table, "convergence_threshold"),
        published=(),  # below: what it says of cells is checked against the axes
        pretrain=_stage(table, "pretrain", model),
        final=_stage(table, "final", model),
        changed=_strings(table.get("changed", []), "changed"),
    )
    _check_pretrained(spec)
    entries = _is(table.get("published", []), list, "published", "[[published]] tables")
    return dataclasses.replace(spec, published=tuple(_published(entry, spec) for entry in entries))


def setting_keys() -> list[str]:
    """Every bare name that a grid, a variant or `--set` may give."""
    return [*DATA_KEYS, "model", "init", *all_argument_names(), *RECIPE_KEYS]


def axis_of(key: str, values: Any, model: str, what: str = "grid key") -> Axis:
    """The axis of a key's values: plain ones, or tables with a name each.

    Raises:
        UserError: For an unknown key, a value that is no value, none at all, or one given twice.
    """
    if not isinstance(values, list):
        raise UserError(f"{what} {key!r} is {as_typed(values)}: give a list of values, such as {key} = [1, 2]")
    if not values:
        raise UserError(f"{what} {key!r} is empty: give at least one value")
    named = [isinstance(value, dict) for value in values]
    if any(named) and not all(named):
        raise UserError(f"{what} {key!r} mixes values and tables: give one kind")
    if all(named):
        for value in values:
            if not isinstance(value.get("name"), str):
                raise UserError(f"a table of {key!r} has no name: give it name = '…'")
        points = [Point(v["name"], {k: x for k, x in v.items() if k != "name"}) for v in values]
        for point in points:
            for setting, value in point.settings.items():
                _check_setting(f"key of {key} {point.label!r}", setting, value, point.settings.get("model", model))
    else:
        for value in values:
            _check_setting(what, key, value, model)
        points = [Point(as_typed(value), {key: value}) for value in values]
    labels = [point.label for point in points]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"{what} {key!r} has {twice!r} twice: give each value once")
    return Axis(key, tuple(points))


def seeds_of(value: Any) -> tuple[int, ...]:
    """The seeds of a number of seeds, or of a list of them.

    Raises:
        UserError: If it is neither.
    """
    if isinstance(value, list) and value and all(type(seed) is int and 0 <= seed < 2**32 for seed in value):
        return tuple(value)
    if type(value) is not int or not 1 <= value <= MOST_SEEDS:
        raise UserError(
            f"seeds is {as_typed(value)}: give a number of them, 1 to {MOST_SEEDS}, or a list of seeds below 2**32"
        )
    return tuple(range(value))


def _check_setting(what: str, key: str, value: Any, model: object) -> None:
    """Raise unless `key` is a setting and `value` plain; a model of one's own may have arguments of any name."""
    if ":" not in str(model) and key not in setting_keys():
        raise unknown(what, key, setting_keys())
    _check_plain(key, value)


def _check_plain(key: str, value: Any) -> None:
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(item, (bool, int, float, str)):
            raise UserError(f"{key} is {as_typed(value)}: give a number, a string, true or false, or a list of them")
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{key} is {as_typed(value)}: give a finite number")


def _settings(table: dict[str, Any], model: str = "") -> Settings:
    """The flat settings of a spec's or a stage's `dataset`, `model`, `[data]`, `[sizes]` and `[recipe]`."""
    settings: Settings = {}
    for key in ("dataset", "model"):
        if key in table:
            settings[key] = _is(table[key], str, key, "a string")
    model = settings.get("model", model)
    allowed: dict[str, Iterable[str] | None] = {
        "data": DATA_KEYS[1:],
        "sizes": None if ":" in model else (*all_argument_names(), "init"),
        "recipe": RECIPE_KEYS,
    }
    for section, names in allowed.items():
        content = _is(table.get(section, {}), dict, section, f"a table [{section}]")
        if names is not None:
            _known(f"key of [{section}]", content, names)
        for key in content if section == "sizes" else ():  # what a model of one's own cannot have as arguments
            if (named := table_of(key)) != "sizes":
                there = f"[{named}]" if named else "the top"
                raise UserError(f"[sizes] has {key}, which is a setting of {there}: move it there")
        for key, value in content.items():
            _check_plain(key, value)
        settings |= content
    return settings


def _stage(table: dict[str, Any], name: str, model: str) -> Stage | None:
    if name not in table:
        return None
    content = _is(table[name], dict, name, f"a table [{name}]")
    _known(f"key of [{name}]", content, STAGE_KEYS)
    if "seed" in content and "seeds" in content:
        raise UserError(f"[{name}] gives both seed and seeds: leave it to one of them")
    seeds = seeds_of([content["seed"]] if "seed" in content else content.get("seeds", 1))
    if name == "pretrain" and len(seeds) > 1:
        raise UserError(f"[pretrain] has {len(seeds)} seeds, but all trials start from one pretraining: give seed = 0")
    only = _strings(content.get("only", []), f"[{name}] only")
    if only and name != "pretrain":
        raise UserError(f"[{name}] only has no effect: the layers that are handed on are those of [pretrain] only")
    return Stage(_settings(content, model), seeds, only)


def _published(entry: Any, spec: Spec) -> Published:
    entry = _is(entry, dict, "published", "[[published]] tables")
    _known("key of [[published]]", entry, ("where", "metric", "value", "tolerance", "source", "stage"))
    for key in ("metric", "value", "tolerance"):
        if key not in entry:
            raise UserError(f"a [[published]] entry has no {key}: give where, metric, value, tolerance and source")
    given = _is(entry.get("where", {}), dict, "where", "a table, such as where = { learning_rate = 0.1 }")
    where = {key: as_typed(value) for key, value in given.items()}
    for key, label in where.items():
        if key not in spec.keys:
            raise unknown("key of a [[published]] where", key, spec.keys)
        labels = [p.label for axis in spec.axes if axis.key == key for p in axis.points]
        if label not in labels:
            raise unknown(f"value of {key} in [[published]]", label, labels)
    check_choice("metric in [[published]]", entry["metric"], PUBLISHED_METRICS)
    stage = entry.get("stage", "sweep")
    check_choice("stage in [[published]]", stage, ("sweep", "final"))
    for key in ("value", "tolerance"):
        _check_plain(key, _is(entry[key], (int, float), key, "a number"))
    source = _is(entry.get("source", ""), str, "source", "a string")
    return Published(where, entry["metric"], entry["value"], entry["tolerance"], source, stage)


def objective_of(value: Any) -> str:
    """An objective as given; "auto" leaves it to the data, see `flaxvision.sweep.plan`.

    Raises:
        UserError: If it is none.
    """
    objective = _is(value, str, "objective", "a string")
    check_choice("objective", objective, (AUTO, *selection_metrics()))
    return objective


def _check_pretrained(spec: Spec) -> None:
    """Raise for a [pretrain] stage that no trial starts from."""
    points = [point.settings for axis in spec.axes for point in axis.points]
    if spec.pretrain is not None and not any(s.get("warm_start") == PRETRAINED for s in (spec.base, *points)):
        raise UserError(
            "[pretrain] has no effect, since no trial starts from it: "
            f"give warm_start = {PRETRAINED!r} in [recipe] or a variant"
        )


def _number(table: dict[str, Any], key: str) -> float | None:
    if key not in table:
        return None
    value = _is(table[key], (int, float), key, "a number")
    if not 0 < value < math.inf:
        raise UserError(f"{key} is {as_typed(value)}: give a number above 0")
    return value


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{what} is {as_typed(value)}: give a list of strings")
    return tuple(value)


def _is(value: Any, kind: type | tuple[type, ...], key: str, words: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{key} is {as_typed(value)!r}: give {words}")
    return value


def _known(what: str, table: dict[str, Any], allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    for key in table:
        if key not in allowed:
            raise unknown(what, key, allowed)


def _read(name_or_path: str | Path) -> tuple[str, str]:
    shipped = resources.files("flaxvision.sweep") / "specs" / f"{name_or_path}.toml"
    name = str(name_or_path)
    if name in list_specs():
        return shipped.read_text(encoding="utf-8"), name
    path = Path(name_or_path)
    if path.suffix != ".toml" and not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise unknown("sweep", name, [*list_specs(), "a path to a .toml file"])
    try:
        return path.read_text(encoding="utf-8"), path.stem
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a sweep's name or a TOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no TOML: it is not UTF-8 text") from error
