"""A sweep that was killed goes on within its trials, to the table of one that never was, to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxvision import runtime
from flaxvision.errors import UserError
from flaxvision.identity import differences, switches
from flaxvision.report import results_csv
from flaxvision.sweep import parse_spec, run
from flaxvision.sweep import rerun as rerun_trial
from flaxvision.sweep.__main__ import main
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.progress import Failures, Watcher
from flaxvision.sweep.store import read_records, usable
from tests.conftest import slow

NOW = 1e-9


class Killer(Watcher):
    """Ends the sweep at so many progress reports, or never; keeps what is said."""

    def __init__(self, reports: float = float("inf")):
        self.left, self.said = reports, []

    def moved(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        self.said.append(line)


def spec(**changes):
    table = {
        "name": "resumed", "dataset": "glyphs", "model": "mlp", "data": {"limit": 70, "size": 8},
        "sizes": {"hidden": [4]}, "recipe": {"batch_size": 32, "epochs": 3, "momentum": 0.9}, "seeds": 2,
        "grid": {"learning_rate": [0.1]},
    }  # fmt: skip
    return parse_spec(table | changes)


def go(out: Path, reports: float = float("inf"), what=None, **options) -> list[str]:
    """What a sweep says until it is over, or ended after so many reports."""
    watch = Killer(reports)
    options = {"executor": "loop", "checkpoint_every": NOW, "report": False, "export": False, **options}
    try:
        result = run(what or spec(), out, watch=watch, resume=out.exists(), **options)
    except KeyboardInterrupt:
        assert any((out / "checkpoints").iterdir())
    else:
        assert not (out / "checkpoints").exists()
        (out / "results.csv").write_text(results_csv(result))
    return watch.said


def equal(one: Path, other: Path, files) -> bool:
    assert files["table_bytes"](one) == files["table_bytes"](other)
    assert files["without_seconds"](one) == files["without_seconds"](other)
    for path in (one / "trials").iterdir():
        read = files["weights"] if path.suffix == ".safetensors" else np.load
        here, there = read(path), read(other / "trials" / path.name)
        for name in here:
            np.testing.assert_array_equal(here[name], there[name], err_msg=f"{path.name} {name}")
    return True


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was never ended, by executor."""
    made: dict[str, Path] = {}

    def make(executor: str) -> Path:
        if executor not in made:
            made[executor] = tmp_path_factory.mktemp("straight") / executor
            go(made[executor], executor=executor)
        return made[executor]

    return make


@pytest.mark.parametrize("executor", ["loop", "unroll", slow("vmap")])
def test_ended_at_any_moment(tmp_path, files, straight, executor):
    """Within epochs, and between trials; what trained together goes on together."""
    out, said = tmp_path / "run", []
    for reports in (2, 4, 3):
        said += go(out, reports, executor=executor)
    said += go(out, executor=executor)
    assert len(said) == 3
    subject = "trial" if executor == "loop" else "the cohort of trials"
    assert all(line.startswith(subject) and " goes on from epoch " in line for line in said)
    assert equal(out, straight(executor), files)


def test_the_executor_and_its_cohorts_are_those_of_before(tmp_path, files):
    """More seeds, and "auto", which would choose by what is left."""
    out, other = tmp_path / "run", tmp_path / "straight"
    go(out, 3, executor="unroll")
    said = go(out, what=spec(seeds=3), executor="auto")
    assert [line.partition(" goes")[0].count(",") for line in said] == [1]
    assert json.loads((out / "arrangement.json").read_text())["sweep"]["executor"] == "unroll"
    go(other, what=spec(seeds=3))
    assert equal(out, other, files)


def test_another_executor_and_other_cores_begin_anew(tmp_path, files, straight, monkeypatch):
    out = tmp_path / "run"
    go(out, 3, executor="unroll")
    (said,) = go(out, 3, executor="loop")
    assert said.startswith("the cohort of trials ")
    assert said.endswith(" begins anew: its cohort has changed")
    with monkeypatch.context() as patched:
        patched.setattr("flaxvision.sweep.work.cores", lambda: [0] * 99)
        (said,) = go(out, 4)
    assert " begins anew: the checkpoint is of something else: cores was " in said
    assert said.endswith("is 99")
    (said,) = go(out)
    assert " begins anew: the checkpoint is of something else: cores was 99, is " in said
    assert equal(out, straight("loop"), files)


def test_a_damaged_checkpoint_and_arrangement_are_no_error(tmp_path, files, straight, capsys):
    out = tmp_path / "run"
    go(out, 3)
    for path in (out / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff")
    (out / "arrangement.json").write_text("{")
    (said,) = go(out)
    assert said.endswith(" begins anew: the checkpoint is damaged")
    assert equal(out, straight("loop"), files)
    Failures().note(said)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("suffix", "damage", "why"),
    [
        ("safetensors", lambda path: path.unlink(), "is gone"),
        ("safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
        ("npz", lambda path: path.unlink(), "is gone"),
        ("npz", lambda path: path.write_bytes(path.read_bytes()[:300]), "is damaged"),
        ("npz", lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" * 90 + path.read_bytes()[150:]), "is"),
    ],
)
def test_a_trial_whose_files_are_gone_is_trained_again(tmp_path, files, straight, suffix, damage, why):
    out = tmp_path / "run"
    subprocess.run(["cp", "-r", straight("loop"), out], check=True)
    record = files["trials"](out)[1]
    damage(out / "trials" / f"{record['id']}.{suffix}")
    watch = Killer()
    result = run(spec(), out, executor="loop", resume=True, export=False, report=False, watch=watch)
    (note,) = result.provenance["notes"]
    assert note.startswith(f"trial {record['id']} is trained again: {record['id']}.{suffix} {why}")
    assert watch.said == [note]
    assert [each["id"] for each in files["trials"](out)].count(record["id"]) == 2
    assert results_csv(result).count("\n") == 2
    assert files["without_seconds"](out)[-1] in files["without_seconds"](straight("loop"))
    assert usable(read_records(out), RunFiles(out)) == (read_records(out), [])  # of two records the newer counts
    if (suffix, why) == ("safetensors", "is gone"):
        assert rerun_trial(out, record["id"]).equal


@pytest.mark.slow
def test_a_run_that_was_moved_goes_on(tmp_path, files):
    """With weights that trials start from in it; and its trials can be trained again."""
    grid = {"start": [{"name": "warm", "warm_start": "pretrain"}, {"name": "cold"}]}
    what = spec(seeds=1, grid=grid, pretrain={"recipe": {"epochs": 1}}, final={"seeds": 1})
    first, moved, other = tmp_path / "run", tmp_path / "elsewhere" / "moved", tmp_path / "straight"
    go(first, 14, what)
    moved.parent.mkdir()
    first.rename(moved)
    (said,) = go(moved, what=what)
    assert " goes on from epoch " in said
    go(other, what=what)
    assert equal(moved, other, files)
    moved.rename(tmp_path / "again")
    warm = next(record for record in files["trials"](tmp_path / "again") if record["cell"] == {"start": "warm"})
    assert rerun_trial(tmp_path / "again", warm["id"]).equal


@pytest.mark.slow
def test_a_loss_of_power(tmp_path, files, straight):
    """Any file cut short, or ending in zeros as where a file system had its size before its content."""
    killed = tmp_path / "killed"
    go(killed, 14)
    assert len(files["trials"](killed)) == 1
    newest = max(kept(killed), key=lambda path: int(path.parent.name)).parent
    for path in [*killed.glob("*.json*"), *killed.glob("trials/*"), *filter(Path.is_file, newest.rglob("*"))]:
        for fill in (b"", b"\0") if newest not in path.parents else (b"\0",):
            out = tmp_path / "run"
            shutil.copytree(killed, out)
            content = path.read_bytes()
            half = len(content) // 2
            (out / path.relative_to(killed)).write_bytes(content[:half] + fill * (len(content) - half))
            go(out)
            assert files["table_bytes"](out) == files["table_bytes"](straight("loop")), path
            for weights in (out / "trials").glob("*.safetensors"):
                assert weights.read_bytes() == (straight("loop") / "trials" / weights.name).read_bytes(), path
            shutil.rmtree(out)


def test_a_changed_threshold_is_another_sweep(tmp_path, straight):
    with pytest.raises(UserError, match=r"another sweep: convergence_threshold was not given, is 0.01"):
        run(spec(convergence_threshold=0.01), straight("loop"), resume=True)


@pytest.mark.parametrize("given", ["-1", "soon", "nan"])
def test_what_is_no_interval(given, tmp_path, capsys):
    assert main(["demo", "--checkpoint-every", given, "--out", str(tmp_path / "run")]) == 2
    assert "--checkpoint-every" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    if given != "soon":
        with pytest.raises(UserError, match=r"checkpoint_every is .*: give seconds, 0 or more"):
            run(spec(), tmp_path / "run", checkpoint_every=float(given))


def test_identities_are_compared_as_json_gives_them_back():
    one = {"layers": [{"kernel": (3, 3), 1: [{"a": (1,)}]}]}
    assert differences(one, json.loads(json.dumps(one))) == []
    assert differences(one, {"layers": [{"kernel": (3, 4), 1: [{"a": (1,)}]}]}) != []


def test_workers_compute_where_and_as_the_script_does():
    with jax.numpy_rank_promotion("warn"):
        settings = runtime.handed_on()
    assert settings["jax_numpy_rank_promotion"] == "warn"
    assert "jax_platforms" in settings
    assert switches().keys() < settings.keys() == {name for name in runtime.SWITCHES if name in settings}
    before = runtime.handed_on()
    runtime.hand_on(settings)
    assert jax.config.jax_numpy_rank_promotion == "warn"
    runtime.hand_on(before)
    assert runtime.handed_on() == before


WORDS = "-m flaxvision.sweep demo --set learning_rate=0.1 --epochs 80 --limit 3000 --no-export --checkpoint-every 0.3"


def command(out: Path, executor: str, *more: str) -> list[str]:
    return [sys.executable, *WORDS.split(), "--seeds", "2", "--executor", executor, "--out", str(out), *more]


def until(condition, seconds: float = 120) -> bool:
    """Whether something comes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def kept(out: Path) -> list[Path]:
    return list(out.glob("checkpoints/*/*/checksum"))


@pytest.mark.slow
def test_tasks_of_ray_go_on(tmp_path, files):
    """As those of the other executors do in experiments/interrupted_sweeps.py."""
    pytest.importorskip("ray")
    executor = "ray"
    out, other = tmp_path / "run", tmp_path / "straight"
    with subprocess.Popen(command(out, executor), stderr=subprocess.DEVNULL) as job:
        assert until(lambda: kept(out))
        job.send_signal(signal.SIGKILL)
    assert until(lambda: not children(job.pid))
    assert not (out / "results.csv").exists()
    done = subprocess.run(command(out, executor, "--resume"), capture_output=True, text=True, check=False)
    assert (done.returncode, " goes on from epoch " in done.stderr) == (0, True), done.stderr
    assert not (out / "checkpoints").exists()
    subprocess.run(command(other, executor), stderr=subprocess.DEVNULL, check=True)
    assert equal(out, other, files)


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_worker_killed_by_the_kernel_costs_no_other_trial(tmp_path, files):
    """As for want of memory: its trial is recorded as failed, the others go on, and it goes on when resumed."""
    out = tmp_path / "run"
    words = command(out, "processes")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        assert until(lambda: kept(out))
        (victim,) = {path.parents[1].name for path in kept(out)[:1]}
        workers = children(job.pid)
        assert workers
        os.kill(workers[0], signal.SIGKILL)
        _, said = job.communicate()
    assert job.returncode == 3, said
    assert "failed: the worker process was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert sorted(record["status"] for record in files["trials"](out)) == ["failed", "ok"]
    assert victim in {record["id"] for record in files["trials"](out)}
    done = subprocess.run([*words, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["failed"] for row in files["table"](out)} <= {"", "0"}
