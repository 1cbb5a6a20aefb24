"""Whatever stands in a table: it is read, or named in one line."""

from __future__ import annotations

import contextlib
import copy
import datetime
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flaxvision.errors import UserError
from flaxvision.sweep import load_spec, parse_spec
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.inputs import check
from flaxvision.sweep.spec import config_hash
from flaxvision.sweep.spec_file import dump_spec
from flaxvision.sweep.trials import expand

pytestmark = pytest.mark.quick
FULL = {
    "name": "full",
    "title": "t",
    "description": "d",
    "dataset": "glyphs",
    "model": "mlp",
    "seeds": 2,
    "objective": "val_loss",
    "convergence_threshold": 0.1,
    "devices": "batch",
    "select": "best",
    "select_on": "val_loss",
    "data": {"limit": 64, "size": 8, "channels": 1, "validation": 0.25, "validation_seed": 1, "drawn": 80},
    "sizes": {"hidden": [4], "activation": "relu", "batch_norm": False, "dropout": 0.1, "init": "torch"},
    "recipe": {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.1,
        "nesterov": True,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "batch_size": 8,
        "shuffle": True,
        "epochs": 3,
        "loss": "cross_entropy",
        "pixels": "unit",
        "augment": ["crop"],
        "frozen": [],
        "warm_start": "pretrain",
        "warm_start_only": [],
        "precision": "default",
        "early_stopping": 1,
        "record_gradients": True,
    },
    "grid": {"learning_rate": [0.1, 0.2], "optimizer": [{"name": "a", "optimizer": "sgd"}]},
    "pretrain": {"dataset": "glyphs", "only": [], "recipe": {"epochs": 3}, "seed": 0},
    "final": {"data": {"validation": 0}, "recipe": {"select_on": "test_loss"}, "seeds": 2},
    "published": [
        {
            "where": {"learning_rate": 0.1},
            "metric": "val_loss",
            "value": 1,
            "tolerance": 1,
            "source": "x",
            "stage": "sweep",
        }
    ],
}


def paths(value, path=()):
    """Where every value of a table is."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


ALL_PATHS = list(paths(FULL))
junk = st.one_of(
    st.integers(-3, 100),
    st.just(2**70),
    st.floats(-2, 2),
    st.sampled_from([float("nan"), float("inf"), 1e308]),
    st.booleans(),
    st.text(max_size=4),
    st.just(datetime.date(2020, 1, 1)),
    st.lists(st.one_of(st.integers(-1, 9), st.text(max_size=2), st.booleans()), max_size=2),
    st.dictionaries(st.sampled_from(["name", "x", "epochs", "from"]), st.integers(0, 2), max_size=2),
    st.just([[1]]),
    st.just([{}]),
)


def replaced(path, value):
    table = copy.deepcopy(FULL)
    at = table
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return table


def test_full_spec_is_right():
    for trial in expand(parse_spec(copy.deepcopy(FULL))):
        check(trial, RunFiles(Path("nowhere")), trial)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(ALL_PATHS), junk)
def test_any_value_of_another_type_parses_or_is_named(path, value):
    try:
        spec = parse_spec(replaced(path, value))
        assert len({trial.id for trial in expand(spec)}) == len(expand(spec))
    except UserError:
        return
    load = parse_spec(tomllib.loads(dump_spec(spec)))
    assert config_hash([load.base, load.seeds]) == config_hash([spec.base, spec.seeds])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([path for path in ALL_PATHS if path[0] in ("data", "sizes", "recipe", "final")]), junk)
def test_any_value_of_another_type_can_train_or_is_named(path, value):
    if value == 2**70 or (path == ("data", "drawn") and value not in range(200)):
        return  # more memory than there is
    with contextlib.suppress(UserError):
        trial = expand(parse_spec(replaced(path, value)))[0]
        check(trial, RunFiles(Path("nowhere")), trial)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_spec_or_named(tmp_path, content):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        expand(load_spec(path))
