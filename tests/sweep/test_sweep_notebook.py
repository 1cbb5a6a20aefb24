"""What a sweep says that is started from Python: a bar where somebody sees it."""

from __future__ import annotations

import sys
import types

import pytest
import tqdm.auto  # noqa: F401  # as outside of a notebook, whatever the next test says

import flaxvision as fv
from tests.conftest import made_dataset

pytestmark = pytest.mark.quick


def test_a_sweep_of_a_notebook_has_a_bar(tmp_path, monkeypatch, capsys):
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    table = {"model": "linear", "seeds": 2, "recipe": {"epochs": 1, "batch_size": 32}}
    given = {"export": False, "report": False, "executor": "loop"}
    fv.sweep.run(table, tmp_path / "run", data=made_dataset((2,), 2, 64), **given)
    out, err = capsys.readouterr()
    assert f"run folder: {tmp_path / 'run'}" in out
    assert "2/2 trials · 100 %" in err
    monkeypatch.undo()
    assert len(fv.sweep.resume(tmp_path / "run", seeds=3, **given).outcomes) == 3
    assert capsys.readouterr() == ("", "")
