"""Trials, workers, figures and exports that fail: what is ready stays, and it is said what is not."""

from __future__ import annotations

import csv
import io
import os
import pickle
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

import flaxvision as fv
from flaxvision.errors import UserError
from flaxvision.report import report_html, results_csv, results_markdown
from flaxvision.report.formats import best_cells
from flaxvision.report.tables import Section
from flaxvision.sweep import parse_spec, run, workers
from flaxvision.sweep.__main__ import main
from flaxvision.sweep.executors import check_functions, out_of_memory, reason
from flaxvision.sweep.keeping import own_functions
from flaxvision.sweep.results import Cell, Outcome, SweepResult, best_cell, nearest_to_mean
from flaxvision.sweep.trials import expand
from tests.conftest import slow

pytestmark = pytest.mark.quick

NETWORKS = """
import os
import signal
import sys
import jax
from flax import nnx

class Fails(nnx.Module):
    def __init__(self, how):
        self.how = how
    def __call__(self, x, *rest):
        if x.shape[0] == 50 and isinstance(x, jax.core.Tracer):  # the batch size: in training only
            if self.how == "raise":
                raise RuntimeError("cannot be trained")
            if self.how == "memory":
                raise MemoryError
            if self.how == "interrupt":
                raise KeyboardInterrupt
            if self.how == "kill" and sys.argv[0] == "-c":  # in a worker
                os.kill(os.getpid(), signal.SIGKILL)
        return x

def small(build, outputs, how="none", width=4):
    build.flatten("flat")
    build.linear("hidden", width)
    if how != "none":
        build.layer("fails", Fails(how))
    build.linear("out", outputs)
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A module of networks that fail while they are trained; its name."""
    name = f"networks_{os.getpid()}_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def table(networks: str, **changes) -> dict:
    return {
        "name": "fails",
        "dataset": "glyphs",
        "model": f"{networks}:small",
        "data": {"limit": 100, "size": 8},
        "recipe": {"batch_size": 50, "epochs": 1},
        "grid": {"how": ["none", "raise", "memory"]},
        **changes,
    }


@pytest.mark.parametrize("executor", ["loop", slow("threads"), "vmap"])
def test_a_trial_that_raises_costs_no_other(networks, tmp_path, files, spec_file, capsys, executor):
    """Alone, in a thread, and in a cohort with a sound neighbour, which is trained after all."""
    path, out = spec_file(table(networks)), tmp_path / "run"
    assert main([str(path), "--out", str(out), "--executor", executor, "--no-export", "--quiet"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "RuntimeError: cannot be trained (networks_" in err
    records = {record["cell"]["how"]: record for record in files["trials"](out)}
    assert {how: record["status"] for how, record in records.items()} == {
        "none": "ok", "raise": "failed", "memory": "failed",
    }  # fmt: skip
    assert records["memory"]["message"].startswith("out of memory")
    assert "out of memory" not in records["raise"]["message"]
    rows = {row["how"]: row for row in files["table"](out)}
    assert [rows[how]["failed"] for how in ("none", "raise", "memory")] == ["0", "1", "1"]
    assert rows["raise"]["test_top1_mean"] == ""
    assert "cannot be trained" in (out / "report.html").read_text(encoding="utf-8")


def test_a_failed_trial_is_tried_again(networks, tmp_path, files):
    spec, out = parse_spec(table(networks, grid={"how": ["raise"]}, seeds=2)), tmp_path / "run"
    result = run(spec, out, executor="loop", export=False)
    assert (result.winner, len(result.failures)) == (None, 2)
    assert not (out / "winner").exists()
    assert "No winner" in (out / "report.html").read_text(encoding="utf-8")
    again = run(spec, out, executor="loop", export=True, resume=True)
    assert (again.winner, len(again.failures), again.problems) == (None, 2, ())
    with pytest.raises(UserError, match="matches 0 trials"):
        fv.sweep.rerun(out, result.failures[0].id)


def test_an_interrupt_is_no_failure_of_a_trial(networks, tmp_path, spec_file, capsys, monkeypatch):
    """Its message names the folder and what to type; that leads on, and not back to itself."""
    monkeypatch.chdir(tmp_path)
    path = spec_file(table(networks, grid={"how": ["none", "interrupt"]}))
    assert main([str(path), "--executor", "loop", "--no-export"]) == 130
    (out,) = (tmp_path / "runs").iterdir()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"interrupted; the trials that ended are kept in runs/{out.name}: to continue, type ")
    assert last.endswith(f" -m flaxvision resume runs/{out.name} --no-export")


def test_a_pretraining_that_fails_is_named(networks, tmp_path):
    grid = {"start": [{"name": "warm", "warm_start": "pretrain"}, {"name": "cold"}]}
    spec = parse_spec(table(networks, grid=grid, pretrain={"sizes": {"how": "raise"}}))
    result = run(spec, tmp_path / "run", executor="loop", export=False, report=False)
    assert [str(problem).partition(":")[0] for problem in result.problems] == ["pretraining"]
    assert [(cell.where["start"], cell.failed) for cell in result.cells] == [("warm", 1), ("cold", 0)]
    assert "pretraining" in result.failures[0].message
    assert dict(result.winner.cell) == {"start": "cold"}


@pytest.mark.slow
def test_workers_import_no_script_and_one_that_dies_costs_no_other(networks, tmp_path):
    """A script on standard input, without a guard, whose networks lie beside it; one of them kills its worker."""
    spec = table(networks, grid={"how": ["none", "kill", "raise"]})
    code = f"""
    import sys
    sys.path.insert(0, {str(tmp_path)!r})
    import flaxvision as fv
    print("imported")
    result = fv.sweep.run(fv.sweep.parse_spec({spec!r}), "run", executor="processes", export=False, report=False)
    print(dict(result.winner.cell), *(outcome.message for outcome in result.failures), sep="|")
    """
    done = subprocess.run(
        [sys.executable, "-"], input=textwrap.dedent(code), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "imported",
        "{'how': 'none'}|the worker process was ended by SIGKILL"
        f"|RuntimeError: cannot be trained ({networks}.py, line 14)",
    ]


@pytest.mark.parametrize(
    "changes", [{"model": "__main__:net"}, {"model": "torch:__main__:Net"}, {"recipe": {"optimizer": "__main__:mine"}}]
)
def test_functions_of_the_script_itself_are_refused_before_anything_is_written(tiny, changes):
    names = own_functions(expand(parse_spec(tiny(**{"sizes": {}, **changes}))))
    check_functions(names, "threads")
    for executor in ("processes", "ray"):
        with pytest.raises(UserError, match="put it into a file of its own"):
            check_functions(["networks:net", *names], executor)


def test_a_worker_that_does_not_start_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(workers, "_START", "raise SystemExit(7)")
    with pytest.raises(UserError, match=r"do not start here: .* exit status 7; use --executor threads"):
        workers.Worker(0).run(None, print)  # found when it is made, or when it is used
    monkeypatch.setattr(workers.multiprocessing.spawn, "get_executable", lambda: "/no/such/python")
    with pytest.raises(UserError, match="cannot be started"):
        workers.Worker(0)


@pytest.mark.parametrize("told", [0, 1, pytest.param(2, marks=pytest.mark.slow)])  # of what it is to be told
def test_a_worker_whose_sweep_was_killed_ends_without_a_word(told):
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", workers._START], stdin=pipe, stdout=pipe, stderr=pipe) as worker:
        worker.stdout.close()
        worker.stdin.write(pickle.dumps(sys.path))
        if told:
            worker.stdin.write(pickle.dumps((min(os.sched_getaffinity(0)), workers.surroundings()))[: 20 * 10**told])
        worker.stdin.close()
        said = worker.stderr.read()
    assert (worker.returncode, said) == (1, b"")


def test_memory_is_named_only_where_it_was_the_cause():
    """What Python, NumPy and XLA say of memory, and what says other things."""
    from jax.errors import JaxRuntimeError

    xla = JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3600000000 bytes.")
    wrapped = UserError("model 'mlp' cannot be built")
    wrapped.__cause__ = xla
    numpy_error = np._core._exceptions._ArrayMemoryError((9, 9), np.dtype("f4"))
    assert all(map(out_of_memory, (MemoryError(), xla, wrapped, numpy_error)))
    assert not any(map(out_of_memory, (RuntimeError("no kernel"), KeyError("memory"), UserError("x"))))
    assert reason(KeyError("width")) == "KeyError: 'width'"
    assert len(reason(ValueError("x" * 10_000))) < 500
    assert "\n" not in reason(ValueError("a\nb"))
    assert "memory" not in workers.ending(-9) + workers.ending(-15, memory=True) + workers.ending(1, memory=True)
    assert "out of memory" in workers.ending(-9, memory=True)


def test_what_cannot_be_handed_to_a_worker_is_told_in_one_line():
    worker = workers.Worker.__new__(workers.Worker)
    worker.process = types.SimpleNamespace(stdin=io.BytesIO())
    with pytest.raises(UserError, match="executor 'threads'"):
        worker._send(lambda: None)
    worker._send({"a": 1})
    assert pickle.loads(worker.process.stdin.getvalue()) == {"a": 1}


def broken(*_, **__):
    raise RuntimeError("no font")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of one trial, to be resumed with other steps failing."""
    spec = parse_spec(
        {
            "name": "one", "dataset": "glyphs", "model": "mlp", "data": {"limit": 64, "size": 8},
            "sizes": {"hidden": [4]}, "recipe": {"epochs": 1}, "grid": {"batch_size": [32]},
        }
    )  # fmt: skip
    out = tmp_path_factory.mktemp("trained") / "run"
    run(spec, out, executor="loop", export=False, report=False)
    return spec, out


@pytest.mark.parametrize(
    ("target", "what", "left"),
    [
        ("flaxvision.report.figures.draw_curves", "figure loss", {"results.csv", "table.svg", "report.html"}),
        ("flaxvision.report.figures.draw_overview", "figure table", {"results.csv", "loss.svg", "report.html"}),
        ("flaxvision.report.figures.drawings", "figures", {"results.csv", "results.tex", "report.html"}),
        ("flaxvision.report.writer.results_latex", "results.tex", {"results.csv", "results.md", "report.html"}),
        ("flaxvision.report.writer.results_csv", "results.csv", {"results.md", "table.png", "report.html"}),
        ("flaxvision.report.writer.report_html", "report.html", {"results.csv", "table.png"}),
        ("export.export_winner", "export: nothing is written", {"results.csv", "table.png", "report.html"}),
        (
            "export._winner.compare",
            "export: winner/parity.md",
            {"winner/model.onnx", "winner/README.md", "report.html"},
        ),
        ("export._winner.to_onnx", "export: winner/network.onnx", {"winner/torch.safetensors", "winner/README.md"}),
    ],
)
def test_each_step_fails_alone(trained, monkeypatch, target, what, left):
    spec, out = trained
    for path in out.glob("[rtlacw]*.*"):
        if path.name != "trials.jsonl":
            path.unlink()
    monkeypatch.setattr(target, broken)
    result = run(spec, out, resume=True, export=target.startswith("export"))
    assert str(result.problems[0]).startswith(f"{what}: RuntimeError: no font (test_sweep_survives.py, line ")
    assert left <= {path.relative_to(out).as_posix() for path in out.rglob("*")}
    if "report.html" in left:
        assert f"{what}: RuntimeError: no font" in (out / "report.html").read_text(encoding="utf-8")


def test_what_follows_a_run_adds_to_its_page_or_fails_alone(trained):
    spec, out = trained

    def count(result, dataset, failed):
        failed("half of it", ValueError("odd"))
        return [Section("Counted <twice>", ("split", "images"), (("test & more", str(len(dataset.test))),))]

    result = run(spec, out, resume=True, export=False, after=[count, broken])
    assert [problem.what for problem in result.problems] == ["half of it", "broken"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Counted &lt;twice&gt;</h2>" in page
    assert "<td>test &amp; more</td><td>64</td>" in page
    assert "half of it: ValueError: odd" in page


def outcome(cell: str, seed: int, value: float | None, status: str = "ok") -> Outcome:
    failed = status == "failed"
    final = {} if failed else {"test_top1": value, "train_loss": 1.0}
    return Outcome(
        f"{cell}{seed}", "sweep", (("rate", cell),), seed, status, {}, 0 if failed else 7, final, 0 if failed else 1,
        None, 0.0 if failed else 1.0, {}, "no luck" if failed else "",
    )  # fmt: skip


def made(**cells: list[tuple[float | None, str]]) -> list[Cell]:
    return [
        Cell("sweep", {"rate": name}, tuple(outcome(name, i, *pair) for i, pair in enumerate(pairs)), ())
        for name, pairs in cells.items()
    ]


OK, BAD, GONE = (0.5, "ok"), (0.9, "diverged"), (None, "failed")


@pytest.mark.parametrize(
    ("cells", "best"),
    [
        ({"a": [(0.9, "ok"), GONE], "b": [OK, OK]}, "b"),
        ({"a": [(0.9, "ok"), BAD], "b": [OK, OK]}, "b"),
        ({"a": [(0.9, "ok"), GONE, GONE], "b": [OK, OK, BAD]}, "b"),  # the smaller share is bad
        ({"a": [BAD, BAD], "b": [(0.1, "ok"), GONE]}, "b"),
        ({"a": [GONE], "b": [BAD]}, None),
    ],
)
def test_no_cell_with_failed_or_diverged_seeds_beats_one_without(cells, best, tmp_path):
    rows = made(**cells)
    chosen = best_cell(rows, "test_top1")
    winner = chosen and nearest_to_mean(chosen, "test_top1")
    result = SweepResult("x", "x", "", ("rate",), tuple(rows), "test_top1", winner, (), {"data sets": {}}, tmp_path)
    assert (chosen.where["rate"] if chosen else None) == best
    assert winner is None or winner.status == "ok"
    assert [cell.where["rate"] for cell in best_cells(result, "test_top1")] == ([best] if best else [])
    assert ("No winner" in report_html(result)) == (best is None)
    first = next(csv.DictReader(io.StringIO(results_csv(result))))
    assert (int(first["n"]), int(first["failed"])) == (rows[0].n, rows[0].failed)
    assert ("Seeds that failed" in results_markdown(result)) == any(cell.failed for cell in rows)


def test_a_whole_sweep_that_diverges_has_no_winner(tmp_path, capsys, spec_file, tiny):
    path = spec_file(tiny(recipe={"learning_rate": 1e30, "pixels": "raw", "epochs": 2}, seeds=2))
    status = main([str(path), "--out", str(tmp_path / "run"), "--quiet"])
    assert (status, capsys.readouterr().err) == (3, "no winner: every trial diverged or failed\n")
    assert (tmp_path / "run" / "results.csv").exists()
    assert not (tmp_path / "run" / "winner").exists()
