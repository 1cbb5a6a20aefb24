"""Every script runs on made data in seconds, and leaves what its results should hold."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxvision as fv
from tests.conftest import slow

pytestmark = pytest.mark.quick
FOLDER = Path(__file__).parents[2] / "experiments"
STUDIES = [
    "cifar_networks",
    "cifar_vgg19",
    "digit_classifiers",
    "emnist_autoencoder",
    "emnist_holdout",
    "fashion_learning_rate",
    "fashion_structure",
    "framework_parity",
    "mnist_ablations",
    "mnist_classifier",
    "null_differences",
    "planar_clusters",
    "search",
    "trace_identity",
]


@pytest.fixture
def script(monkeypatch):
    """A function from a script's name to its module, imported as it is when the script runs."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name != "peers" and str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):  # its processes go on
            del sys.modules[name]


def test_every_script_is_here():
    scripts = {path.stem for path in FOLDER.glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")}
    others = {
        "brought_networks",
        "export_parity",
        "export_trajectories",
        "devices",
        "export_latency",
        "export_random_networks",
        "fuzzed_files",
        "interrupted_sweeps",
        "lab",
        "large_data",
        "many_trials",
        "predicted_time",
        "ray_cluster",
        "runtimes",
        "summarize",
        "torch_random_modules",
    }
    assert scripts == {*STUDIES, *others}


@pytest.mark.slow
def test_interrupted_sweeps(tmp_path):
    """Four sweeps that are killed and four that are asked to end, by every executor, go on to the same bytes."""
    command = [sys.executable, FOLDER / "interrupted_sweeps.py", "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    endings = json.loads((tmp_path / "results.json").read_text())["endings"]
    assert [one["signal"] for one in endings] == ["SIGKILL"] * 4 + ["SIGINT", "SIGTERM", "SIGHUP", "SIGINT"]
    assert {one["executor"] for one in endings} == {"loop", "threads", "processes", "vmap"}
    for one in endings:
        assert (one["differs"], one["left"]) == ([], 0), one
        if one["signal"] != "SIGKILL":
            status = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}[one["signal"]]
            assert (one["status"], one["words"]) == (status, 1), one


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_devices(tmp_path):
    """Four forced devices all train, and single trials are those of one."""
    command = [sys.executable, FOLDER / "devices.py", "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    tables = json.loads((tmp_path / "results.json").read_text())["tables"]
    assert [len(table["used"]) for table in tables] == [1, 4, 1, 4]
    assert tables[2]["losses"] == tables[3]["losses"]
    assert tables[0]["losses"] == pytest.approx(tables[1]["losses"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_many_trials(tmp_path):
    """Fifty trials more take no memory, and the browser, where there is one, has every row."""
    command = [sys.executable, FOLDER / "many_trials.py", "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for one in json.loads((tmp_path / "results.json").read_text())["sizes"]:
        assert one["memory"][-1][0] == one["trials"] == 5 * one["cells"]
        assert one["memory"][-1][1] < one["memory"][0][1] + 2**25
        written, shown = one["rows"]
        assert written > one["trials"]
        assert one["browser"] is None or shown >= written
    assert "| 100 | 20 |" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_predicted_time(tmp_path):
    """Two sweeps are told and trained, and are not trained again by a second call."""
    command = [sys.executable, FOLDER / "predicted_time.py", "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    again = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert not again.stdout
    sweeps = json.loads((tmp_path / "results.json").read_text())["sweeps"]
    assert [one["executor"] for one in sweeps] == ["loop", "threads"]
    for one in sweeps:
        assert 0 < one["guess"][0] < one["guess"][1]
        assert one["predicted"] > 0
        assert one["real"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_large_data(tmp_path):
    command = [sys.executable, FOLDER / "large_data.py", "--quick", "--part", "folder", "--part", "linear"]
    subprocess.run([*command, "--out", tmp_path], check=True, stdout=subprocess.DEVNULL)
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert [one["examples"] for one in parts["folder"]] == [500] * 4
    assert {one["how"] for one in parts["linear"]} == {"memory", "mapped", "streamed", "streamed, cold"}
    assert all(one["rate"] > 0 and 0 < one["private"] < 2**30 for one in parts["linear"])
    assert "| linear | streamed, cold | none |" in (tmp_path / "README.md").read_text()


QUICKEST = ("trace_identity", "fashion_learning_rate")


@pytest.mark.parametrize("name", [name if name in QUICKEST else slow(name) for name in STUDIES])
def test_a_study(name, script, tmp_path, capsys, torch):
    pytest.importorskip("keras")
    script(name).main(["--quick", "--out", str(tmp_path / name)])
    record = json.loads((tmp_path / name / "results.json").read_text())
    assert record["name"] == name
    assert record["command"] == f"python experiments/{name}.py --quick"
    assert {"versions", "device", "config", "data", "commit", "tables", "kept"} <= record.keys()
    assert record["rows"] or record["claims"]
    for row in record["rows"]:
        assert {"published", "published_range", "ours", "std", "n", "seeds", "tolerance", "verdict"} <= row.keys()
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
    shown = f"]({name}/README.md)" in (tmp_path / "README.md").read_text()
    assert shown == bool(record["report"])  # the page is of the reports


def test_rows_and_kept_parts(script, tmp_path, monkeypatch):
    common = script("common")
    rows = script("rows")
    assert doctest.testmod(rows).failed == 0
    row = rows.Row("speed", "it/s", (5.0,), published_range=(1.0, 3.0), peer=(4.0, 6.0))
    assert (row.from_published, row.from_peer, row.verdict) == (2.0, 0.0, "")
    assert "| 1 to 3 | 5 | 1 | 5.0 ± 1.4 | +2 | 0 |" in rows.rows_markdown([row])
    bounded = rows.Row("error", "", (1.0, 2.0), interval=(-np.inf, 3.0))
    for given in (row, bounded):
        text = json.dumps(given.record([0, 1]))
        assert json.dumps(rows.Row.of(json.loads(text)).record([0, 1])) == text

    monkeypatch.setattr(common, "RESULTS", tmp_path / "experiments" / "results")
    options = common.read_options("some", None, [])
    for _ in range(2):  # the second time nothing is made
        made = common.cached(options, {"seed": 0}, lambda: {"loss": np.arange(3 - len(common.KEPT))})
        assert set(made) == {"loss"}
        assert made["loss"].tolist() == [0, 1, 2]
    (record,) = common.KEPT.values()
    assert {"commit", "seconds", "versions"} == record.keys()
    assert common.kept_in_words().startswith("1 part kept")


def test_a_table_goes_on_with_other_points_and_seeds(script, tmp_path, monkeypatch):
    common, sweeps = script("common"), script("sweeps")
    monkeypatch.setattr(sweeps, "RESULTS", tmp_path / "experiments" / "results")
    table = fv.sweep.parse_spec(
        {
            "name": "table",
            "dataset": "two_clusters",
            "model": "linear",
            "data": {"limit": 64},
            "recipe": {"batch_size": 32, "epochs": 1, "loss": "binary_cross_entropy"},
            "grid": {"learning_rate": [0.1, 0.01]},
            "published": [{"where": {"learning_rate": 0.1}, "metric": "test_top1", "value": 0.9, "tolerance": 0.01}],
        }
    )

    common.KEPT.clear()

    def fill(seeds, **rest):
        study = common.Study(common.read_options("some", None, [], seeds=seeds), "", "", "")
        return study, sweeps.fill(study, table, executor="loop", **rest)

    _, first = fill(1, only={"learning_rate": ["0.01"]})
    assert list(first) == ["0.01"]
    study, both = fill(2)
    assert both["0.1"]["test_top1"].shape == (2, 1)
    assert both["0.01"].outcomes[0].seconds == first["0.01"].outcomes[0].seconds  # not trained again
    assert both["0.1"].published() == {"published": 90.0, "tolerance": 1.0}
    assert sweeps.recipe_of(both["0.01"].outcomes[1]) == fv.Recipe(
        learning_rate=0.01, batch_size=32, epochs=1, loss="binary_cross_entropy", seed=1
    )
    assert list(study.sources) == ["two_clusters"]
    assert common.kept_in_words().startswith("1 part kept")
    common.KEPT.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_a_study_runs_as_a_script(tmp_path):
    command = [sys.executable, str(FOLDER / f"{QUICKEST[0]}.py"), "--quick", "--out", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True)
    assert (tmp_path / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["export_parity", "export_trajectories"])
def test_an_export_table(name, script, tmp_path, capsys, torch):
    script(name).main(["--quick", "--out", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert f"python experiments/{name}.py --quick" in text
    assert text.count("\n## ") == 2
    assert "| ONNX |" in text or "Flax against PyTorch" in text
    assert capsys.readouterr().out
