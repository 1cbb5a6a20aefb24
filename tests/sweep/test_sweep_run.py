from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.sweep import executors, load_spec, parse_spec, rerun, run
from flaxvision.sweep.results import Cell, Outcome, _verdict
from flaxvision.sweep.spec import Published
from flaxvision.sweep.trials import expand
from flaxvision.training.metrics import TABLE_METRICS
from tests.conftest import slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep with dropout, shuffling and momentum, by the default executor: its spec file and its run directory."""
    from flaxvision.sweep.__main__ import main

    folder = tmp_path_factory.mktemp("finished")
    path = folder / "varied.toml"
    path.write_text(
        """
name = "varied"
dataset = "glyphs"
model = "mlp"
seeds = 2
select = "best"
select_on = "val_loss"
[data]
limit = 128
size = 8
validation = 0.25
[sizes]
hidden = [8]
[recipe]
batch_size = 20
epochs = 3
learning_rate = 0.3
[grid]
momentum = [0.0, 0.5, 0.90]
dropout = [0.1, 3e-1]
"""
    )
    assert main([str(path), "--out", str(folder / "auto"), "--quiet", "--no-export"]) == 0
    return path, folder / "auto"


@pytest.mark.slow
def test_loop_gives_the_same_table_byte_for_byte(finished, tmp_path, command, files):
    path, auto = finished
    assert command(path, "--out", tmp_path / "loop", "--executor", "loop", "--quiet") == (0, "", "")
    assert files["table_bytes"](tmp_path / "loop") == files["table_bytes"](auto)
    assert files["without_seconds"](tmp_path / "loop") == files["without_seconds"](auto)
    for path in sorted((auto / "trials").glob("*.safetensors")):
        other = files["weights"](tmp_path / "loop" / "trials" / path.name)
        for name, tensor in files["weights"](path).items():
            np.testing.assert_array_equal(tensor, other[name])


@pytest.mark.parametrize("executor", ["threads", slow("processes")])
def test_workers_give_the_same_table_byte_for_byte(finished, tmp_path, command, files, executor):
    path, auto = finished
    assert command(path, "--out", tmp_path / "run", "--executor", executor, "--quiet") == (0, "", "")
    assert files["table_bytes"](tmp_path / "run") == files["table_bytes"](auto)


@pytest.mark.slow
def test_mnist_net_loop_and_default_are_equal(tmp_path, files, tiny):
    table = tiny(model="mnist_net", grid={"learning_rate": [0.1, 0.01]}, data={"limit": 32, "size": 28})
    del table["sizes"]
    for executor in ("loop", "auto"):
        run(parse_spec(table), tmp_path / executor, executor=executor, export=False, report=False)
    assert files["without_seconds"](tmp_path / "loop") == files["without_seconds"](tmp_path / "auto")


def test_labels_are_as_typed(finished, files):
    rows = files["table"](finished[1])
    assert [row["momentum"] for row in rows[::2]] == ["0.0", "0.5", "0.90"]
    assert [row["dropout"] for row in rows[:2]] == ["0.1", "3e-1"]


def test_table_is_that_of_the_records(finished, files):
    """Means and sample deviations recomputed from trials.jsonl by numpy."""
    records = files["trials"](finished[1])
    for row in files["table"](finished[1]):
        keys = ("momentum", "dropout")
        cell = [r for r in records if [r["cell"][key] for key in keys] == [row[key] for key in keys]]
        assert len(cell) == int(row["n"]) == 2
        for metric in TABLE_METRICS:
            values = [r["final"][metric] for r in cell]
            np.testing.assert_allclose(float(row[f"{metric}_mean"]), np.mean(values), rtol=1e-12)
            np.testing.assert_allclose(float(row[f"{metric}_std"]), np.std(values, ddof=1), rtol=1e-9, atol=1e-15)


def test_best_epoch_is_that_of_the_smallest_validation_loss(finished, files):
    records = files["trials"](finished[1])
    for record in records:
        with np.load(finished[1] / "trials" / f"{record['id']}.npz") as history:
            assert record["best_epoch"] == int(np.argmin(history["val_loss"])) + 1
            for metric, value in record["final"].items():
                assert value == float(history[metric][record["best_epoch"] - 1])
            assert history["train_loss"].shape == (3,)
            assert history["test_pairs"][:, 2].sum() == 128
    assert {record["best_epoch"] for record in records} != {3}


def test_winner(finished, files):
    """Chosen by the best mean validation accuracy; the seed nearest that mean; its weights give its numbers."""
    path, directory = finished
    order = [trial.id for trial in expand(load_spec(path))]  # of the table; the file's is that of finishing
    groups: dict[str, list[dict]] = {}
    for record in sorted(files["trials"](directory), key=lambda record: order.index(record["id"])):
        groups.setdefault(json.dumps(record["cell"]), []).append(record)
    means = {cell: np.mean([r["final"]["val_top1"] for r in group]) for cell, group in groups.items()}
    best = max(means, key=means.__getitem__)
    distances = [abs(r["final"]["val_top1"] - means[best]) for r in groups[best]]
    winner = groups[best][int(np.argmin(distances))]
    weights = directory / "winner" / "flaxvision.safetensors"
    assert weights.read_bytes() == (directory / "trials" / f"{winner['id']}.safetensors").read_bytes()
    dataset = fv.data.load("glyphs", limit=128, size=8, validation=0.25)
    metrics = fv.evaluate(fv.load_model(weights), dataset.test)
    assert metrics.top1 == winner["final"]["test_top1"]
    np.testing.assert_allclose(metrics.loss, winner["final"]["test_loss"], rtol=1e-6)


def test_rerun(finished, command, files, tmp_path):
    _, directory = finished
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    record = files["trials"](directory)[3]
    status, out, err = command("rerun", directory, record["id"][:7])
    assert (status, err) == (0, "")
    assert "equal bit for bit" in out
    assert "differs" not in out
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_rerun_of_what_a_worker_trained(tmp_path, command, files, tiny, spec_file):
    """A weight gradient of this network is summed by as many threads as there are cores."""
    table = tiny(model="strided_cnn", data={"limit": 64, "size": 28}, sizes={}, seeds=2)
    del table["sizes"]
    out = tmp_path / "run"
    assert command(spec_file(table), "--out", out, "--executor", "processes", "--quiet") == (0, "", "")
    record = files["trials"](out)[1]
    status, text, err = command("rerun", out, record["id"])
    assert (status, err) == (0, "")
    assert "equal bit for bit" in text


@pytest.mark.parametrize("tamper", ["value", "name"])
def test_rerun_of_a_tampered_record(finished, command, files, tmp_path, tamper):
    import shutil

    directory = tmp_path / "copy"
    shutil.copytree(finished[1], directory)
    record = files["trials"](directory)[0]
    path = directory / "trials" / f"{record['id']}.npz"
    with np.load(path) as history:
        arrays = dict(history)
    if tamper == "value":
        arrays["step_loss"] = np.nextafter(arrays["step_loss"], np.inf)
    else:
        arrays["extra"] = arrays["train_loss"]
    np.savez(path, **arrays)
    status, _, err = command("rerun", directory, record["id"])
    assert status == 2
    assert "its checksum is not that on record" in err
    del record["checksums"]  # as an earlier version kept it
    (directory / "trials.jsonl").write_text(json.dumps(record) + "\n")
    status, out, _ = command("rerun", directory, record["id"])
    assert status == 1
    assert "differs from the record" in out
    path.write_bytes(path.read_bytes()[:200])
    status, _, err = command("rerun", directory, record["id"])
    assert status == 2
    assert err.count("\n") == 1


SLOW = """
name = "slow"
dataset = "glyphs"
model = "mlp"
data = { limit = 64, size = 8 }
sizes = { hidden = [8] }
recipe = { epochs = 1 }
grid = { batch_size = [8, 9, 10, 11] }
"""


@pytest.mark.parametrize("executor", ["threads"])  # the others: experiments/interrupted_sweeps.py
def test_killed_run_goes_on(tmp_path, command, files, spec_file, executor):
    path, out = spec_file(SLOW), tmp_path / "killed"
    arguments = [sys.executable, "-m", "flaxvision.sweep", str(path), "--out", str(out), "--executor", executor]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = out / "trials.jsonl"
    deadline = time.monotonic() + 600
    while not (trials.exists() and b"\n" in trials.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = trials.read_bytes()
    lines = kept.count(b"\n")
    assert 1 <= lines < 4
    assert not (out / "results.csv").exists()
    kept = kept[: kept.rindex(b"\n") + 1]
    with open(trials, "wb") as file:  # a line that the kill cut short
        file.write(kept + b'{"id": "00000')

    before = kept
    status, _, err = command(path, "--out", out, "--quiet")
    assert (status, trials.read_bytes()) == (2, kept + b'{"id": "00000')
    assert "--resume" in err

    assert command(path, "--out", out, "--quiet", "--resume") == (0, "", "")
    assert trials.read_bytes().startswith(before)
    assert len(files["trials"](out)) == 4
    assert command(path, "--out", tmp_path / "whole", "--quiet") == (0, "", "")
    assert files["table_bytes"](out) == files["table_bytes"](tmp_path / "whole")
    assert files["without_seconds"](out) == files["without_seconds"](tmp_path / "whole")

    # More seeds and another value: what is there is kept.
    before = trials.read_bytes()
    more = ["--seeds", 2, "--set", "batch_size=8,14"]
    assert command(path, "--out", out, "--quiet", "--resume", *more) == (0, "", "")
    assert trials.read_bytes().startswith(before)
    assert len(files["trials"](out)) == 4 + 1 + 2
    assert [(row["batch_size"], row["n"]) for row in files["table"](out)] == [("8", "2"), ("14", "2")]


def test_pretrained_and_frozen(tmp_path, files, tiny):
    table = tiny(
        sizes={"hidden": [8, 4]},
        variants=[
            {"name": "scratch"},
            {"name": "warm", "warm_start": "pretrain"},
            {"name": "frozen", "warm_start": "pretrain", "frozen": ["linear_relu_stack.0"]},
        ],
        pretrain={"dataset": "glyphs47", "only": ["linear_relu_stack.0"], "recipe": {"epochs": 3}},
    )
    result = run(parse_spec(table), tmp_path / "run", export=False, report=False)
    pretrained = files["weights"](tmp_path / "run" / "pretrain.safetensors")
    records = {record["cell"].get("variant"): record for record in files["trials"](tmp_path / "run")}
    ended = [r["cell"].get("variant", r["stage"]) for r in files["trials"](tmp_path / "run")]
    assert sorted(ended) == ["frozen", "pretrain", "scratch", "warm"]
    assert ended.index("pretrain") < min(ended.index("warm"), ended.index("frozen"))
    weights = {
        name: files["weights"](tmp_path / "run" / "trials" / f"{r['id']}.safetensors") for name, r in records.items()
    }
    first = [name for name in pretrained if name.startswith("linear_relu_stack.0.")]
    assert len(first) == 2
    for name, tensor in pretrained.items():
        np.testing.assert_array_equal(weights[None][name], tensor)
        if name in first:
            np.testing.assert_array_equal(weights["frozen"][name], tensor)
            assert not np.array_equal(weights["warm"][name], tensor)
            assert not np.array_equal(weights["scratch"][name], tensor)
        elif tensor.shape[-1] != 47:
            assert not np.array_equal(weights["frozen"][name], tensor)
    # One epoch of four small steps: the warm start stays nearer the pretrained layer than the scratch run.
    gap = {v: np.abs(weights[v][first[1]] - pretrained[first[1]]).mean() for v in ("warm", "scratch")}
    assert gap["warm"] < gap["scratch"] / 2
    assert [cell.where["variant"] for cell in result.cells] == ["scratch", "warm", "frozen"]
    assert result.cells[0].outcomes[0].parameters == result.cells[2].outcomes[0].parameters


@pytest.mark.parametrize("executor", ["loop", "threads", slow("processes")])
def test_what_starts_pretrained_waits_for_it(tmp_path, files, tiny, executor):
    spec = parse_spec(
        tiny(
            variants=[{"name": "warm", "warm_start": "pretrain"}, {"name": "scratch"}],
            pretrain={"only": ["linear_relu_stack.0"], "recipe": {"learning_rate": 0.01}},
        )
    )

    def weights(directory):
        return {path.name: path.read_bytes() for path in (directory / "trials").glob("*.safetensors")}

    out = tmp_path / executor
    run(spec, tmp_path / "whole", executor="loop", export=False, report=False)
    run(spec, out, executor=executor, export=False, report=False)
    whole = weights(out)
    assert len(whole) == 3
    assert whole == weights(tmp_path / "whole")

    # Killed when the pretraining had ended and nothing else: its weights are not yet where others look for them.
    lines = (out / "trials.jsonl").read_text().splitlines(keepends=True)
    (out / "trials.jsonl").write_text("".join(line for line in lines if '"stage": "pretrain"' in line))
    (out / "pretrain.safetensors").unlink()
    for record in files["trials"](tmp_path / "whole")[1:]:
        (out / "trials" / f"{record['id']}.safetensors").unlink()
    run(spec, out, executor=executor, resume=True, export=False, report=False)
    assert weights(out) == whole


@pytest.mark.parametrize("last", ["pretraining", "scratch"])
def test_what_does_not_start_pretrained_does_not_wait(last, monkeypatch):
    began = {name: threading.Event() for name in ("pretraining", "scratch", "warm")}
    waits_for = {"pretraining": "scratch", "scratch": "pretraining"}

    @dataclasses.dataclass
    class Fake:
        name: str

        files = types.SimpleNamespace(pretrained=Path(__file__))  # a file that exists
        pretrains = property(lambda self: self.name == "pretraining")
        starts_pretrained = property(lambda self: self.name == "warm")

        def run(self, callbacks):
            began[self.name].set()
            if self.name in waits_for:
                assert began[waits_for[self.name]].wait(60)
            return []

    monkeypatch.setattr(executors, "cores", lambda: [0, 1])
    cohorts = [Fake("warm"), *map(Fake, sorted(waits_for, key=lambda name: name == last))]
    for cohort, _ in executors.execute(cohorts, "threads", lambda cohort: ()):
        if cohort.pretrains:
            time.sleep(0.3)
            assert not began["warm"].is_set()  # what it starts from is not yet in its place
    assert began["warm"].is_set()


def test_final_stage(tmp_path, files, tiny, command, spec_file):
    table = tiny(
        grid={"learning_rate": [1e-6, 0.5]},
        select="best",
        select_on="val_loss",
        objective="val_loss",
        data={"validation": 0.5},
        recipe={"epochs": 2},
        final={"data": {"validation": 0}, "recipe": {"epochs": 3, "select_on": "test_loss"}, "seeds": 3},
        published=[{"metric": "test_top1", "value": 0.5, "tolerance": 1.0, "source": "made up", "stage": "final"}],
    )
    path, out = spec_file(table), tmp_path / "run"
    assert command(path, "--out", out, "--quiet") == (0, "", "")
    records = files["trials"](out)
    finals = sorted((r for r in records if r["stage"] == "final"), key=lambda record: record["seed"])
    assert len(records) == 2 + 3
    assert [record["seed"] for record in finals] == [0, 1, 2]
    for record in finals:
        assert record["cell"] == {"learning_rate": "0.5"}
        assert record["config"]["epochs"] == 3
        assert "validation" not in record["config"]
        assert not any(name.startswith("val_") for name in record["final"])
        with np.load(out / "trials" / f"{record['id']}.npz") as history:
            # All 128 images train: twice as many as in the sweep's stage.
            assert len(history["step_loss"]) == 3 * (128 // 32)
            assert record["best_epoch"] == int(np.argmin(history["test_loss"])) + 1
    rows = files["table"](out)
    assert len(rows) == 3
    assert rows[-1]["n"] == "3"
    assert rows[-1]["val_loss_mean"] == ""
    losses = [record["final"]["test_loss"] for record in finals]
    nearest = finals[int(np.argmin(np.abs(np.array(losses) - np.mean(losses))))]
    weights = out / "trials" / f"{nearest['id']}.safetensors"
    assert (out / "winner" / "flaxvision.safetensors").read_bytes() == weights.read_bytes()

    # A second run over the same folder trains nothing and leaves the same table.
    before, csv = (out / "trials.jsonl").read_bytes(), (out / "results.csv").read_bytes()
    assert command(path, "--out", out, "--quiet", "--resume") == (0, "", "")
    assert (out / "trials.jsonl").read_bytes() == before
    assert (out / "results.csv").read_bytes() == csv


@pytest.mark.slow
def test_final_stage_without_a_model_of_the_sweeps_own(tmp_path, tiny):
    table = tiny(variants=[{"name": "a", "model": "mlp"}, {"name": "b", "model": "linear"}], final={})
    del table["model"], table["sizes"]
    result = run(parse_spec(table), tmp_path / "run", export=False, report=False)
    assert [cell.stage for cell in result.cells] == ["sweep", "sweep", "final"]


@pytest.mark.parametrize("metric", ["test_top1", "test_loss"])
def test_a_difference_that_equals_its_tolerance_is_within(metric):
    """Whatever is rounded: 0.86 - 0.85 is more than 0.01 in binary."""
    for ours, value, tolerance in itertools.product(range(1, 100, 7), range(1, 100, 9), range(0, 60, 11)):
        cell = Cell("sweep", {}, (Outcome("a", "sweep", (), 0, "ok", {}, final={metric: ours / 100}),), ())
        verdict = _verdict(Published({}, metric, value / 100, tolerance / 100, "a paper", "sweep"), cell)
        assert verdict.verdict == ("within" if abs(ours - value) <= tolerance else "outside")
    cell = Cell("sweep", {}, (Outcome("a", "sweep", (), 0, "ok", {}, parameters=20_035_018),), ())
    published = Published({}, "parameters", 20_035_019, 0, "a paper", "sweep")
    assert _verdict(published, cell).verdict == "outside"


def test_verdicts(tmp_path, tiny):
    def entry(where, metric, value, tolerance):
        return {"where": where, "metric": metric, "value": value, "tolerance": tolerance, "source": "made up"}

    published = [
        entry({"learning_rate": 0.1}, "test_top1", 2.0, 0.1),
        entry({"learning_rate": 0.1}, "parameters", 610, 0),  # 64 * 8 + 8 + 8 * 10 + 10
        entry({}, "test_top1", 0.5, 0.5),
        entry({"learning_rate": "1e-2"}, "val_top1", 0.5, 0.5),
    ]
    from flaxvision.sweep.spec import Typed

    table = tiny(grid={"learning_rate": [0.1, Typed("1e-2")]}, published=published)
    first, second = run(parse_spec(table), tmp_path / "run", export=False, report=False).cells
    assert [v.verdict for v in first.verdicts] == ["outside", "within", "within"]
    assert [v.verdict for v in second.verdicts] == ["within", "missing"]


def test_diverged_trial(tmp_path, files, tiny):
    table = tiny(grid={"learning_rate": [0.1, 1e30]}, seeds=2, recipe={"epochs": 2}, convergence_threshold=0.5)
    result = run(parse_spec(table), tmp_path / "run", export=False, report=False)
    good, bad = result.cells
    assert (good.diverged, bad.diverged) == (0, 2)
    for record in files["trials"](tmp_path / "run"):  # its parser refuses NaN
        diverged = record["cell"]["learning_rate"] == "1e+30"
        assert record["status"] == ("diverged" if diverged else "ok")
        assert (record["final"]["train_loss"] is None) == diverged
        assert (record["final"]["test_top1"] is None) == diverged  # outputs that are no numbers have no arg max
    assert bad.mean("test_top1") is None
    assert bad.mean("train_loss") is None
    assert result.winner.status == "ok"


def test_a_last_update_that_diverges_is_seen(tmp_path, tiny):
    """The losses of training are those before each update: with one they are all right."""
    table = tiny(seeds=2, recipe={"steps": 1, "learning_rate": 1e38, "batch_size": 32})
    del table["recipe"]["epochs"]
    result = run(parse_spec(table), tmp_path / "run", export=False, report=False)
    (cell,) = result.cells
    assert all(np.isfinite(outcome.history["train_loss"]).all() for outcome in cell.outcomes)
    assert (cell.diverged, cell.mean("test_top1"), result.winner) == (2, None, None)
    assert cell.mean("train_top1") is not None


MODULE = """
def grow(build, outputs, width=4, depth=1):
    for layer in range(depth):
        build.linear(f"body.{layer}", width)
        build.activation(f"act.{layer}", "relu")
    build.linear("head", outputs)
"""


def test_model_of_ones_own(tmp_path, monkeypatch, command, spec_file, tiny, files):
    (tmp_path / "sweep_test_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    table = tiny(model="sweep_test_networks:grow", grid={"width": [4, 6]})
    table["sizes"] = {"depth": 2}
    status, _, err = command(spec_file(table), "--out", tmp_path / "run", "--quiet")
    assert (status, err) == (0, "")
    rows = files["table"](tmp_path / "run")
    expected = [64 * w + w + w * w + w + w * 10 + 10 for w in (4, 6)]
    assert [int(row["parameters"]) for row in rows] == expected
    assert command(spec_file(table), "--out", tmp_path / "run", "--resume", "--quiet")[0] == 0


@pytest.mark.parametrize("source", ["run", "file"])
def test_init_from(finished, tmp_path, source, tiny, files):
    """Warm-started with no learning rate to speak of, a network scores what its source scored."""
    weights = finished[1] / "winner" / "flaxvision.safetensors"
    table = tiny(
        init={"from": str(finished[1] if source == "run" else weights)},
        data={"validation": 0.25},
        sizes={"dropout": 0.1},
        recipe={"learning_rate": 1e-12},
    )
    table["objective"] = "test_top1"
    result = run(parse_spec(table), tmp_path / "run", export=False, report=False)
    winner = fv.load_model(weights)
    dataset = fv.data.load("glyphs", limit=128, size=8)
    assert result.winner.final["test_top1"] == fv.evaluate(winner, dataset.test).top1
    for name, tensor in files["weights"](tmp_path / "run" / "winner" / "flaxvision.safetensors").items():
        np.testing.assert_allclose(tensor, files["weights"](weights)[name], atol=1e-6)


def test_init_only(finished, tmp_path, tiny, files):
    table = tiny(
        init={"from": str(finished[1]), "only": ["linear_relu_stack.0"]},
        sizes={"dropout": 0.1},
        recipe={"learning_rate": 1e-12},
    )
    run(parse_spec(table), tmp_path / "run", export=False, report=False)
    ours, theirs = (files["weights"](d / "winner" / "flaxvision.safetensors") for d in (tmp_path / "run", finished[1]))
    same = {name.rpartition(".")[0] for name in ours if np.allclose(ours[name], theirs[name], atol=1e-6)}
    assert "linear_relu_stack.0" in same
    assert not any(
        np.allclose(ours[name], theirs[name], atol=1e-6)
        for name in ours
        if name.endswith("kernel") and not name.startswith("linear_relu_stack.0")
    )


def test_resume_needs_the_same_sweep(finished, tmp_path, command):
    path, directory = finished
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    for change in (["--set", "epochs=4"], ["--dataset", "glyphs47"], ["--set", "activation=relu,tanh"]):
        status, _, err = command(path, "--out", directory, "--resume", *change)
        assert status == 2
        assert "another sweep" in err
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


def test_from_python(tmp_path):
    with pytest.raises(UserError, match="did you mean 'loop'"):
        run(load_spec("demo"), tmp_path / "run", executor="lop")
    with pytest.raises(UserError, match="is not a run directory"):
        rerun(Path(tmp_path), "abc")
    assert not list(tmp_path.iterdir())
