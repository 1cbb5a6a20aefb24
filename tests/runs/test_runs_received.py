"""A run holds what it is made of: its receiver goes on with it, trains a trial again, extends it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.cli.main import main
from flaxvision.errors import UserError


def numbers(directory):
    lines = (directory / "trials.jsonl").read_text().splitlines()
    return {record["id"]: record["final"] for record in map(json.loads, lines)}


def test_the_receiver_adds_seeds(author, received, capsys):
    before = numbers(received)
    result = fv.sweep.resume(received, seeds=3, executor="loop", export=False, report=False)
    after = numbers(received)
    assert {key: after[key] for key in before} == before
    assert (len(after), [cell.n for cell in result.cells]) == (6, [3, 3])
    records = [json.loads(line) for line in (received / "trials.jsonl").read_text().splitlines()]
    codes = {json.dumps(record["identity"]["code door_net.py:small"], sort_keys=True) for record in records}
    assert len(codes) == 1
    assert "door_net.py" not in sys.modules  # where it was not
    assert fv.runs.open(received).spec.seeds == (0, 1, 2)


def test_the_receiver_trains_a_trial_again(received, capsys):
    trial = next(iter(numbers(received)))
    assert main(["rerun", str(received), trial[:6]]) == 0
    out, err = capsys.readouterr()
    assert err == "note: the code of door_net.py:small is not here: the run's own copy is taken\n"
    assert out.splitlines()[-1] == f"trial {trial}: equal bit for bit in every epoch"


def test_the_author_has_changed_the_code(received, capsys):
    """What is on record is gone on with as it was; a spec of one's own is compared with it, as ever."""
    (received.parent / "door_net.py").write_text("def small(build, outputs):\n    build.linear('out', outputs)\n")
    spec = fv.sweep.load_spec(received)
    with pytest.raises(UserError, match=r"holds trials made from other inputs: code door_net.py:small"):
        fv.sweep.run(spec, received, resume=True, export=False, report=False)
    assert main(["resume", str(received), "--no-export", "--quiet"]) == 0  # says nothing
    assert fv.runs.open(received).state == "complete"


def test_without_what_it_holds_it_says_so(received):
    (received / "data.npz").unlink()
    with pytest.raises(UserError, match="stands for arrays that were given in Python"):
        fv.sweep.resume(received)


@pytest.mark.slow
def test_starting_weights_are_kept(author, received, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = fv.save_model(fv.models.create("linear", input_shape=(8, 8, 3), num_classes=3), "start.safetensors")
    table = {"model": "linear", "recipe": {"warm_start": str(start), "epochs": 1, "batch_size": 64}}
    fv.sweep.run(table, "warm", data=author.data, executor="loop", export=False, report=False)
    start.unlink()
    trial = next(iter(numbers(tmp_path / "warm")))
    assert fv.sweep.rerun("warm", trial).equal
    fv.sweep.resume("warm", seeds=2, export=False, report=False)
    assert len(numbers(tmp_path / "warm")) == 2


@pytest.mark.slow
def test_the_receiver_in_another_process(author, received):
    """Worker processes find the copies and the arrays in the run as well."""
    code = f"""
import flaxvision as fv
result = fv.sweep.resume({str(received)!r}, seeds=4, executor="processes", export=False, report=False)
assert not result.failures, result.failures[0].message
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=received.parent)
    module = [sys.executable, "-m", "flaxvision", "resume", str(received), "--seeds", "5", "--no-export"]
    done = subprocess.run(module, check=True, cwd=received.parent, capture_output=True, text=True)
    assert "the code of door_net.py:small is not here: the run's own copy is taken" in done.stderr
    assert len(numbers(received)) == 10
    losses = [final["test_loss"] for final in numbers(received).values()]
    assert np.isfinite(losses).all()
