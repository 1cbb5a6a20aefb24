"""Sweeps as Python gives them: names, paths, dicts, functions, values that are changed or varied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomli_w

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.sweep.given import as_toml
from flaxvision.sweep.trials import expand

pytestmark = pytest.mark.quick


def network(build, outputs):
    build.linear("out", outputs)


def test_a_dict_is_a_toml_file(tmp_path):
    table = {"dataset": "glyphs", "model": "mlp", "recipe": {"momentum": 0.9}, "grid": {"hidden": [[8], [16, 8]]}}
    python = {**table, "grid": {"hidden": ((8,), np.array([16, 8]))}, "data": {"limit": None}}
    path = tmp_path / "sweep.toml"
    path.write_text(tomli_w.dumps(table))
    ids = [[trial.id for trial in expand(fv.sweep.load_spec(each))] for each in (python, path, str(path), table)]
    assert ids[0] == ids[1] == ids[2] == ids[3]
    assert fv.sweep.load_spec(python).name == "sweep"
    spec = fv.sweep.load_spec(path)
    assert fv.sweep.load_spec(spec) is spec


def test_values_as_toml_has_them():
    given = {"a": (1, np.float64(0.5)), "b": np.arange(2), "c": Path("x/y"), "d": None, "e": {"f": range(2)}, 3: True}
    assert as_toml(given, "it") == {"a": [1, 0.5], "b": [0, 1], "c": "x/y", "e": {"f": [0, 1]}, "3": True}
    assert as_toml(network, "model") == f"{__name__}:network"
    with pytest.raises(UserError, match=r"the sweep model is .*<lambda>, which no other process could import"):
        fv.sweep.load_spec({"model": lambda build, outputs: None, "dataset": "glyphs"})


def test_a_class_of_pytorch_is_named_as_such(torch):
    class Net(torch.nn.Module):
        pass

    Net.__qualname__ = "Net"
    assert as_toml(Net, "model") == f"torch:{__name__}:Net"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0.1}, r"learning_rate is a setting of \[recipe\]: move it there"),
        ({"limit": 3}, r"limit is a setting of \[data\]"),
        ({"hidden": [3]}, r"hidden is a setting of \[sizes\]"),
        ({"modle": "mlp"}, "unknown key 'modle': did you mean 'model'"),
        (3, "the sweep is a int: give a name, a path, a dict of tables or a Spec"),
        ("dmeo", "unknown sweep 'dmeo': did you mean 'demo'"),
    ],
)
def test_what_is_no_sweep_is_one_line(given, message):
    with pytest.raises(UserError, match=message):
        fv.sweep.load_spec(given)


def test_changes_in_python_are_those_of_the_command_line():
    spec = fv.sweep.load_spec("demo")
    typed = fv.sweep.override(
        spec, epochs=2, seeds=2, settings=["batch_size=32", "hidden=[8],[4]", "learning_rate=0.5"]
    )
    python = fv.sweep.override(
        spec, epochs=2, seeds=2, settings={"batch_size": 32}, grid={"hidden": [(8,), [4]], "learning_rate": [0.5]}
    )
    assert [trial.id for trial in expand(typed)] == [trial.id for trial in expand(python)]
    assert [axis.key for axis in python.axes] == ["learning_rate", "hidden"]
    assert set(typed.changed) == set(python.changed)
    alone = fv.sweep.override(spec, grid={"momentum": [0.9]})  # one value is an axis, too
    assert [axis.key for axis in alone.axes] == ["learning_rate", "momentum"]
    assert fv.sweep.override(spec, settings={"objective": "test_loss"}).objective == "test_loss"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"momentum": 0.9}}, r"grid has momentum=0.9: give a list of values, such as momentum=\[0.9\]"),
        ({"grid": {"momentun": [0.9]}}, "unknown grid key 'momentun': did you mean 'momentum'"),
        ({"settings": {"lr": 0.9}}, "unknown setting 'lr': did you mean 'learning_rate'"),
        ({"settings": {"seeds": 3}}, "seeds is no setting of a spec: give it as an argument of its own"),
        ({"settings": ["seeds=3"]}, "--set seeds: that is an option of its own, --seeds N"),
    ],
)
def test_changes_that_are_none_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        fv.sweep.override(fv.sweep.load_spec("demo"), **changes)
    with pytest.raises(UserError, match=message):
        fv.sweep.run("demo", **changes)


def test_given_data_is_one_data_set(make_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_dataset((8, 8, 1), 3, 32, 16)
    with pytest.raises(UserError, match="both data and dataset='glyphs' are given"):
        fv.sweep.run("demo", data=data, dataset="glyphs")
    with pytest.raises(UserError, match=r"data is a Split: give a Dataset, such as fv.data.from_arrays"):
        fv.sweep.run("demo", data=data.train)
    with pytest.raises(UserError, match="size has no effect on arrays:made, which is taken as it was given"):
        fv.sweep.run("demo", data=data, settings={"size": 8})
    with pytest.raises(UserError, match=r"stands for arrays that were given in Python: give them again, as run\("):
        fv.sweep.run({"dataset": "arrays:made", "model": "mlp"})
    assert not list(tmp_path.iterdir())
