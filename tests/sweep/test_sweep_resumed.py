"""A sweep that was killed goes on within its trials, to the table of one that never was, to the bit."""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import subprocess
import sys
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
from flaxvision.sweep.records import line_of
from flaxvision.sweep.spec_file import dump_spec
from flaxvision.sweep.store import read_records, usable
from flaxvision.training import checkpoint
from tests.conftest import until

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


@pytest.mark.parametrize("executor", ["loop", "vmap"])
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
    go(out, 3, executor="vmap")
    said = go(out, what=spec(seeds=3), executor="auto")
    assert [line.partition(" goes")[0].count(",") for line in said] == [1]
    assert json.loads((out / "arrangement.json").read_text())["sweep"]["executor"] == "vmap"
    go(other, executor="vmap")
    go(other, what=spec(seeds=3), executor="vmap")
    assert equal(out, other, files)


def test_another_executor_and_other_cores_begin_anew(tmp_path, files, straight, monkeypatch):
    out = tmp_path / "run"
    go(out, 3, executor="vmap")
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
    shared, said = go(out)
    assert shared == "arrangement.json is damaged, or of another version: trials are shared out as in a new run"
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


def test_what_a_kill_left_of_trials_that_are_over_is_deleted(tmp_path, straight):
    """Between its record and its checkpoints' end, or of a cohort that is no more."""
    out = shutil.copytree(straight("loop"), tmp_path / "run")
    ended = next((out / "trials").glob("*.npz")).stem
    for name in (ended, "0123456789"):
        (out / "checkpoints" / name / "3").mkdir(parents=True)
    assert not go(out)


def test_a_trial_that_was_not_asked_for_this_time_goes_on_later(tmp_path, files, straight):
    out = tmp_path / "run"
    go(out, 14)
    (record,) = read_records(out)
    assert run(spec(seeds=1), out, executor="loop", resume=True, export=False, report=False).outcomes[0].seed == 0
    (folder,) = (out / "checkpoints").iterdir()
    assert folder.name != record["id"]
    (said,) = go(out)
    assert said.startswith(f"trial {folder.name} goes on from epoch ")
    assert equal(out, straight("loop"), files)


def test_checkpoints_change_nothing(tmp_path, files, straight):
    go(tmp_path / "run", checkpoint_every=float("inf"))
    assert equal(tmp_path / "run", straight("loop"), files)


def lose(path: Path, lost: int, fill: bytes) -> None:
    """Take a file's last bytes, as a loss of power does, or leave zeros where the file system knew of them already."""
    content = path.read_bytes()
    whole = max(0, len(content) - lost)
    path.write_bytes(content[:whole] + fill * (len(content) - whole))


def went_on(out: Path, whole: Path, files) -> bool:
    """Continue a damaged run: afterwards it is the one to which nothing happened, byte for byte."""
    go(out)
    assert files["table_bytes"](out) == files["table_bytes"](whole)
    newest = [{record["id"]: record for record in files["without_seconds"](each)} for each in (out, whole)]
    assert newest[0] == newest[1]
    for path in [*(whole / "trials").iterdir(), whole / "spec.toml", whole / "winner" / "flaxvision.safetensors"]:
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("reports", [14, float("inf")])
def test_a_loss_of_power(tmp_path, files, straight, reports):
    """Every file of a run that was killed within a trial, and of a finished one, cut or with zeros at its end."""
    before, whole, random = tmp_path / "before", straight("loop"), np.random.default_rng(0)
    go(before, reports)
    assert len(files["trials"](before)) == (1 if reports == 14 else 2)
    older = min((path.parent for path in kept(before)), key=lambda folder: int(folder.name), default=None)
    there = [path for path in before.rglob("*") if path.is_file() and path.name[0] != "." and older not in path.parents]
    paths = [path.relative_to(before) for path in sorted(there)]

    of_one = [path for path in paths if "checkpoints" in path.parts]  # with one checksum for all of them

    def alone(path):
        some = int(random.integers(1, 300))
        return [[(path, some, b"\0")], [(path, some, b"")], [(path, 10**9, b"\0")]]

    def together():
        hit = [path for path in paths if random.random() < 0.4]
        return [(path, int(random.integers(1, 3000)), (b"", b"\0")[random.integers(2)]) for path in hit]

    damages = [damage for path in paths if path not in of_one for damage in alone(path)]
    damages += [[(path, 1, b"\0")] for path in of_one[::3]] + [together() for _ in range(4)]
    for damage in damages:
        shutil.copytree(before, tmp_path / "run")
        for path, lost, fill in damage:
            lose(tmp_path / "run" / path, lost, fill)
        assert went_on(tmp_path / "run", whole, files), damage
        shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
def test_what_a_loss_of_power_leaves_of_a_report_is_made_anew(tmp_path, straight):
    out = tmp_path / "run"
    shutil.copytree(straight("loop"), out)
    go(out, report=True)
    paths = [path for path in out.iterdir() if path.is_file() and path.suffix not in (".html", ".json")]
    made = {path: path.read_bytes() for path in paths}
    assert len(made) > 10
    for number, path in enumerate(path for path in sorted(made) if path.name != "trials.jsonl"):
        lose(path, 1 + number * 100, (b"", b"\0")[number % 2])
    for name in ("report.html", "run.json"):
        lose(out / name, 10**5, b"\0")
    go(out, report=True)
    assert {path: path.read_bytes() for path in made} == made
    assert (out / "report.html").read_text(encoding="utf-8").endswith("</html>")


@pytest.mark.slow
def test_after_an_upgrade_a_run_goes_on_and_its_page_says_so(tmp_path, files, straight):
    """In another process; what was within a trial begins anew, as the last bits may not be those of before."""
    out, given, old = tmp_path / "run", tmp_path / "spec.toml", {"flaxvision": "0.0.9", "jax": "0.9.0", "flax": "0.9.1"}
    go(out, 14)
    (record,) = read_records(out)
    record["identity"]["around"] |= old
    (out / "trials.jsonl").write_text(line_of(record))
    for path in kept(out):
        about = path.parent / "about" / "metadata"
        content = json.loads(about.read_text())
        about.write_text(json.dumps({**content, "identity": {**content["identity"], **old}}))
        path.write_text(str(checkpoint._checksum(path.parent)))
    given.write_text(dump_spec(spec()))
    words = [*command(out, "loop")[:3], str(given), "--out", str(out), "--executor", "loop", "--no-export", "--resume"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " begins anew: the checkpoint is of something else: flaxvision was 0.0.9, is " in done.stderr
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    assert "resumed elsewhere: flaxvision was 0.0.9, is " in page
    assert all(f"{package} was {version}, is " in page for package, version in old.items())
    assert files["table_bytes"](out) == files["table_bytes"](straight("loop"))
    assert len(files["trials"](out)) == 2


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


def kept(out: Path) -> list[Path]:
    return list(out.glob("checkpoints/*/*/checksum"))


@pytest.mark.slow
def test_tasks_of_ray_go_on(tmp_path, files):
    """As those of the other executors do in experiments/interrupted_sweeps.py."""
    pytest.importorskip("ray")
    out, other = tmp_path / "run", tmp_path / "straight"
    small = "--limit", "1000"
    with subprocess.Popen(command(out, "ray", *small), stderr=subprocess.DEVNULL) as job:
        assert until(lambda: kept(out))
        job.send_signal(signal.SIGKILL)
    assert until(lambda: not children(job.pid))
    assert not (out / "results.csv").exists()
    done = subprocess.run(command(out, "ray", *small, "--resume"), capture_output=True, text=True, check=False)
    assert (done.returncode, " goes on from epoch " in done.stderr) == (0, True), done.stderr
    assert not (out / "checkpoints").exists()
    subprocess.run(command(other, "ray", *small), stderr=subprocess.DEVNULL, check=True)
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
@pytest.mark.usefixtures("quick_processes")
def test_a_worker_killed_by_the_kernel_costs_no_other_trial(tmp_path, files):
    """As for want of memory: its trial is recorded as failed, the others go on, and it goes on when resumed."""
    out = tmp_path / "run"
    small = ["--limit", "200", "--epochs", "400", "--set", "learning_rate=0.1", "size=8", "hidden=[8]"]
    words = command(out, "processes", *small)
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
