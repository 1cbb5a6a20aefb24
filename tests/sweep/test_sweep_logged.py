"""Trials as they are told to a tool that draws them: every epoch once, as the histories have it."""

from __future__ import annotations

import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from tests.conftest import made_dataset

TABLE = {
    "name": "logged",
    "model": "linear",
    "seeds": 2,
    "recipe": {"batch_size": 32, "epochs": 3},
    "grid": {"learning_rate": [0.5, 0.05]},
}

pytestmark = pytest.mark.quick


class Memory:
    """A tool that keeps what it is told."""

    def __init__(self):
        self.runs = {}

    def __call__(self, about):
        assert about.id not in self.runs
        self.runs[about.id] = run = Run(about)
        return run


class Run:
    def __init__(self, about):
        self.about, self.points, self.ended = about, [], None

    def log(self, metrics, step, seconds):
        assert self.ended is None
        self.points.append((step, seconds, metrics))

    def end(self, status, final):
        assert self.ended is None
        self.ended = status, final


@pytest.fixture(scope="module")
def data():
    return made_dataset((2,), 3, 96, 30)


def fill(data, out, tool, **options):
    return fv.sweep.run(TABLE, out, data=data, log=tool, export=False, report=False, **options)


def check(result, tool, steps=(3, 6, 9)):
    assert set(tool.runs) == {trial.id for trial in result.outcomes}
    for trial in result.outcomes:
        run = tool.runs[trial.id]
        assert [step for step, _, _ in run.points] == list(steps) == list(trial.epoch_steps)
        for name in ("train_loss", "test_top1"):
            assert [metrics[name] for _, _, metrics in run.points] == trial.history[name].tolist()
        assert run.ended == ("ok", trial.final)
        assert run.about.name == f"learning_rate {dict(trial.cell)['learning_rate']}, seed {trial.seed}"
        assert (run.about.group, run.about.folder.name) == (result.directory.name, result.directory.name)
        assert run.about.settings["learning_rate"] == trial.config["learning_rate"]
        seconds = [seconds for _, seconds, _ in run.points]
        assert seconds == sorted(seconds)


@pytest.mark.parametrize("executor", ["vmap", "threads"])
def test_every_trial_is_a_run(data, tmp_path, executor):
    tool = Memory()
    result = fill(data, tmp_path / "run", [tool], executor=executor)
    assert not result.problems
    check(result, tool)
    for trial in result.outcomes:
        assert len(trial.epoch_seconds) == 3
        assert sorted(trial.epoch_seconds) == list(trial.epoch_seconds)


def test_what_was_not_told_is_logged_in_the_end(data, tmp_path, monkeypatch):
    """As of a cohort that several nodes of a cluster train, each some of it."""
    from flaxvision.sweep import filling
    from flaxvision.sweep.executors import execute

    monkeypatch.setattr(filling, "execute", lambda work, how, _: execute(work, how, lambda _: ()))
    tool = Memory()
    check(fill(data, tmp_path / "run", tool, executor="loop"), tool)


def test_an_interrupted_trial_ends_its_run(data, tmp_path):
    class Interrupts(Memory):
        def __call__(self, about):
            run = super().__call__(about)
            if len(self.runs) == 2:
                raise KeyboardInterrupt
            return run

    tool = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        fill(data, tmp_path / "run", tool, executor="loop")
    first, _ = tool.runs.values()
    assert first.ended[0] == "ok"
    later = Memory()
    result = fill(data, tmp_path / "run", later, executor="loop", resume=True)
    assert len(result.outcomes) == 4
    assert set(later.runs) == {trial.id for trial in result.outcomes} - {first.about.id}


def test_a_tool_that_fails_costs_nothing_else(data, tmp_path):
    class Full(Run):
        def log(self, metrics, step, seconds):
            raise OSError(28, "No space left on device")

    tool = Memory()
    result = fill(data, tmp_path / "run", [Full, tool], executor="loop")
    (problem,) = result.problems
    assert str(problem).startswith("log Full: OSError: [Errno 28] No space left on device (test_sweep_logged.py, line ")
    check(result, tool)


def test_unknown_tools_are_refused_before_anything_is_made(data, tmp_path):
    with pytest.raises(UserError, match="unknown log 'tensorbord': did you mean 'tensorboard'"):
        fill(data, tmp_path / "run", "tensorbord")
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_missing_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"log 'wandb' needs Weights & Biases: pip install 'flaxvision\[wandb\]'"):
        fill(data, tmp_path / "run", "wandb")


def test_a_member_that_stopped_early_is_told_no_more(data, tmp_path):
    table = {
        **TABLE,
        "seeds": 1,
        "recipe": {"batch_size": 32, "epochs": 6, "early_stopping": 1, "select": "best"},
        "grid": {"learning_rate": [1e4, 0.05]},
    }
    tool = Memory()
    result = fv.sweep.run(table, tmp_path / "run", data=data, log=tool, executor="vmap", export=False, report=False)
    lengths = {trial.id: len(trial.history["train_loss"]) for trial in result.outcomes}
    assert len(set(lengths.values())) == 2
    assert {each: len(run.points) for each, run in tool.runs.items()} == lengths
    assert all(len(trial.epoch_steps) == lengths[trial.id] for trial in result.outcomes)
