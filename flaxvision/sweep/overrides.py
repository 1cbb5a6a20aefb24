"""Changes of a sweep: on the command line as "KEY=V1,V2", in Python as values."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flaxvision.errors import UserError
from flaxvision.sweep.axes import axis_of
from flaxvision.sweep.given import as_toml
from flaxvision.sweep.parse import objective_of, seeds_of
from flaxvision.sweep.spec import FACTOR, Choices, Search, Settings, Space, Spec, Stage, Typed

Value = Any  # what TOML holds
OPTIONS = {
    **dict.fromkeys(("seeds", "seed", "n_seeds", "num_seeds", "random_state"), "--seeds N"),
    "out": "--out DIR",
    "raw_dir": "--raw-dir DIR",
    "data_dir": "--data-dir DIR",
    "executor": "--executor E",
    "resume": "--resume",
}  # keys that --set does not take -> the option that does
TYPED = "--set key"  # what a message calls a key that was typed


class _Change(NamedTuple):
    """Values of a key."""

    key: str
    values: list[Value]
    what: str  # a message calls the key
    varies: bool = False  # also a single value


def _changes_of(
    settings: Sequence[str] | Mapping[str, object], grid: Mapping[str, Sequence[object]] | None
) -> list[_Change]:
    if isinstance(settings, Mapping):
        changes = [_Change(key, [value], "setting") for key, value in as_toml(settings, "settings").items()]
    else:
        changes = [_Change(*parse_setting(text, Typed), TYPED) for text in settings]
    for key, values in as_toml(grid or {}, "grid").items():
        if not isinstance(values, list):
            raise UserError(f"grid has {key}={values!r}: give a list of values, such as {key}=[{values!r}]")
        changes.append(_Change(key, values, "grid key", varies=True))
    return changes


def override(
    spec: Spec,
    *,
    dataset: str | None = None,
    epochs: float | None = None,
    seeds: int | None = None,
    limit: int | None = None,
    settings: Sequence[str] | Mapping[str, object] = (),
    grid: Mapping[str, Sequence[object]] | None = None,
) -> Spec:
    """The spec with changes.

    Args:
        spec: The sweep.
        dataset: Data set of every stage. Published numbers of another set, or of other settings than are now fixed,
            are left out.
        epochs: Duration of every stage.
        seeds: Number of seeds of every cell, and of the final stage.
        limit: Examples of each split.
        settings: What is fixed, by its bare name; "objective" sets the metric by which the winner is chosen. Or, as on
            the command line, "KEY=V1,V2": several values make or replace an axis, one value fixes the key; a list in
            brackets is one value.
        grid: What varies: an axis for each key, in place of one that the spec has.

    Raises:
        UserError: For an unknown key, a value that is no value, or a key that named points give.

    >>> import flaxvision as fv
    >>> spec = override(fv.sweep.load_spec("demo"), settings={"batch_size": 32}, grid={"learning_rate": [0.1, 0.01]})
    >>> [point.label for point in spec.axes[0].points]
    ['0.1', '0.01']
    """
    given: Settings = {"dataset": dataset, "epochs": epochs, "limit": limit}
    everywhere = {key: value for key, value in given.items() if value is not None}
    changes = [_Change(key, [value], "setting") for key, value in everywhere.items()]
    changes += _changes_of(settings, grid)
    fixed: Settings = {}
    axes = {axis.key: axis for axis in spec.axes}
    space = dict(spec.search.space) if spec.search else {}
    objective = spec.objective
    for key, values, what, varies in changes:
        if key == "objective":
            objective = objective_of(values[0] if len(values) == 1 else values)
            continue
        if key in OPTIONS:
            if what == TYPED:
                raise UserError(f"--set {key}: that is an option of its own, {OPTIONS[key]}")
            raise UserError(f"{key} is no setting of a spec: give it as an argument of its own")
        new = axis_of(key, values, spec.base.get("model", ""), what)
        named = {axis.key: axis.points for axis in axes.values()}
        named |= {other: each.points for other, each in space.items() if isinstance(each, Choices)}
        for other, points in named.items():
            if other != key and any(key in point.settings for point in points):
                raise UserError(f"{key} is given by {other}: change it in a spec of your own, or change another key")
        if spec.search and key in space and (varies or len(values) > 1):
            space[key] = Choices(new.points, space[key].when)
        elif key in space:
            fixed |= new.points[0].settings
            del space[key]
        elif varies or key in axes or len(values) > 1:
            axes[key] = new
        else:
            fixed |= new.points[0].settings
    _check_conditions(space)
    # Published numbers are those of the spec's own experiment; parameters depend on the network only.
    published = spec.published if dataset in (None, spec.base.get("dataset")) else ()
    if any(spec.base.get(key) != value for key, value in fixed.items() if key != "conv"):
        published = tuple(entry for entry in published if entry.metric == "parameters")
    there = {(axis.key, point.label) for axis in axes.values() for point in axis.points}
    dropped = ["steps", "examples"] if epochs is not None else []
    if fixed.get("select") == "last" and "select_on" not in fixed and not fixed.get("early_stopping"):
        dropped.append("select_on")  # it belongs to the best epoch's selection

    def changed(old: Settings, new: Settings) -> Settings:
        return {**{k: v for k, v in old.items() if k not in dropped}, **new}

    def changed_stage(stage: Stage | None) -> Stage | None:
        return stage and dataclasses.replace(stage, settings=changed(stage.settings, everywhere))

    final = changed_stage(spec.final)
    if seeds is not None:
        spec = dataclasses.replace(spec, seeds=seeds_of(seeds))
        final = final and dataclasses.replace(final, seeds=spec.seeds)
    others = [key for key, value in fixed.items() if key not in spec.base or spec.base[key] != value]
    others += [key for key, axis in axes.items() if axis not in spec.axes]
    search = _searched(spec.search, space, fixed.get("epochs"))
    others += [key for key, each in space.items() if spec.search and spec.search.space[key] != each]
    others.sort(key=[change.key for change in changes].index)
    everything = tuple(dict.fromkeys([*spec.changed, *others]))
    spec = dataclasses.replace(
        spec,
        objective=objective,
        changed=everything,
        base=changed(spec.base, fixed),
        axes=tuple(axes.values()),
        search=search,
        published=tuple(entry for entry in published if entry.where.items() <= there),
        pretrain=changed_stage(spec.pretrain),
        final=final,
    )
    if not others:
        return spec
    data = f"on {spec.base['dataset']}" if "dataset" in everything and "dataset" in spec.base else ""
    said = ", ".join(filter(None, (data, spec.changes)))
    return dataclasses.replace(spec, description=f"Not the sweep {spec.name} as it is written: {said}.")


def _check_conditions(space: Space) -> None:
    """Raise `UserError` where a key is given with values of another one that this has no longer."""
    for key, each in space.items():
        for parent, labels in each.when.items():
            there = space.get(parent)
            lost = [label for label in labels if not isinstance(there, Choices) or label not in there.labels]
            if lost:
                raise UserError(
                    f"{parent} decides about {key}, which is given with {' or '.join(lost)}: keep that among several "
                    f"values of {parent}, give {key} a value too, or a spec of your own"
                )


def _searched(search: Search | None, space: Space, epochs: object) -> Search | None:
    """A search of another space, without the rungs that a shorter duration does not come to."""
    if search is None:
        return None
    if not space:
        raise UserError("nothing is left to search: leave a key of [search.space] as it is, or fill a table of a grid")
    most = epochs if isinstance(epochs, (int, float)) else math.inf
    halving = tuple(rung for rung in search.halving if rung < most)
    return dataclasses.replace(search, space=space, halving=halving, factor=search.factor if halving else FACTOR)


def parse_setting(text: str, number: Callable[[str], float] = float) -> tuple[str, list[Value]]:
    """ "KEY=V1,V2" as the key and its values, each read as TOML, as a list "[V1,V2]", or as a bare string.

    Args:
        text: As it is typed after `--set`.
        number: What makes numbers with a point of their texts.

    Raises:
        UserError: Without a key or a value.

    >>> parse_setting("hidden=[8,4],[16]")
    ('hidden', [[8, 4], [16]])
    """
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key or not values.strip():
        raise UserError(f"--set {text!r}: give KEY=VALUE or KEY=VALUE1,VALUE2, such as --set learning_rate=0.1,0.01")
    try:
        return key, tomllib.loads(f"x = [{values}]", parse_float=number)["x"]
    except (ValueError, RecursionError):
        return key, [_value(part, number) for part in _parts(values)]


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no brackets; where brackets do not match, between all commas."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            break
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in (text.split(",") if depth else parts)]


def _value(text: str, number: Callable[[str], float]) -> Value:
    try:
        return tomllib.loads(f"x = {text}", parse_float=number)["x"]
    except (ValueError, RecursionError):
        if text.startswith("[") and text.endswith("]"):
            inner = text[1:-1].strip().removesuffix(",")
            return [_value(part, number) for part in _parts(inner)] if inner else []
        return text
