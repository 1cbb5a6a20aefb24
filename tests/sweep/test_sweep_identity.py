"""A run goes on with what it was trained on, or not at all: data, code, weights, switches change under a --resume."""

from __future__ import annotations

import errno
import html
import json
import os
import shutil
import sys
from pathlib import Path

import flax
import jax
import numpy as np
import pytest
from PIL import Image

import flaxvision as fv
from flaxvision import runtime
from flaxvision.errors import UserError
from flaxvision.report import report_html
from flaxvision.sweep import parse_spec, rerun, run
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.lock import locked, opening
from flaxvision.sweep.own_cores import own_cores
from flaxvision.sweep.parts import Part
from flaxvision.sweep.plan import plan
from flaxvision.sweep.provenance import on_other_hardware
from flaxvision.sweep.store import (
    append_record,
    check_identity,
    check_unchanged,
    claim,
    open_run,
    read_records,
)

pytestmark = pytest.mark.quick

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (60, 4, 4), np.uint8)
LABELS = np.arange(60) % 2
NETWORK = """
import {blocks}
WIDTH = 3

def small(build, outputs):
    build.flatten("flat")
    build.linear("hidden", WIDTH)
    {blocks}.block(build)
    build.linear("out", outputs)

def other(build, outputs):
    build.flatten("flat")
    build.linear("out", outputs)
"""
BLOCKS = """
def block(build):
    build.activation("act", "relu")
"""


def write_data(folder: Path, labels: np.ndarray = LABELS) -> None:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "train.npz", samples=PIXELS[:40], annotations=labels[:40])
    np.savez(folder / "valid.npz", samples=PIXELS[40:], annotations=labels[40:])


def spec_of(*, seeds=1, model="linear", dataset="npz:data", **recipe):
    table = {"name": "mine", "dataset": dataset, "model": model, "seeds": seeds}
    table["recipe"] = {"batch_size": 20, "epochs": 1, "learning_rate": 0.1, **recipe}
    return parse_spec(table)


@pytest.fixture
def fill(tmp_path, monkeypatch):
    """Fills a run in the working folder, which has data in `data`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_data(tmp_path / "data")

    def fill(out="run", *, resume=False, **settings):
        return run(spec_of(**settings), out, resume=resume, executor="loop", export=False, report=False)

    return fill


@pytest.fixture
def network(tmp_path, request):
    """Writes a network of one's own, in two modules of names that no other test has."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    blocks = f"{name}_blocks"

    def write(old="", new=""):
        for module, source in ((name, NETWORK.format(blocks=blocks)), (blocks, BLOCKS)):
            (tmp_path / f"{module}.py").write_text(source.replace(old, new) if old else source)
        return f"{name}:small"

    yield write
    for module in (name, blocks):
        sys.modules.pop(module, None)


def test_other_labels_in_the_same_archive(fill, tmp_path):
    fill()
    write_data(tmp_path / "data", 1 - LABELS)
    with pytest.raises(
        UserError, match=r"run holds trials made from other inputs: data npz:data train was [0-9a-f]+, is"
    ):
        fill(seeds=2, resume=True)
    assert len((tmp_path / "run" / "trials.jsonl").read_text().splitlines()) == 1
    assert rerun_changes("run") == ["data npz:data train", "data npz:data test"]
    fill("new")  # in the same process: the new labels, not those that it has in memory
    weights = fill("again", learning_rate=0.1).directory / "winner" / "flaxvision.safetensors"
    shutil.rmtree("new")
    write_data(tmp_path / "data")
    fill("new")
    assert weights.read_bytes() != Path("new/winner/flaxvision.safetensors").read_bytes()
    assert (
        Path("run/winner/flaxvision.safetensors").read_bytes() == Path("new/winner/flaxvision.safetensors").read_bytes()
    )
    assert fill(seeds=2, resume=True).cells[0].n == 2  # put back


def rerun_changes(directory):
    trial = read_records(Path(directory))[0]["id"]
    return [line.split(" was ")[0] for line in rerun(directory, trial).changed]


def test_the_same_archive_written_again(fill, tmp_path):
    fill()
    write_data(tmp_path / "data")
    assert fill(seeds=2, resume=True).cells[0].n == 2


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("WIDTH = 3", "WIDTH = 4", "small"),  # a constant, and a file of the same size
        ('"relu"', '"tanh"', "block"),  # in the other module
    ],
)
def test_a_network_edited(fill, network, old, new, named):
    model = network()
    fill(model=model)
    network(old, new)
    with pytest.raises(UserError, match=rf"code {model}.* {named} was [0-9a-f]+, is [0-9a-f]+.*: restore that"):
        fill(model=model, seeds=2, resume=True)
    if "WIDTH" in old:  # what the file holds now, though Python had the older one
        now = plan(spec_of(model=model), RunFiles(Path("new"))).parameters
        assert list(now.values()) == [16 * 4 + 4 + 5 * 2]
        assert read_records(Path("run"))[0]["parameters"] == 16 * 3 + 3 + 4 * 2


def test_a_comment_or_another_function_edited(fill, network):
    model = network()
    fill(model=model)
    network(
        'def other(build, outputs):\n    build.flatten("flat")',
        '# new\ndef other(build, outputs):\n    build.flatten("f")',
    )
    assert fill(model=model, seeds=2, resume=True).cells[0].n == 2


def test_starting_weights_replaced(fill, tmp_path):
    for seed in (0, 1):
        start = fv.models.create("linear", input_shape=(4, 4, 1), num_classes=2, seed=seed)
        (tmp_path / f"other{seed}").mkdir()
        fv.save_model(start, tmp_path / f"other{seed}" / "flaxvision.safetensors")
    fill(warm_start="other0")
    shutil.copyfile("other1/flaxvision.safetensors", "other0/flaxvision.safetensors")
    with pytest.raises(UserError, match=r"weights other0 was [0-9a-f]+, is"):
        fill(warm_start="other0", seeds=2, resume=True)


def test_a_picture_moved_to_another_class(tmp_path):
    for number in range(20):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (4, 4), np.uint8)).save(path)
    spec = spec_of(dataset=f"images:{tmp_path}", batch_size=4)
    before = plan(spec, RunFiles(tmp_path / "run")).identity
    assert plan(spec, RunFiles(tmp_path / "run")).identity == before
    (tmp_path / "a" / "0.png").rename(tmp_path / "b" / "0.png")
    after = plan(spec, RunFiles(tmp_path / "run")).identity  # in the same process
    with pytest.raises(UserError, match=r"other inputs: data images:\S+ train was [0-9a-f]+, is"):
        check_identity(tmp_path / "run", [{"status": "ok", "identity": before}], after)


def test_a_switch_of_jax(fill):
    fill()
    with (
        jax.default_matmul_precision("highest"),
        pytest.raises(UserError, match="jax_default_matmul_precision was not given, is highest"),
    ):
        fill(seeds=2, resume=True)
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):  # no draw depends on it
        assert fill(seeds=2, resume=True).cells[0].n == 2
    other = fill("other", seeds=2)
    for record in read_records(other.directory):
        name = f"trials/{record['id']}.safetensors"
        assert Path("run", name).read_bytes() == Path("other", name).read_bytes()


def test_trials_of_two_runs_in_one_file(fill, tmp_path):
    fill()
    write_data(tmp_path / "data", 1 - LABELS)
    fill("other", seeds=[7])
    with open("run/trials.jsonl", "a") as file:
        file.write(Path("other/trials.jsonl").read_text())
    with pytest.raises(UserError, match="trials made from other inputs"):
        fill(seeds=[0, 7], resume=True)


def test_what_is_no_longer_as_it_was_is_said(fill):
    """A run of an older version, which kept no identity; and one of another version of JAX."""
    fill()
    record = read_records(Path("run"))[0]
    record["identity"]["around"] |= {"flaxvision": "0.0.9", "jax": "0.9.0", "flax": "0.11.0", "kernels": "none yet"}
    del record["checksums"]
    Path("run/trials.jsonl").write_text(json.dumps(record) + "\n")
    resumed = fill(seeds=2, resume=True)
    (note,) = resumed.provenance["notes"]
    then, now = ("flaxvision was 0.0.9", "jax was 0.9.0", "flax was 0.11.0"), (fv, jax, flax)
    told = "; ".join(f"{was}, is {package.__version__}" for was, package in zip(then, now, strict=True))
    assert note.startswith(f"resumed elsewhere: {told}; kernels was none yet, is ")
    assert told in html.unescape(report_html(resumed, {}))
    del record["identity"]
    Path("run/trials.jsonl").write_text(json.dumps(record) + "\n")
    (note,) = fill(seeds=2, resume=True).provenance["notes"]
    assert "do not say which data and code they were trained on" in note
    assert "notes" not in fill("new").provenance


def test_other_cores_are_said(fill, monkeypatch):
    fill()
    assert "notes" not in fill(seeds=2, resume=True).provenance
    monkeypatch.setattr("flaxvision.sweep.work.cores", lambda: [0] * 99)
    (note,) = fill(seeds=3, resume=True).provenance["notes"]
    assert note == f"trials were trained on {len(runtime.cores())} and 99 cores, on which their last bits may depend"


def test_other_circumstances_of_trials_of_a_stage_are_said():
    """As nodes of a cluster may have them; another stage, or what a resumed run says of itself, is no matter."""

    def record(stage="sweep", **around):
        usual = {"jax": "0.9", "processor": "a", "kernels": "C++", "platform": "cpu", "XLA_FLAGS": ""}
        return {"stage": stage, "cores": 1, "identity": {"around": {**usual, **around}}}

    elsewhere = record(jax="0.8", processor="b", XLA_FLAGS="--x")
    assert on_other_hardware([record(), record("final", jax="0.8"), {"stage": "sweep", "status": "failed"}]) == []
    assert on_other_hardware([record(), elsewhere, record(), {"stage": "sweep", "cores": 1}]) == [
        "trials were trained with jax 0.8 and 0.9; processor a and b; XLA_FLAGS --x and none, on which their last bits "
        "may depend"
    ]
    told = "resumed elsewhere: jax was 0.8, is 0.9; processor was b, is a; XLA_FLAGS was --x, is "
    assert on_other_hardware([record(), elsewhere], [told]) == []
    on_gpu = record(platform="gpu", kernels="none")
    assert on_other_hardware([record(), on_gpu]) == [
        "trials were trained on cpu and gpu, on which their last bits depend",
        "trials were trained with kernels C++ and none, on which their last bits may depend",
    ]


def test_what_differs_between_two_sweeps_is_named(fill):
    fill(epochs=1)
    with pytest.raises(UserError, match="run holds another sweep: epochs was 1, is 2: give what it was made with"):
        fill(epochs=2, resume=True)
    with pytest.raises(UserError, match=r"model was linear, is mlp; momentum was not given, is 0.9"):
        fill(model="mlp", momentum=0.9, resume=True)


def test_what_changes_while_a_sweep_runs():
    identity = {"data a": {"train": "1"}, "jax_enable_x64": False, "around": {"jax": "1"}}
    check_unchanged({"identity": {**identity, "around": {"jax": "2"}}}, identity)
    check_unchanged({"status": "failed"}, identity)
    with pytest.raises(UserError, match="changed while the sweep ran: data a train was 2, is 1"):
        check_unchanged({"identity": {**identity, "data a": {"train": "2"}}}, identity)


def test_one_process_fills_a_directory(fill, tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(UserError, match=rf"^process {os.getpid()} on .* is filling run: wait"),
    ):
        fill()
    with locked(tmp_path / "run"):
        (tmp_path / "run" / ".holder").write_bytes(b"\xff\x1b")  # damaged
        with pytest.raises(UserError, match=r"^\ufffd\\x1b is filling run: wait"):
            fill()
    fill()
    assert not (tmp_path / "run" / ".holder").exists()
    assert claim(tmp_path / "mine-1") == tmp_path / "mine-1"
    assert claim(tmp_path / "mine-1") == tmp_path / "mine-1-2"


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    """And gets no marker, which would outlive its process; nor do cores and kernels."""

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with locked(tmp_path / "run") as said:
        assert said == "its file system has no locks: see to it that no other process fills this folder"
        with locked(tmp_path / "run"):
            pass
    with own_cores(1) as one, own_cores(1) as other:
        assert one == other


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EISDIR])
def test_a_lock_that_cannot_be_made_is_an_error(tmp_path, monkeypatch, number):
    """As by permissions or a full disk, of which the file system is not to blame."""

    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock", fails)
    with (
        pytest.raises(UserError, match=f"^cannot write {tmp_path}/run: {os.strerror(number)}; give"),
        locked(tmp_path / "run"),
    ):
        pass
    with pytest.raises(UserError, match=r"^cannot write"), opening(tmp_path / "run", Part(1, 2)):
        pass


def test_a_folder_in_the_place_of_the_lock_is_an_error(tmp_path):
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=f"^cannot write {tmp_path}/run: .*; give"), locked(tmp_path / "run"):
        pass


def test_a_run_that_was_killed_as_it_began_can_begin(fill, tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", ".lock_trying", ".holder", ".spec.toml.0123abcd"):
        (tmp_path / "run" / name).write_text("")
    fill()
    assert not (tmp_path / "run" / ".spec.toml.0123abcd").exists()


def test_no_line_is_lost(tmp_path):
    spec = parse_spec({"name": "mine", "dataset": "glyphs", "model": "linear"})
    open_run(tmp_path / "run", spec, resume=False)
    path = tmp_path / "run" / "trials.jsonl"
    append_record(tmp_path / "run", {"id": "0"})
    before = path.stat().st_ino
    open_run(tmp_path / "run", spec, resume=True)
    assert path.stat().st_ino == before  # what another process appends to is not replaced
    path.write_bytes(b'{"id": "0"}\n{"id": "1"}')
    assert [r["id"] for r in open_run(tmp_path / "run", spec, resume=True).records] == ["0", "1"]
    append_record(tmp_path / "run", {"id": "2"})
    with open(path, "ab") as file:
        file.write(b'{"id": "3", "se')
    assert [r["id"] for r in open_run(tmp_path / "run", spec, resume=True).records] == ["0", "1", "2"]
    append_record(tmp_path / "run", {"id": "4"})
    assert [r["id"] for r in read_records(tmp_path / "run")] == ["0", "1", "2", "4"]
