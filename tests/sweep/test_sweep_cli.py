from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest

from flaxvision.sweep import list_specs
from flaxvision.sweep.__main__ import main

pytestmark = pytest.mark.quick

MODULE = [sys.executable, "-m", "flaxvision.sweep"]


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_light_options_import_no_jax(option, tmp_path):
    code = f"""
import sys
from flaxvision.sweep.__main__ import main
try:
    main([{option!r}])
except SystemExit as stop:
    assert not stop.code
assert not {{"jax", "matplotlib", "tensorflow_datasets", "torch"}} & set(sys.modules), "heavy import"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


def test_list(command):
    status, out, _ = command("--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list_specs()


def test_dry_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = command("demo", "--dry-run", "--set", "batch_size=32,64", "--seeds", 2)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[:-4] == [
        "Learning rates on drawn digits (changed: batch_size)",
        "data      glyphs: train 10,000, test 2,000; 28 x 28 x 1 pixels, 10 classes",
        "model     mlp, hidden [256, 512], init torch; 337,674 parameters",
        "recipe    optimizer sgd, shuffle false, epochs 5; 785 to 1,565 updates a trial",
        "varies    learning_rate: 1, 0.1, 0.01, 0.001",
        "varies    batch_size: 32, 64",
        "trials    16 (8 cells x 2 seeds)",
        "programs  2, of 8 trials that differ in numbers alone",
        "winner    by test_top1, so by the test set: validation=0.1 would hold out others",
    ]
    assert lines[-4].startswith("folder    runs/demo-")
    assert not list(tmp_path.iterdir())


def test_a_large_dry_run_is_one_screen(command, spec_file, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    rates = [round(0.001 * n, 3) for n in range(1, 40)]
    table = tiny(grid={"learning_rate": rates, "momentum": [0.1, 0.9]}, seeds=2)
    _, out, _ = command(spec_file(table), "--dry-run")
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert "varies    learning_rate: 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, … (39 values)" in lines


def test_dry_run_counts_the_stages(command, spec_file, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    warm = [{"name": "warm", "warm_start": "pretrain"}, {"name": "cold"}]
    table = tiny(grid={"start": warm}, seeds=3, pretrain={"only": ["linear_relu_stack.0"]}, final={"seeds": [7, 8]})
    _, out, _ = command(spec_file(table), "--dry-run")
    assert "trials    6 (2 cells x 3 seeds); before them a pretraining; after them 2 of the winner" in out.splitlines()


def test_closed_pipe(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [*MODULE, "demo", "--dry-run", "--seeds", "3000"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_everything_on_one_line(command, tmp_path, spec_file, tiny, files):
    out = tmp_path / "run"
    table = tiny(grid={"learning_rate": [5]}, model="linear", seeds=9, data={"limit": 999})
    del table["sizes"]
    path = spec_file(table)
    options = ["--dataset", "glyphs47", "--epochs", 1, "--seeds", 2, "--limit", 64, "--out", out]
    settings = ["--set", "model=mlp", "batch_size=16", "--set", "hidden=[8],[4]", "--set", "learning_rate=1e-1,0.30"]
    status, printed, err = command(path, *options, *settings)
    assert status == 0, err
    assert str(out / "report.html") in printed
    assert "0.30" in printed
    rows = files["table"](out)
    assert [(row["learning_rate"], row["hidden"], row["n"]) for row in rows] == [
        ("1e-1", "[8]", "2"),
        ("1e-1", "[4]", "2"),
        ("0.30", "[8]", "2"),
        ("0.30", "[4]", "2"),
    ]
    assert [int(row["parameters"]) for row in rows] == [64 * w + w + 47 * w + 47 for w in (8, 4, 8, 4)]
    records = files["trials"](out)
    assert {r["config"]["dataset"] for r in records} == {"glyphs47"}
    assert {r["config"]["limit"] for r in records} == {64}
    assert {r["config"]["batch_size"] for r in records} == {16}
    for name in ("spec.toml", "results.md", "results.tex", "report.html", "winner/flaxvision.safetensors"):
        assert (out / name).stat().st_size > 0
    assert {path.suffix for path in (out / "trials").iterdir()} == {".npz", ".safetensors"}


def test_the_winner_elsewhere(command, tmp_path, spec_file, tiny, torch):
    """A sweep exports its winner and shows that the file is the same network, unless told not to."""
    path = spec_file(tiny())
    assert main([str(path), "--out", str(tmp_path / "with"), "--quiet"]) == 0
    assert command(path, "--out", tmp_path / "without", "--quiet") == (0, "", "")  # adds --no-export
    exported = {"model.onnx", "network.onnx", "torch.safetensors", "README.md", "example.npz", "check.py"}
    files = {
        folder: {entry.name for entry in (tmp_path / folder / "winner").iterdir()} for folder in ("with", "without")
    }
    assert files["without"] == {"flaxvision.safetensors"}
    assert files["with"] - files["without"] - {"model.keras"} == {*exported, "parity.md", "parity.json"}
    pages = {folder: (tmp_path / folder / "report.html").read_text(encoding="utf-8") for folder in files}
    section = pages["with"].partition("The same network elsewhere")[2]
    for runtime in ("Flax", "ONNX", "PyTorch"):
        assert f"<td>{runtime}</td>" in section
    assert "The same network elsewhere" not in pages["without"]
    for name in ("model", "network"):
        onnx.checker.check_model(tmp_path / "with" / "winner" / f"{name}.onnx", full_check=True)


def test_quiet_prints_nothing_and_default_folder_is_under_runs(command, tmp_path, spec_file, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(spec_file(tiny()), "--quiet") == (0, "", "")
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("tiny-")
    assert (run / "report.html").exists()
