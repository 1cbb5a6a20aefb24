from __future__ import annotations

import io

import pytest
from rich.console import Console

from flaxvision.training import ProgressBar, progress
from flaxvision.training.callbacks import Progress


@pytest.fixture
def screen(monkeypatch):
    """What a terminal of 120 columns is sent."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    return written


def step(number, steps=10, **more):
    return Progress(number, steps, 1, 32, **more)


def test_a_single_run(screen):
    with ProgressBar("mnist") as bar:
        bar(step(5))
        assert bar.bar.tasks[0].percentage == 50
        bar(step(10, metrics=({"test_top1": 0.25}, {"test_top1": 0.75}, {"test_top1": float("nan")})))
        assert bar.bar.tasks[0].percentage == 100
    assert "mnist" in screen.getvalue()
    assert "epoch 1: test_top1 0.750" in screen.getvalue()


def test_runs_beside_each_other(screen):
    with ProgressBar(parts=4) as bar:
        first, second = bar.part("first"), bar.part("second")
        second(step(10))
        first(step(2))
        second(step(10))
        assert bar.bar.tasks[0].completed == pytest.approx(1.2)
        assert bar.bar.tasks[0].description == "second"
        assert bar.examples == 96
