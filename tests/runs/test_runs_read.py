"""Runs are read without their data and code: tables, trials, histories, winner, data frames, models."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import flaxvision as fv
from flaxvision.cli.main import main
from flaxvision.errors import UserError
from flaxvision.runs._compare import _differences
from flaxvision.sweep import config_hash, parse_spec
from flaxvision.sweep.records import line_of

pytestmark = pytest.mark.quick


def records(directory):
    return [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]


def test_a_run_is_what_the_sweep_returned(author, received):
    run, made = fv.runs.open(received), author.result
    assert (run.name, run.state, run.expected, run.data) == ("own", "complete", 4, "arrays:made")
    assert [cell.where for cell in run.table] == [cell.where for cell in made.cells]
    assert [trial.id for trial in run.trials] == [trial.id for trial in made.outcomes]
    assert run.winner.id == made.winner.id
    assert (run.result.title, run.result.classes) == (made.title, ("0", "1", "2"))
    assert json.dumps(run.result.provenance, default=str) == json.dumps(made.provenance, default=str)
    for trial in made.outcomes:
        history = run.histories[trial.id]
        assert set(history) == set(trial.history)
        np.testing.assert_array_equal(history["test_top1"], trial.history["test_top1"])
    assert repr(run).startswith("Run('own': complete, 4 of 4 trials, best test_top1 1 (learning_rate 0.")
    assert run.size == sum(path.stat().st_size for path in received.rglob("*") if path.is_file())


def test_files_that_go_while_they_are_counted(received, monkeypatch):
    run, real = fv.runs.open(received), os.lstat
    gone = received / "trials.jsonl"

    def lstat(path, **options):
        if os.fspath(path) == os.fspath(gone):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, **options)

    rest = run.size - gone.stat().st_size
    monkeypatch.setattr(os, "lstat", lstat)
    assert run.size == rest


def test_folders_that_may_not_be_looked_into_are_passed_over(received, monkeypatch, capsys):
    secret, real = received.parent / "secret", Path.is_file
    secret.mkdir()

    def is_file(path):
        if secret in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert main(["runs", "list", str(received.parent)]) == 0
    out, err = capsys.readouterr()
    assert "own" in out
    assert err == f"passed over: cannot read {secret}: Permission denied\n"


def test_frames_hold_the_numbers_on_record(received):
    pytest.importorskip("pandas")
    run, on_record = fv.runs.open(received), records(received)
    cells, trials = run.to_frame(), run.trials_frame()
    assert cells["learning_rate"].tolist() == [0.5, 0.05]
    for rate, mean, deviation in zip(cells["learning_rate"], cells["test_top1"], cells["test_top1_std"], strict=True):
        scores = [r["final"]["test_top1"] for r in on_record if r["config"]["learning_rate"] == rate]
        assert mean == pytest.approx(sum(scores) / 2, abs=1e-12)
        assert deviation == pytest.approx(abs(scores[0] - scores[1]) / math.sqrt(2), abs=1e-12)
    assert cells[["n", "diverged", "failed", "parameters"]].values.tolist() == [[2, 0, 0, 192 * 8 + 8 + 27]] * 2
    for record in on_record:
        row = trials.loc[record["id"]]
        assert (row["seed"], row["status"], row["test_loss"]) == (record["seed"], "ok", record["final"]["test_loss"])
    epochs = run.epochs_frame()
    with np.load(received / "trials" / f"{on_record[0]['id']}.npz") as arrays:
        assert epochs.loc[on_record[0]["id"]]["test_loss"].tolist() == arrays["test_loss"].tolist()
    assert epochs.index.get_level_values("epoch").max() == 3
    assert epochs["step"].tolist() == 4 * [6, 12, 18]  # 192 examples in batches of 32
    times = epochs.loc[on_record[0]["id"]]["seconds"].tolist()
    assert times == on_record[0]["epoch_seconds"] == sorted(times)


def test_models_load_without_the_code(author, received):
    images = author.data.test.images
    winner = fv.load_model(received)
    np.testing.assert_array_equal(fv.predict(winner, images), fv.predict(fv.runs.open(received).load_model(), images))
    record = next(r for r in records(received) if r["id"] != author.result.winner.id)
    model = fv.runs.open(received).load_model(record["id"][:8])
    assert fv.evaluate(model, author.data.test).top1 == pytest.approx(record["final"]["test_top1"], abs=1e-6)
    with pytest.raises(UserError, match="unknown trial 'xyz'"):
        fv.runs.open(received).load_model("xyz")
    (received / "winner" / "flaxvision.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"own has no winner/flaxvision.safetensors: give a run that has ended with a winner"
    ):
        fv.load_model(received)


def written(directory, changed):
    (directory / "trials.jsonl").write_text("".join(map(line_of, changed)))


def test_an_interrupted_resume_leaves_another_winner_s_folder(author, received):
    images, before = author.data.test.images, author.result.winner.id
    written(received, [record for record in records(received) if record["id"] != before])
    run = fv.runs.open(received)
    assert (run.state, run.winner.id == before) == ("ended early", False)
    scores = fv.predict(run.load_model(), images)
    np.testing.assert_array_equal(
        scores, fv.predict(fv.load_model(received / f"trials/{run.winner.id}.safetensors"), images)
    )
    assert (scores != fv.predict(fv.load_model(received), images)).any()
    written(received, [])
    with pytest.raises(UserError, match="own has no winner: none of its trials is sound so far"):
        fv.runs.open(received).load_model()


def test_a_trial_by_the_beginning_of_its_id(received):
    first, *others = records(received)
    kept = {key: first[key] for key in ("id", "stage", "cell", "seed", "config")}
    written(received, [{**kept, "status": "failed", "message": "no memory"}, *others])
    run = fv.runs.open(received)
    ids = ", ".join(trial.id for trial in run.trials if trial.id != first["id"])
    for beginning, said in (
        (first["id"], f"trial {first['id']} failed and left no weights (no memory): give one of {ids}"),
        ("", f"trial '' matches 3 trials of this run: give one of {ids}"),
        ("xyz", f"unknown trial 'xyz': Allowed: {ids}"),
    ):
        with pytest.raises(UserError) as caught:
            run.load_model(beginning)
        assert str(caught.value) == said


def test_records_of_a_final_stage_that_lack_something(received):
    with open(received / "spec.toml", "a") as spec:
        spec.write("\n[final]\nseeds = 1\n")
    best = fv.runs.open(received).winner
    lines = [
        {"id": "ab", "stage": "final"},
        {"id": config_hash({}), "stage": "final", "cell": dict(best.cell), "seed": 0, "config": {}}
        | {"status": "failed", "message": "no memory"},
    ]
    with open(received / "trials.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)  # as an earlier version wrote them: no checksums
    (run,) = fv.runs.list_runs(".")
    assert any(note.startswith("trial ab is passed over: its record has no right") for note in run.notes)
    assert [(cell.stage, cell.failed) for cell in run.table] == [("sweep", 0), ("sweep", 0), ("final", 1)]
    assert run.winner.id == best.id


def test_a_run_that_ended_early(received):
    lines = (received / "trials.jsonl").read_text().splitlines(keepends=True)
    (received / "trials.jsonl").write_text("".join(lines[:3]) + '{"id": "ab"}\nnot JSON\n')
    (received / "run.json").unlink()
    run = fv.runs.open(received)
    assert (run.state, len(run.trials), run.expected) == ("ended early", 3, 4)
    assert run.result.classes == ("0", "1", "2")  # of a trial's weights
    assert run.winner is not None
    assert run.result.provenance == {}
    assert run.notes[0].startswith("trials.jsonl line 5 is damaged")
    assert run.notes[1].startswith("trial ab is passed over: its record has no right seed")
    for holder, state in ((f"process {os.getpid()} on {platform.node()}", "running"), ("process 1 on mars", "running")):
        (received / ".holder").write_text(f"{holder}\n")
        assert fv.runs.open(received).state == state
    (received / "run.json").write_text('{"classes": 1}')
    assert (
        "run.json cannot be read ('int' object is not iterable): flaxvision resume" in fv.runs.open(received).notes[1]
    )
    (received / ".holder").write_text(f"process {2**22 + 5} on {platform.node()}\n")
    assert fv.runs.open(received).state == "ended early"


def test_runs_of_a_folder(received):
    (received.parent / "notes").mkdir()
    shutil.copytree(received, "other")
    about = json.loads((received / "run.json").read_text())
    about["provenance"]["date"] = "2020-02-01 12:00 UTC"
    (received / "run.json").write_text(json.dumps(about))
    assert [run.name for run in fv.runs.list_runs(".")] == ["own", "other"]
    assert fv.runs.open(received).ended.timestamp() == 1_580_558_400
    (received / "run.json").unlink()  # then its files tell
    os.utime(received / "trials.jsonl", (2_000, 2_000))
    assert fv.runs.open(received).ended.timestamp() == 2_000
    (received.parent / "other" / "spec.toml").write_text("seeds = 0")
    with pytest.raises(UserError, match="seeds is 0"):
        fv.runs.list_runs(".")
    with pytest.raises(UserError, match="there is no folder missing"):
        fv.runs.list_runs("missing")


def test_what_searches_vary_is_a_difference():
    """Against a grid and another space, by what a spec says; equal searches have none."""
    data, rates = {"dataset": "glyphs", "model": "mlp"}, {"low": 1e-3, "high": 0.1, "log": True}
    kinds = [{"name": "plain"}, {"name": "smooth", "label_smoothing": 0.1}]
    search = {"trials": 8, "space": {"learning_rate": rates, "kind": kinds}}
    grid, one, other = (
        SimpleNamespace(spec=parse_spec({**data, **table}))
        for table in (
            {"grid": {"learning_rate": [0.1, 0.2]}, "recipe": {"momentum": 0.5}},
            {"search": search, "recipe": {"momentum": 0.5}},
            {"search": {**search, "sampler": "sobol", "space": {**search["space"], "learning_rate": [0.1]}}},
        )
    )
    found = {each.key: each.values for each in _differences([grid, one])}
    assert found["learning_rate"] == ("varies", "searched: { low = 0.001, high = 0.1, log = true }")
    assert found["label_smoothing"] == ("0.0", "varies")
    assert found["search"] == ("–", "{ sampler = tpe, trials = 8 }")
    assert "momentum" not in found
    assert _differences([one, one]) == ()
    found = {each.key: each.values for each in _differences([one, other])}
    assert found.keys() == {"learning_rate", "momentum", "search"}
    assert found["learning_rate"][1] == "searched: { values = [0.1] }"


def test_runs_are_compared(author, received, tmp_path):
    other = shutil.copytree(received, tmp_path / "other")
    text = (other / "spec.toml").read_text()
    (other / "spec.toml").write_text(text.replace('description = ""', 'description = "the same"'))
    found = fv.runs.compare([received, fv.runs.open(other)])
    assert (found.names, found.differences, found.notes) == (("own", "other"), (), ())
    assert [cell.where["run"] for cell in found.result.cells] == ["own", "own", "other", "other"]
    assert "| own | 0.5 | 2 |" in found.markdown()
    assert r"\toprule" in found.latex()
    assert r"who & learning\_rate & test top-1 (\%) \\" in found.latex(columns=["test_top1"], names={"run": "who"})
    best = max(author.result.cells, key=lambda cell: cell.mean("test_top1")).where["learning_rate"]
    for name, tied in (("own", False), ("other", True)):  # seeds pair
        (row,) = [line for line in found.markdown().splitlines() if line.startswith(f"| {name} | {best} | 2 |")]
        assert ("≈" in row) == tied

    (other / "spec.toml").write_text(text.replace("seeds = [\n    0,\n    1,\n]", "seeds = [0]"))
    assert fv.runs.open(other).notes == ("spec.toml is not what was written",)
    found = fv.runs.compare([received, other], metric="test_loss")
    assert [(each.key, each.values) for each in found.differences] == [("seeds", ("2", "1"))]
    assert found.notes == tuple(f"{name}: its winner was chosen by test_top1." for name in found.names)
    assert "| seeds | 2 | 1 |" in found.markdown()
    with pytest.raises(UserError, match="1 run is given: give two or more"):
        fv.runs.compare([received])
    with pytest.raises(UserError, match="a run is given twice"):
        fv.runs.compare([received, received])
    with pytest.raises(UserError, match="no trial of own has 'val_top1': give one of train_loss"):
        fv.runs.compare([received, other], metric="val_top1")


@pytest.mark.parametrize("metric", ["seconds", "best_epoch", "train_balanced", "val_top3", "top1"])
def test_what_is_no_column_judges_no_cells(received, tmp_path, capsys, metric):
    other = shutil.copytree(received, tmp_path / "other")
    assert main(["compare", "own", str(other), "--metric", metric]) == 2
    assert f"unknown metric '{metric}'" in capsys.readouterr().err
    run = fv.runs.open(received)
    by_top3 = dataclasses.replace(
        run,
        spec=dataclasses.replace(run.spec, objective="val_top3"),
        result=dataclasses.replace(run.result, objective="val_top3"),
    )
    found = fv.runs.compare([by_top3, other])
    assert (found.result.objective, found.notes) == ("test_top1", ("own: its winner was chosen by val_top3.",))


def test_other_code_versions_and_thresholds_are_differences(received, tmp_path):
    other = shutil.copytree(received, tmp_path / "other")
    for record in (changed := records(other)):
        record["identity"]["code door_net.py:small"] = {"small": "1a"}
        record["identity"]["around"]["jax"] = "0.0.\x1b1"
    written(other, changed)
    found = fv.runs.compare([received, other])
    differences = {each.key: each.values for each in found.differences}
    assert differences.keys() == {"code door_net.py:small", "jax"}
    assert differences["jax"] == (jax.__version__, "0.0.\x1b1")
    assert len(set(differences["code door_net.py:small"])) == 2
    assert f"| jax | {jax.__version__} | 0.0.\\\\x1b1 |" in found.markdown()

    runs = []
    for threshold, devices in ((0.01, "trials"), (0.001, "batch")):
        run, given = fv.runs.open(received), {"convergence_threshold": threshold}
        spec, result = dataclasses.replace(run.spec, devices=devices, **given), dataclasses.replace(run.result, **given)
        runs.append(dataclasses.replace(run, directory=tmp_path / devices, spec=spec, result=result))
    found = fv.runs.compare(runs)
    differences = {each.key: each.values for each in found.differences}
    assert differences == {"convergence_threshold": ("0.01", "0.001"), "devices": ("trials", "batch")}
    assert "onverged at" not in found.markdown()  # by neither threshold
    assert "Converged at" in fv.runs.compare([runs[0], dataclasses.replace(runs[0], directory=received)]).markdown()


def test_frames_need_pandas(received, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="data frames need pandas: pip install"):
        fv.runs.open(received).to_frame()
