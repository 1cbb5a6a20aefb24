"""Every key of a spec: where it stands, what it may be, what it is unless given, and what it means.

`flaxvision keys` and docs/keys.md are made of it. What belongs to a field or to an argument is said there, and taken
from there: `Recipe`, `DataConfig`, `Published`, the functions of networks.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping

from flaxvision.models.registry import ARGUMENTS, MODELS, all_argument_names
from flaxvision.sweep.config import DATA_KEYS, RECIPE_KEYS, DataConfig
from flaxvision.sweep.spec import APART, AUTO, DEVICES, PRETRAINED, Published, Range, Search, as_typed
from flaxvision.training.metrics import selection_metrics
from flaxvision.training.optimizers import OPTIMIZERS, optimizers_with
from flaxvision.training.recipe import Recipe

TYPES = {
    "bool": "true or false",
    "int": "whole number",
    "float": "number",
    "str": "text",
    "tuple[int, ...]": "list of whole numbers",
    "tuple[float, ...]": "list of numbers",
    "tuple[str, ...]": "list of texts",
    "tuple[int, int]": "list of two",
    "dict[str, str]": "table",
    "Conditions": "table",
}  # annotation -> what TOML calls it


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A key of a spec."""

    name: str
    type: str
    meaning: str
    allowed: str = ""  # beyond its type
    default: str = ""  # as it would be typed; "": there is none, or `meaning` says what happens without it


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table of a spec: its keys under a heading."""

    heading: str
    meaning: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """Every key, in the order in which a spec has its tables."""
    data = [_of_field(DataConfig, name) for name in DATA_KEYS[1:]]
    sizes = [_argument(name) for name in sorted(all_argument_names())]
    init = Key(
        "init",
        "text",
        "whose initialization: the network's own, or a framework's default; of a network in PyTorch that, or what its "
        "own code makes",
        "own, flax, torch, keras; torch, module",
        "own; torch",
    )
    return [
        Table("At the top", "", TOP),
        Table("[data]", "What the data set is loaded with.", tuple(data)),
        Table("[sizes]", "Arguments of the network; of one of your own those of its function.", (*sizes, init)),
        Table(
            "[recipe]", "How the network is trained: the fields of `fv.Recipe`.", tuple(map(_of_recipe, RECIPE_KEYS))
        ),
        Table(
            "[grid]",
            "What varies: KEY = [VALUE, …] of any key of [data], [sizes] and [recipe], of dataset or model; or KEY = "
            "[{ name = …, KEY = VALUE, … }, …], values by name that may give several keys.",
            (),
        ),
        Table(
            "[search]",
            "A search for settings, in place of [grid]: it chooses by the objective on examples that are held out, and "
            "the best settings become the cells of the table. It needs the extra search (Optuna).",
            tuple(_of_field(Search, field.name) for field in dataclasses.fields(Search) if field.name != "space"),
        ),
        Table(
            "[search.space]",
            "What is searched: any key that [grid] may have, as a list of values, as in [grid]; as { values = [VALUE, "
            "…], when = … }; or as a range.",
            tuple(_of_field(Range, field.name) for field in dataclasses.fields(Range)),
        ),
        Table("[[variants]]", "Such tables, under a key called variant: name = …, and any of these keys.", ()),
        Table("[init]", "Weights that trials start from, as warm_start and warm_start_only of [recipe].", INIT),
        Table(
            "[pretrain] and [final]",
            f"A training from which trials start that have warm_start = '{PRETRAINED}', and one of the winner.",
            STAGE,
        ),
        Table(
            "[[published]]",
            "A number to compare with.",
            tuple(_of_field(Published, field.name) for field in dataclasses.fields(Published)),
        ),
    ]


def names(keys: Iterable[Key]) -> tuple[str, ...]:
    """Their names, a name each where one entry stands for several."""
    return tuple(name for key in keys for name in key.name.split(", "))


def setting_keys() -> list[str]:
    """Every bare name that a grid, a variant or `--set` may give."""
    return [*DATA_KEYS, "model", "init", *all_argument_names(), *RECIPE_KEYS]


def _of_field(owner: type[DataConfig | Published | Range | Search], name: str) -> Key:
    field = {field.name: field for field in dataclasses.fields(owner)}[name]
    about: Mapping[str, str] = field.metadata
    return Key(name, _type(field.type), about["meaning"], about["allowed"], about.get("default", ""))


def _of_recipe(name: str) -> Key:
    field = {field.name: field for field in dataclasses.fields(Recipe)}[name]
    rule, meaning = field.metadata["rule"], field.metadata["meaning"]
    allowed = ", ".join(rule.choices) or rule.words.removesuffix(", or leave it out").replace("strings", "")
    default = "" if field.default is None else _typed(field.default)
    if having := optimizers_with(name):
        meaning += f" (optimizer {', '.join(having)})"
        default = _by_owner({owner: OPTIMIZERS[owner].defaults[name] for owner in having})
    return Key(name, _type(field.type), meaning, "" if allowed == _type(field.type) else allowed, default)


def _argument(name: str) -> Key:
    """An argument of networks, with its defaults."""
    having = {model: inspect.signature(grow).parameters.get(name) for model, (grow, _, _) in MODELS.items()}
    found = {model: parameter for model, parameter in having.items() if parameter is not None}
    types = dict.fromkeys(_type(parameter.annotation) for parameter in found.values())
    defaults = _by_owner({model: parameter.default for model, parameter in found.items()})
    meaning = ARGUMENTS[name]
    if "; " not in defaults:
        meaning += f" ({', '.join(found)})"
    return Key(name, ", or ".join(types), meaning, "", defaults)


def _by_owner(defaults: Mapping[str, object]) -> str:
    """Defaults of several; where they differ, whose is which."""
    owners: dict[str, list[str]] = {}
    for owner, default in defaults.items():
        owners.setdefault(_typed(default), []).append(owner)
    if len(owners) == 1:
        return next(iter(owners))
    return "; ".join(f"{default} in {', '.join(having)}" for default, having in owners.items())


def _type(annotation: object) -> str:
    """An annotation in TOML's words; what only Python has is passed over."""
    found = dict.fromkeys(TYPES[part] for part in str(annotation).split(" | ") if part in TYPES)
    return ", or ".join(found)


def _typed(value: object) -> str:
    return repr(value) if value == "" else f"{value:g}" if isinstance(value, float) else as_typed(value)


TOP = (
    Key("name", "text", "what the run directory is called (left out: the file's name)", "a folder's name"),
    Key("title", "text", "the heading of tables and report (left out: name)"),
    Key("description", "text", "what the report says below it"),
    _of_field(DataConfig, "dataset"),
    Key(
        "model",
        "text",
        "which network",
        "a name that flaxvision models lists; package.module:function or file.py:function, one of your own; "
        "torch:file.py:Class, one in PyTorch",
    ),
    Key("seeds", "whole number, or list of them", "how many trials each cell has, or their seeds", "1 or more", "1"),
    Key(
        "objective",
        "text",
        "the metric whose best mean makes the winner; auto: top-1 (or the loss, where nothing is classified) of the "
        "validation split, else of the test split",
        ", ".join((AUTO, *selection_metrics())),
        AUTO,
    ),
    Key(
        "convergence_threshold",
        "number",
        "report in which epoch changes of test top-1 came to stay below this",
        "above 0",
    ),
    Key(
        "devices",
        "text",
        "what several devices of a machine have a share of: the trials, each of which trains on one device, or every "
        "batch (data parallelism), for networks that fill a device alone",
        ", ".join(DEVICES),
        APART,
    ),
    Key("select, select_on", "text", "as in [recipe]"),
    Key("data, sizes, recipe, grid, search, variants, init, pretrain, final, published", "tables", "as below"),
    Key("changed", "list of texts", "what a run's own spec notes: the settings that were changed for it"),
)
INIT = (
    Key("from", "text", "the weights that trials start from", "a run directory (its winner) or a weights file"),
    Key("only", "list of texts", "prefixes of the layers that are taken of it; empty for all", default="[]"),
)
STAGE = (
    Key("dataset, model, data, sizes, recipe", "as at the top", "settings of the stage, in place of the sweep's"),
    Key("seeds", "whole number, or list of them", "how many trials, or their seeds; [pretrain] has one", default="1"),
    Key("seed", "whole number", "a single seed", "0 or more"),
    Key("only", "list of texts", "[pretrain]: prefixes of the layers that are handed on; empty for all", default="[]"),
)
