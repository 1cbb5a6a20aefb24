"""Typed configurations: what they hold, and that trials keep the ids under which runs of earlier versions know them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import export
import flaxvision as fv
from flaxvision.sweep import config_hash, load_spec, parse_spec
from flaxvision.sweep.config import DataConfig, ModelConfig, TrialConfig
from flaxvision.sweep.spec import Typed
from flaxvision.sweep.trials import Trial, expand, finals_of, pretraining

ALL_KINDS = {
    "name": "all", "dataset": "images:x", "model": "mlp", "seeds": [7], "grid": {"learning_rate": [Typed("1e-1"), 0.5]},
    "data": {
        "validation": Typed("0.20"), "validation_seed": 0, "limit": 64, "size": [16, 8], "channels": 1, "fit": "pad",
        "skip_damaged": False,
    },
    "sizes": {"hidden": [8], "init": "torch", "dropout": Typed("1e-1"), "batch_norm": False},
    "recipe": {"momentum": Typed("0.0"), "epochs": 1, "shuffle": True, "augment": ["flip"], "frozen": []},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hashed"), [("demo", "4ab5f32ab0"), ("digits", "f48cec236d"), ("emnist-holdout", "cd57d77972")]
)
def test_ids_are_those_of_earlier_versions(name, hashed):
    spec = load_spec(name)
    trials = expand(spec)
    everything = [*trials, *pretraining(spec, trials), *finals_of(spec, trials[0].settings, trials[0].cell)]
    assert config_hash([trial.id for trial in everything]) == hashed


def test_values_that_equal_their_defaults_are_part_of_an_id():
    trials = expand(parse_spec(ALL_KINDS))
    assert [trial.id for trial in trials] == ["e3e3b33234", "5f5d6862d4"]


def test_settings_are_sorted_by_who_takes_them():
    config = expand(parse_spec(ALL_KINDS))[0].config
    assert config.data == DataConfig(
        dataset="images:x", validation=0.2, validation_seed=0, limit=64, size=(16, 8), channels=1, fit="pad",
        skip_damaged=False,
    )  # fmt: skip
    assert config.model == ModelConfig("mlp", ALL_KINDS["sizes"])
    assert config.recipe == {**ALL_KINDS["recipe"], "learning_rate": 0.1}
    assert TrialConfig.of(config.settings) == config


def test_a_record_gives_its_trial_back():
    for trial in expand(parse_spec(ALL_KINDS)):
        record = json.loads(json.dumps({"config": trial.as_json(), "cell": dict(trial.cell)}))
        again = Trial.of_record(record)
        assert (again.id, again.cell, again.seed, again.stage) == (trial.id, trial.cell, trial.seed, trial.stage)
        assert again.config == trial.config


def test_sweep_and_export_meet_in_one_place():
    library, exporters = (Path(package.__file__).parent for package in (fv, export))
    look_up = re.compile(r"^\s*(import|from) export\b|\(\"export\"\)", re.MULTILINE)
    found = [path.name for path in library.rglob("*.py") if look_up.search(path.read_text(encoding="utf-8"))]
    assert found == ["_after.py"]
    inner = [p.name for p in exporters.glob("*.py") if re.search(r"sweep\.(cli|parse|trials|work|spec)", p.read_text())]
    assert not inner
