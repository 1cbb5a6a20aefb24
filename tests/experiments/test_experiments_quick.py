"""Every script runs on made data in seconds, and leaves what its results should hold."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import jax
import pytest

from flaxvision.training import engine

FOLDER = Path(__file__).parents[2] / "experiments"
STUDIES = [
    "cifar_vgg19",
    "digit_classifiers",
    "emnist_autoencoder",
    "emnist_holdout",
    "fashion_learning_rate",
    "fashion_structure",
    "framework_parity",
    "mnist_ablations",
    "mnist_classifier",
    "planar_clusters",
    "trace_identity",
]


@pytest.fixture
def script(monkeypatch):
    """A function from a script's name to its module, imported as it is when the script runs."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    # Nearly all of a quick run is compiling; programs that are not optimised must not reach other tests.
    engine.engine_for.cache_clear()
    jax.config.update("jax_disable_most_optimizations", True)
    yield importlib.import_module
    jax.config.update("jax_disable_most_optimizations", False)
    engine.engine_for.cache_clear()
    jax.clear_caches()
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_every_script_is_here():
    scripts = {path.stem for path in FOLDER.glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")}
    others = {"export_parity", "export_trajectories", "export_latency", "export_random_chains", "summarize"}
    assert scripts == {*STUDIES, *others}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study(name, script, tmp_path, capsys, torch):
    pytest.importorskip("keras")
    script(name).main(["--quick", "--out", str(tmp_path / name)])
    record = json.loads((tmp_path / name / "results.json").read_text())
    assert record["name"] == name
    assert record["command"] == f"python experiments/{name}.py --quick"
    assert {"versions", "device", "config", "data", "commit"} <= record.keys()
    assert record["rows"] or record["claims"]
    for row in record["rows"]:
        assert {"published", "ours", "std", "n", "seeds", "tolerance", "verdict"} <= row.keys()
        assert row["n"] == len(row["values"]) > 0
    text = (tmp_path / name / "README.md").read_text()
    assert record["command"] in text
    for path in (tmp_path / name).glob("*.png"):
        assert path.stat().st_size > 5_000
        assert path.with_suffix(".svg").exists()
        assert f"]({path.name})" in text
    assert capsys.readouterr().out
    page = script("summarize")
    page.main(["--results", str(tmp_path)])
    assert f"]({name}/README.md)" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["export_parity", "export_trajectories"])
def test_an_export_table(name, script, tmp_path, capsys, torch):
    script(name).main(["--quick", "--out", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert f"python experiments/{name}.py --quick" in text
    assert text.count("\n## ") == 2
    assert "| ONNX |" in text or "Flax against PyTorch" in text
    assert capsys.readouterr().out
