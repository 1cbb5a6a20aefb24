"""The harness of the benchmarks: turns, failures, times and memory."""

from __future__ import annotations

import argparse
import dataclasses
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import flaxvision as fv

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER.parent))  # for processes that import this file
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))


def sleeper(turn, log, name, seconds, first=0.0):
    waits = iter([first + seconds])
    while turn():
        time.sleep(next(waits, seconds))
        with open(log, "a") as file:
            file.write(name)


def breaker(turn, blocks):
    for _ in range(blocks):
        turn()
    raise ValueError("broken on purpose")


def test_contestants_take_turns(tmp_path):
    from contest import contest

    log = tmp_path / "log"
    entries = {
        "a": (sleeper, {"log": log, "name": "a", "seconds": 0.02, "first": 0.3}),
        "b": (sleeper, {"log": log, "name": "b", "seconds": 0.06}),
    }
    times = contest(entries, repeats=3, warm_up=1)
    assert log.read_text() == "ab" * 5
    assert [len(times[name].blocks) for name in "ab"] == [3, 3]
    assert times["a"].median >= 0.02
    assert times["b"].median >= 0.06
    assert times["a"].first >= 0.32
    assert times["a"].compilation == max(0, times["a"].first - times["a"].median)
    assert times["a"].quartiles[0] <= times["a"].median <= times["a"].quartiles[1]
    assert 5 < times["a"].memory < 4000
    assert times["a"].ready > 0


@pytest.mark.slow
def test_contestants_may_get_ready_at_the_same_time(tmp_path, capfd):
    from contest import contest

    log = tmp_path / "log"
    entries = {
        "late": (sleeper, {"log": tmp_path / "other", "name": "l", "seconds": 0.02, "first": 600}),
        "a": (sleeper, {"log": log, "name": "a", "seconds": 0.02, "first": 0.5}),
        "b": (sleeper, {"log": log, "name": "b", "seconds": 0.02, "first": 0.5}),
    }
    times = contest(entries, repeats=2, warm_up=0, patience=25)  # of a busy machine
    assert list(times) == ["a", "b"]
    assert log.read_text()[2:] == "abab"
    assert [len(times[name].blocks) for name in "ab"] == [2, 2]
    assert "late is left out: it took too long" in capfd.readouterr().out


def test_first_blocks_may_be_computed_in_turn(tmp_path):
    from contest import contest

    log = tmp_path / "log"
    first = {"a": 0.3, "b": 0.0}
    entries = {name: (sleeper, {"log": log, "name": name, "seconds": 0.0, "first": first[name]}) for name in "ab"}
    assert list(contest(entries, repeats=1, warm_up=0, patience=60, in_turn=True)) == ["a", "b"]
    assert log.read_text() == "abab"


@pytest.mark.parametrize("blocks", [0, 2])
def test_one_that_fails_is_left_out(tmp_path, capfd, blocks):
    from contest import contest

    entries = {
        "broken": (breaker, {"blocks": blocks}),
        "well": (sleeper, {"log": tmp_path / "log", "name": "w", "seconds": 0.0}),
    }
    assert list(contest(entries, repeats=2, warm_up=0)) == ["well"]
    assert "broken is left out: ValueError: broken on purpose" in capfd.readouterr().out


def test_a_whole_command(tmp_path):
    from whole import run

    code = "import time, os; x = bytearray(b'1') * (200 * 2**20); time.sleep(1); print(os.getcwd())"
    seconds, memory = run([sys.executable, "-c", code], tmp_path, watch=True)
    assert seconds > 1
    assert 200 < memory < 400
    assert (tmp_path / "log.txt").read_text().strip() == str(tmp_path)
    assert (
        run([sys.executable, "-c", "import os; assert os.environ['X'] == '1'"], tmp_path, environment={"X": "1"})[1]
        == 0
    )
    with pytest.raises(RuntimeError, match="ended with status 3: the last line"):
        run([sys.executable, "-c", "print('the last line'); raise SystemExit(3)"], tmp_path)


def measured_row(network, ours, torch, **changes):
    """A row of steps.py as of a run: blocks of four steps, PyTorch at its fastest compiled."""
    from contest import Times
    from measured import Measured
    from roofline import Ceilings, Work
    from steps import BEST_TORCH, OURS

    times = {OURS: Times(1.0, 2.0, ours, 300.0), BEST_TORCH: Times(3.0, 4.0, torch, 500.0)}
    parts = {
        "times": times,
        "settings": {"eager, contiguous, plain": 9.0},
        "left_out": ("compiled, contiguous, plain",),
    }
    made = {"versions": {}, "device": "a machine", "command": "python experiments/benchmarks steps", "commit": "abc"}
    limits = {"work": Work(2 * 10**9, 10**6), "ceilings": Ceilings(1e11, 2e10)}
    row = Measured(network, 64, 4, setting="eager, contiguous, plain", **parts, **limits, made=made)
    return dataclasses.replace(row, **changes)


def test_ratios_are_of_the_same_turn():
    from steps import BEST_TORCH, OURS

    row = measured_row("mlp", (1.0, 2.0, 4.0), (3.0, 6.0, 4.0))
    assert list(row.ratios(OURS)) == [BEST_TORCH]
    np.testing.assert_array_equal(row.ratios(OURS)[BEST_TORCH], [3, 3, 1])
    assert row.milliseconds(OURS) == 500
    assert row.least() == pytest.approx((20, 0.05))


def test_rows_are_added_to_those_of_earlier_calls(tmp_path, capsys, monkeypatch):
    import measured
    import steps
    from common import Options

    rows = {"mlp": measured_row("mlp", (2.0, 2.0), (3.0, 6.0))}
    rows["vgg19"] = measured_row("vgg19", (4.0, 4.0), (2.0, 3.0), setting="compiled, channels last, fused")
    monkeypatch.setattr(steps.Ceilings, "measured", lambda: None)
    monkeypatch.setattr(steps, "measure", lambda task, *_: rows.get(task.name))
    monkeypatch.setattr(steps, "draw_ratios", lambda *_: Figure())

    def call(*networks, minutes=None):
        extra = argparse.Namespace(networks=networks, peers=None, minutes=minutes, repeats=2)
        command = " ".join(["python experiments/benchmarks steps", *networks])
        steps.run(Options("benchmarks/steps", False, 1, None, tmp_path, command, extra))

    call("vgg19")
    call("mlp", "tiny_cnn")
    assert "Not measured: python experiments/benchmarks steps tiny_cnn" in capsys.readouterr().out
    assert measured.read_rows(tmp_path) == {"vgg19": rows["vgg19"], "mlp": rows["mlp"]}
    found = {row["what"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    name = f"{steps.BEST_TORCH} / flaxvision"
    assert list(found) == [f"mlp: {name}", f"vgg19: {name}", f"geometric mean: {name}"]
    assert found[f"mlp: {name}"]["ours"] == 2.25
    assert found[f"vgg19: {name}"]["verdict"] == "outside"
    assert found[f"geometric mean: {name}"]["ours"] == pytest.approx((2.25 * 0.625) ** 0.5)
    assert found[f"vgg19: {name}"]["note"].startswith("compiled, channels last, fused; 1,000 ms against 625, where")
    page = (tmp_path / "README.md").read_text()
    assert "| vgg19 | 2 | 1 | 20 | 0.05 | products | 2% | 3% |" in page
    assert "`python experiments/benchmarks steps` at commit abc on a machine: mlp, vgg19" in page
    call(minutes=0.0)
    assert "steps mlp mnist_net strided_cnn wide_cnn tiny_cnn" in capsys.readouterr().out
    assert len(measured.read_rows(tmp_path)) == 2


def test_the_settings_of_pytorch(monkeypatch, capsys):
    from torch_settings import SETTINGS, settings_here

    assert len({setting.name for setting in SETTINGS}) == 8
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert [setting.name.split(",")[0] for setting in settings_here()] == ["eager"] * 4
    assert "torch.compile is left out: there is no g++" in capsys.readouterr().out
    monkeypatch.setenv("CXX", sys.executable)
    assert settings_here() == SETTINGS


def test_the_work_of_a_step():
    from contestants import Task
    from roofline import Work

    work = Work.of(Task("mlp", "mlp", 64, 1, sizes=(("hidden", (32, 16)),)))
    first, others = 784 * 32, 32 * 16 + 16 * 10
    assert work.multiply_adds == 64 * (2 * first + 3 * others)  # images need no gradient
    assert work.traffic == 64 * 5 * 4 * (32 + 16 + 10)


@pytest.mark.slow
def test_every_network_is_the_same_in_pytorch(torch):
    from contestants import REPORTS, TASKS

    for task in TASKS[len(REPORTS) :]:
        assert fv.models.count_parameters(task.chain()) == sum(p.numel() for p in task.module().parameters()), task.name


@pytest.mark.slow
def test_channels_last_stays_in_batches(torch):
    from contestants import TASKS
    from torch_trials import InMemory

    task = dataclasses.replace(next(task for task in TASKS if task.name == "residual"), steps=1, batch=8)
    batches = InMemory(task.dataset().train, "unit", 4, shuffle=True)
    batches.images = batches.images.contiguous(memory_format=torch.channels_last)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)


def test_the_pages_have_the_numbers_of_the_results():
    import readme

    for page in readme.BLOCKS:
        text = page.read_text(encoding="utf-8")
        assert text == readme.written(page), "run: python experiments/benchmarks readme"


def test_the_readme_says_which_networks_pytorch_trains_faster():
    import readme

    ratios = {("mlp", readme.BEST_TORCH): 0.954, ("vgg19", readme.BEST_TORCH): 1.2, ("dense", readme.BEST_TORCH): 0.5}
    means = {("geometric mean", readme.BEST_TORCH): 0.8}
    said = readme.slower(SimpleNamespace(ratios=lambda: ratios | means))
    assert said.startswith("PyTorch at its fastest is the fastest of eight settings")
    assert "PyTorch trains dense (0.50), mlp (0.95) faster ([" in said
    old = readme.slower(SimpleNamespace(ratios=lambda: {("mlp", "the faster PyTorch"): 1.5} | means))
    assert old == "Of the first row's networks PyTorch trains none faster."


@pytest.mark.parametrize("name", ["mlp", "mnist_net", "strided_cnn", "tiny_cnn", "emnist_cnn", "emnist_autoencoder"])
@pytest.mark.slow
def test_plain_flax_is_the_same_network(name):
    """The peer of Flax's own modules gives our outputs in evaluation mode."""
    from contestants import TASKS, plain

    task = next(task for task in TASKS if task.network == name)
    chain = task.chain()
    network = plain(chain)
    network.eval()
    x = np.random.default_rng(0).standard_normal((3, *chain.input_shape)).astype(np.float32)
    np.testing.assert_allclose(network(x), chain(x), rtol=1e-5, atol=1e-5)


def test_what_was_measured_is_kept_for_the_same_commit(tmp_path, monkeypatch):
    import common
    import contest
    from contest import Times, kept

    monkeypatch.setattr(common, "RESULTS", tmp_path / "experiments" / "results")
    monkeypatch.setattr(contest, "commit", lambda: state["commit"])
    options = common.Options("benchmarks/steps", False, 1, None, tmp_path, "", None)
    measured = {"Flax, jax.jit": Times(1.5, 0.25, (1.0, 2.0), 7.0), "ours": Times(1.0, 1.0, (0.5,), 8.0)}
    state = {"commit": "abc", "calls": 0}

    def measure():
        state["calls"] += 1
        return measured

    for commit, key, calls in (("abc", 1, 1), ("abc", 1, 1), ("abc", 2, 2), ("def", 1, 3), ("def", 1, 3)):
        state["commit"] = commit
        assert kept(options, {"repeats": key}, Times, measure) == measured
        assert state["calls"] == calls
    for commit, calls in (("abc+changes", 4), ("abc+changes", 5), ("unknown", 6)):
        state["commit"] = commit
        kept(options, {"repeats": 1}, Times, measure)
        assert state["calls"] == calls
    common.KEPT.clear()


def test_a_peer_that_is_not_installed_has_no_version(monkeypatch):
    import common

    monkeypatch.setattr(common, "PEERS", {"numpy": ("sys",), "no_such_package": ("sys",), "onnx": ("never_imported",)})
    assert set(common.all_versions()) - set(common.versions()) <= {"numpy"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["stepz"], "part 'stepz' is unknown"),
        (["steps", "--repeats", "0"], "--repeats is 0: give 1 or more"),
        (["steps", "mpl"], "unknown network 'mpl': did you mean 'mlp'?"),
        (["sizes", "mlp"], "part 'mlp' is unknown"),
        (["steps", "resnet20", "--peers", "flax"], "unknown network of the reports 'resnet20': "),
        (["tables", "--tables", "digit"], "unknown table 'digit': did you mean 'digits'?"),
        (["tables", "--peers", "pytorch"], "unknown peer 'pytorch': did you mean 'torch'?"),
        (["scaling", "--executors", "thread"], "unknown executor 'thread': did you mean 'threads'?"),
    ],
)
def test_what_is_unknown_is_told_in_one_line(tmp_path, arguments, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / "benchmarks"), run_name="__main__")
    assert end.value.code == 2
    assert error in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_peer_trains_a_tables_cells_by_itself(tmp_path):
    command = [sys.executable, str(FOLDER / "benchmarks" / "peer_table.py"), "demo", "flax", "--out", "found.json"]
    shorter = ["--limit", "640", "--epochs", "1", "--seeds", "1"]
    subprocess.run([*command, *shorter], check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["accuracy"] > 0.15  # of ten classes
    assert set(found["seconds"]) == {"pretrain", "start", "trials"}
    found = subprocess.run([*command, "--estimate", "3"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].endswith("--estimate is not for 'flax': give torch, compile or loader")
