from __future__ import annotations

import sys
import types

import pytest

import flaxvision as fv
from flaxvision.training import ProgressBar
from flaxvision.training.callbacks import Progress

pytestmark = pytest.mark.quick


def step(number, steps=10, **more):
    return Progress(number, steps, 1, 32, **more)


def test_a_run_on_a_terminal(capsys):
    with ProgressBar("mnist", shown=True) as bar:
        assert "compiling" in capsys.readouterr().err
        bar(step(5))
        assert (bar.bar.n, bar.bar.total) == (5, 10)
        bar(step(10, metrics=({"test_top1": 0.25}, {"test_top1": 0.75}, {"test_top1": float("nan")}, {})))
        assert (bar.bar.n, bar.bar.total) == (10, 10)
    shown = capsys.readouterr().err
    assert "mnist: 100%" in shown
    assert "epoch 1: test_top1 0.750" in shown


def test_a_resumed_run_is_not_faster_for_what_was_done_before():
    with ProgressBar(shown=True) as bar:
        bar(Progress(6, 10, 3, 0, note="goes on from epoch 3"))
        assert (bar.bar.n, bar.bar.initial) == (6, 6)
        bar(step(8))
        assert bar.bar.n == 8


@pytest.mark.parametrize("shown", [None, True])
def test_fit_shows_one_where_somebody_sees_it(make_dataset, capsys, shown):
    model = fv.models.create("linear", input_shape=(2,), num_classes=2)
    fv.fit(model, make_dataset((2,), 2, 64), fv.Recipe(epochs=2, batch_size=32), progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("4/4" in err and "epoch 2: test_loss" in err) == (shown is True)


def test_a_notebook_is_seen(monkeypatch):
    assert not ProgressBar().shown
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert ProgressBar().shown
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not ProgressBar().shown
