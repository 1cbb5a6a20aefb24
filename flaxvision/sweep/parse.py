"""Reads sweeps: TOML text to a `Spec`, with every mistake named in one line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from flaxvision.errors import UserError, unknown
from flaxvision.sweep.spec import Axis, Point, Published, Settings, Spec, Stage, Typed, as_typed

DATA_KEYS = ("dataset", "validation", "validation_seed", "limit", "size", "channels", "drawn")
MODEL_KEYS = ("model", "init")
SIZE_KEYS = ("hidden", "activation", "inner_activation", "batch_norm", "dropout", "padding", "pool")
TOP_KEYS = ("name", "title", "description", "dataset", "model", "seeds", "objective", "convergence_threshold", "select")
TOP_KEYS += ("select_on", "data", "sizes", "recipe", "grid", "variants", "init", "pretrain", "final", "published")
STAGE_KEYS = ("dataset", "model", "seeds", "seed", "only", "data", "sizes", "recipe")
DEFAULT_SWEEP = "demo"


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
    except tomllib.TOMLDecodeError as error:
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
    base = _settings(table, "the spec")
    for key in ("select", "select_on"):
        if key in table:
            base[key] = _is(table[key], str, key, "a string")
    if "init" in table:
        start = _is(table["init"], dict, "init", 'a table with "from"; the framework\'s defaults are [sizes] init')
        _known("key of [init]", start, ("from", "only"))
        if "from" not in start:
            raise UserError('[init] needs from = "RUN or FILE"')
        base["warm_start"] = _is(start["from"], str, "[init] from", "a path")
        base["warm_start_only"] = _strings(start.get("only", []), "[init] only")
    axes = [_axis(key, values) for key, values in _is(table.get("grid", {}), dict, "grid", "a table").items()]
    if "variants" in table:
        axes.append(_axis("variant", table["variants"]))
    spec = Spec(
        name=_is(table["name"], str, "name", "a string"),
        title=_is(table.get("title", table["name"]), str, "title", "a string"),
        description=_is(table.get("description", ""), str, "description", "a string").strip(),
        base=base,
        axes=tuple(axes),
        seeds=_seeds(table.get("seeds", 1)),
        objective=_objective(table, base),
        convergence_threshold=_number(table, "convergence_threshold"),
        published=(),
        pretrain=_stage(table, "pretrain"),
        final=_stage(table, "final"),
    )
    entries = _is(table.get("published", []), list, "published", "[[published]] tables")
    object.__setattr__(spec, "published", tuple(_published(entry, spec) for entry in entries))
    return spec


def setting_keys(model: object = None) -> list[str]:
    """Every bare name that a grid, a variant or `--set` may give."""
    from flaxvision.training.recipe import field_names

    recipe = [name for name in field_names() if name != "seed"]
    return [*DATA_KEYS, *MODEL_KEYS, *SIZE_KEYS, *recipe]


def check_setting(key: str, model: object, where: str) -> None:
    """Raise unless `key` is a setting; a model of one's own may have sizes of any name."""
    if ":" not in str(model) and key not in setting_keys():
        raise unknown(f"key of {where}", key, setting_keys())


def _settings(table: dict[str, Any], where: str) -> Settings:
    """The flat settings of a spec's or a stage's `dataset`, `model`, `[data]`, `[sizes]` and `[recipe]`."""
    from flaxvision.training.recipe import field_names

    settings: Settings = {}
    for key in ("dataset", "model"):
        if key in table:
            settings[key] = _is(table[key], str, key, "a string")
    model = settings.get("model", "")
    allowed: dict[str, Iterable[str] | None] = {
        "data": DATA_KEYS[1:],
        "sizes": None if ":" in model else (*SIZE_KEYS, "init"),
        "recipe": [name for name in field_names() if name != "seed"],
    }
    for section, names in allowed.items():
        content = _is(table.get(section, {}), dict, section, f"a table [{section}]")
        if names is not None:
            _known(f"key of [{section}]", content, names)
        settings |= content
    return settings


def _axis(key: str, values: Any) -> Axis:
    if not isinstance(values, list):
        raise UserError(f"grid key {key!r} is {as_typed(values)}: give a list of values, such as {key} = [1, 2]")
    if not values:
        raise UserError(f"grid key {key!r} is empty: give at least one value")
    named = [isinstance(value, dict) for value in values]
    if any(named) and not all(named):
        raise UserError(f"grid key {key!r} mixes values and tables: give one kind")
    if all(named):
        for value in values:
            if not isinstance(value.get("name"), str):
                raise UserError(f"a table of {key!r} has no name: give it name = '…'")
            for setting in value:
                if setting != "name":
                    check_setting(setting, value.get("model", "") or "", f"{key} {value['name']!r}")
        points = [Point(v["name"], {k: x for k, x in v.items() if k != "name"}) for v in values]
    else:
        if key not in setting_keys():
            raise unknown("grid key", key, setting_keys())
        points = [Point(as_typed(value), {key: value}) for value in values]
    labels = [point.label for point in points]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"grid key {key!r} has {twice!r} twice: give each value once")
    return Axis(key, tuple(points))


def _stage(table: dict[str, Any], name: str) -> Stage | None:
    if name not in table:
        return None
    content = _is(table[name], dict, name, f"a table [{name}]")
    _known(f"key of [{name}]", content, STAGE_KEYS)
    seeds = (content["seed"],) if "seed" in content else _seeds(content.get("seeds", 1))
    only = _strings(content.get("only", []), f"[{name}] only")
    return Stage(_settings(content, f"[{name}]"), seeds, only)


def _published(entry: Any, spec: Spec) -> Published:
    entry = _is(entry, dict, "published", "[[published]] tables")
    _known("key of [[published]]", entry, ("where", "metric", "value", "tolerance", "source", "stage"))
    for key in ("metric", "value", "tolerance"):
        if key not in entry:
            raise UserError(f"a [[published]] entry has no {key}: give where, metric, value, tolerance and source")
    where = {key: as_typed(value) for key, value in entry.get("where", {}).items()}
    for key, label in where.items():
        if key not in spec.keys:
            raise unknown("key of a [[published]] where", key, spec.keys)
        labels = [p.label for axis in spec.axes if axis.key == key for p in axis.points]
        if label not in labels:
            raise unknown(f"value of {key} in [[published]]", label, labels)
    return Published(
        where,
        _is(entry["metric"], str, "metric", "a string"),
        _is(entry["value"], (int, float), "value", "a number"),
        _is(entry["tolerance"], (int, float), "tolerance", "a number"),
        _is(entry.get("source", ""), str, "source", "a string"),
        _is(entry.get("stage", "sweep"), str, "stage", "a string"),
    )


def _objective(table: dict[str, Any], base: Settings) -> str:
    from flaxvision.training.recipe import selection_metrics

    default = "val_top1" if base.get("validation") else "test_top1"
    if base.get("loss") == "squared_error":
        default = default.replace("top1", "loss")
    objective = _is(table.get("objective", default), str, "objective", "a string")
    if objective not in selection_metrics():
        raise unknown("objective", objective, selection_metrics())
    return objective


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value):
        return tuple(value)
    if type(value) is not int or value < 1:
        raise UserError(f"seeds is {as_typed(value)}: give a number of seeds, 1 or more, or a list of them")
    return tuple(range(value))


def _number(table: dict[str, Any], key: str) -> float | None:
    if key not in table:
        return None
    value = _is(table[key], (int, float), key, "a number")
    if value <= 0:
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
    if path.suffix != ".toml" and not path.exists():
        raise unknown("sweep", name, [*list_specs(), "a path to a .toml file"])
    read: Callable[[], str] = lambda: path.read_text(encoding="utf-8")  # noqa: E731
    try:
        return read(), path.stem
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a sweep's name or a TOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no TOML: it is not UTF-8 text") from error
