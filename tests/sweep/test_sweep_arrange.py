from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from flaxvision.data import load
from flaxvision.errors import UserError
from flaxvision.ops.policy import Form
from flaxvision.runtime import cores
from flaxvision.sweep import arrange as module
from flaxvision.sweep import parse_spec, room
from flaxvision.sweep.arrange import (
    Arranged,
    Cost,
    arrange,
    asked_before,
    asked_for,
    cost_of,
    go_on,
    read_arrangement,
    renewed,
    write_arrangement,
)
from flaxvision.sweep.checks import check_devices
from flaxvision.sweep.config import TrialConfig
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.own_cores import own_cores
from flaxvision.sweep.parts import Part
from flaxvision.sweep.plan import plan
from flaxvision.sweep.trials import expand

FILES = RunFiles(Path("nowhere"))


@pytest.fixture
def trials(tiny):
    return expand(parse_spec(tiny(grid={"learning_rate": [0.1, 0.01], "batch_size": [16, 32]}, seeds=5)))


@pytest.fixture
def machine(monkeypatch):
    """A machine and trials of which we say what they are."""

    def make(cores=4, seconds=100.0, memory=1e6, available=1e10, devices=1):
        monkeypatch.setattr(module, "cores", lambda: list(range(cores)))
        monkeypatch.setattr(module, "cost_of", lambda trial, files: Cost(seconds, memory, 1e6))
        monkeypatch.setattr(module, "free_on", lambda platform: available)
        monkeypatch.setattr(module, "local_devices", lambda: devices)

    return make


def sizes(arranged):
    return [len(cohort) for cohort in arranged.cohorts]


@pytest.mark.parametrize(("seconds", "executor"), [(1.0, "threads"), (2.9, "threads"), (3.1, "processes")])
def test_several_trials_take_a_core_each(trials, machine, seconds, executor):
    machine(seconds=seconds)
    arranged = arrange(trials, FILES, "auto", "cpu")
    assert (arranged.executor, arranged.mode) == (executor, "auto")
    assert sizes(arranged) == [1] * 20


@pytest.mark.parametrize(
    ("lacking", "executor"),
    [
        ({"cores": 1}, "loop"),
        ({"available": 1.9e9}, "threads"),  # four workers of 500 MB
        ({"available": 9.9e6}, "loop"),  # four networks and six copies of the data, of 1 MB each
        ({"memory": 2.5e9}, "loop"),
    ],
)
def test_what_does_not_fit_runs_one_after_the_other(trials, machine, lacking, executor):
    machine(**lacking)
    assert arrange(trials, FILES, "auto", "cpu").executor == executor


def test_the_longest_trials_go_first(trials, machine, monkeypatch):
    machine()
    long = trials[-1].program
    monkeypatch.setattr(module, "cost_of", lambda trial, files: Cost(9.0 + (trial.program == long), 1e6, 1e6))
    for executor in ("threads", "processes"):
        first = arrange(trials, FILES, executor, "cpu").cohorts[:10]
        assert {trial.program for cohort in first for trial in cohort} == {long}


def test_a_single_trial_needs_no_threads(trials, machine):
    machine()
    assert arrange(trials[:1], FILES, "auto", "cpu").executor == "loop"


def test_accelerators_take_whole_cohorts_as_the_memory_allows(trials, machine):
    machine()
    arranged = arrange(trials, FILES, "auto", "gpu")
    assert (arranged.executor, arranged.mode, sizes(arranged)) == ("threads", "auto", [10, 10])
    machine(available=1e8, memory=1e7)  # half the memory, less the data, holds 4 trials
    assert sizes(arrange(trials, FILES, "vmap", "gpu")) == [4, 4, 2, 4, 4, 2]
    machine(available=4e8, memory=1e7)  # four cohorts at once, so that each has an eighth of the memory
    assert sizes(arrange(trials, FILES, "auto", "gpu")) == [4, 4, 2, 4, 4, 2]
    machine(available=4.2e8, memory=1e7, cores=1)  # one at a time has half
    assert sizes(arrange(trials, FILES, "auto", "gpu")) == [10, 10]
    machine(available=float("inf"))  # where the system does not say
    assert sizes(arrange(trials, FILES, "auto", "gpu")) == [10, 10]
    machine(available=1e8, memory=1e7, devices=2)  # 4 trials on each; each of them has half of a cohort, and all data
    assert sizes(arrange(trials, FILES, "vmap", "gpu")) == [5, 5, 5, 5]
    assert sizes(arrange(trials, FILES, "vmap", "cpu")) == [4, 4, 2, 4, 4, 2]  # which have one memory
    machine(available=1e6, memory=1e9)  # what does not fit is still tried, one by one
    assert sizes(arrange(trials, FILES, "vmap", "gpu")) == [1] * 20


@pytest.mark.parametrize(
    ("executor", "largest"), [("loop", 1), ("vmap", 10), ("threads", 1), ("processes", 1), ("ray", 1)]
)
def test_what_is_asked_for_is_done(trials, machine, executor, largest):
    machine()
    arranged = arrange(trials, FILES, executor, "cpu")
    assert arranged.executor == executor
    assert max(sizes(arranged)) == largest
    assert sorted(trial.id for cohort in arranged.cohorts for trial in cohort) == sorted(t.id for t in trials)


def test_how_little_is_left_changes_no_arrangement(trials, machine):
    """Where none is on record: a table that was killed at its end takes the executor and cohorts of the whole one."""
    machine(seconds=3.1)
    left = {trial.id for trial in trials[-3:]}
    assert arrange(trials[-3:], FILES, "auto", "cpu").executor == "threads"
    assert go_on(None, trials, left, FILES, "auto", "cpu").executor == "processes"
    for before in (None, Arranged("loop", "cpu", "loop", "auto", []), Arranged("vmap", "gpu", "vmap", "vmap", [])):
        arranged = go_on(before, trials, left, FILES, "vmap", "cpu")
        assert sizes(arranged) == [3]
        assert {trial.id for cohort in arranged.cohorts for trial in cohort} == left


def test_who_goes_on_keeps_the_executor(trials, machine, tmp_path):
    """Of the run, or of a part of it, on another platform too; the newest that was asked for."""
    machine(seconds=3.1)
    before = Arranged("vmap", "gpu", "vmap", "vmap", [])
    assert go_on(before, trials, {trial.id for trial in trials}, FILES, "auto", "cpu").executor == "vmap"
    assert asked_before(tmp_path) is None
    write_arrangement(tmp_path, {"sweep": Arranged("threads", "cpu", "threads", "auto", [])}, Part(2, 3))
    assert [asked_before(tmp_path, part) for part in (None, Part(2, 3), Part(1, 3))] == ["threads", "threads", None]
    write_arrangement(tmp_path, {"sweep": before, "final": Arranged("loop", "cpu", "loop", "auto", [])})
    for executor in ("threads", "loop"):
        write_arrangement(tmp_path, renewed(read_arrangement(tmp_path), "search", asked_for(executor)))
        assert asked_before(tmp_path) == executor
    write_arrangement(tmp_path, renewed(read_arrangement(tmp_path), "sweep", before))
    assert asked_before(tmp_path) == "vmap"


def test_workers_do_not_import_the_script(tiny, machine):
    """For which a long table would be shared out otherwise."""
    machine(seconds=3.1)
    own = expand(parse_spec(tiny(recipe={"optimizer": "__main__:mine"}, seeds=20)))
    assert arrange(own, FILES, "auto", "cpu").executor == "threads"


def test_devices_that_an_executor_cannot_use(tiny, monkeypatch):
    spec = parse_spec(tiny(devices="batch"))
    check_devices(spec, "processes")
    with pytest.raises(UserError, match="devices is 'batch' but executor 'ray' trains each trial on one device"):
        check_devices(spec, "ray")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="executor 'processes' is for CPUs"):
        check_devices(spec, "processes")


@pytest.mark.skipif(len(cores()) < 2, reason="there is one core")
def test_sweeps_of_one_machine_take_cores_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with own_cores(1) as one, own_cores(1) as other:
        assert not {*one} & {*other}
        with own_cores(len(cores())) as rest:  # which shares them
            assert len(rest) == len({*rest}) == len(cores())
    with own_cores(99) as every:
        assert len(every) == len(cores())


@pytest.mark.parametrize(
    ("change", "whole"),
    [
        ({}, True), ({"cohorts": 3}, False), ({"cohorts": ["ab"]}, False), ({"cohorts": [[{}]]}, False),
        ({"asked": "lop"}, False),
        ({"executor": "lop"}, False), ({"executor": ["loop"]}, False),
        ({"mode": []}, False), ({"platform": None}, False), ({"more": 1}, False),
    ],
)  # fmt: skip
def test_what_is_on_record_is_looked_at(tmp_path, change, whole):
    stage = {"asked": "auto", "platform": "cpu", "executor": "loop", "mode": "auto", "cohorts": [["a", "b"]]}
    assert read_arrangement(tmp_path) == {}
    (tmp_path / module.FILE).write_text(json.dumps({"sweep": {**stage, **change}}))
    assert read_arrangement(tmp_path) == ({"sweep": Arranged(**stage)} if whole else None)
    (tmp_path / module.FILE).write_text("[" * 100_000)
    assert read_arrangement(tmp_path) is None


def test_the_cost_is_that_of_the_arithmetic(tiny, monkeypatch):
    """Two layers of 64 * 8 and 8 * 10 weights: two operations a weight and example, three passes."""
    monkeypatch.setattr(module, "BYTES", float("inf"))
    (trial,) = expand(
        parse_spec(tiny(data={"size": 8, "drawn": 320, "limit": 320}, sizes={"hidden": [8]}, grid={}, seeds=1))
    )
    trial = dataclasses.replace(trial, config=TrialConfig.of({**trial.settings, "batch_size": 32, "epochs": 3}))
    cost = cost_of(trial, FILES)
    arithmetic = 3 * 2 * 32 * (64 * 8 + 8 * 10) / module.OPERATIONS
    assert arithmetic < cost.seconds / 30 < 1.1 * arithmetic
    assert cost.data == (320 + 64) * 64


def test_the_patches_of_a_convolution_take_memory(tiny, monkeypatch):
    """A step of mnist_net keeps the patches of both convolutions and their gradients."""
    settings = {"data": {"size": 28, "drawn": 320, "limit": 320}, "grid": {}, "seeds": 1, "sizes": {}}
    (trial,) = expand(parse_spec(tiny(**settings)))
    settings = {key: value for key, value in trial.settings.items() if key != "hidden"}
    cnn = dataclasses.replace(trial, config=TrialConfig.of({**settings, "model": "mnist_net", "batch_size": 32}))
    patches = 32 * 4 * 9 * (28 * 28 * 1 + 14 * 14 * 8)
    whole = cost_of(cnn, FILES).memory
    monkeypatch.setattr("flaxvision.layers.network.Step.form", lambda *arguments: (Form.NATIVE, 0))
    assert whole - cost_of(cnn, FILES).memory == 2 * patches


def test_what_can_never_fit_is_said_before_anything_is_written(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(room, "memory", lambda: 2.0**13)  # an mlp of 600 parameters, and 256 examples of 64 bytes
    with pytest.raises(UserError, match=r"a trial takes 0\.0 GB at least, 0\.0 for examples and 0\.0 for parameters"):
        plan(parse_spec(tiny()), RunFiles(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(room, "memory", lambda: 2.0**15)
    plan(parse_spec(tiny()), RunFiles(tmp_path / "run"))


def test_the_fullest_device_says_what_is_free(monkeypatch):
    class Device:
        def __init__(self, limit, in_use):
            self.told = {"bytes_limit": limit, "bytes_in_use": in_use}

        def memory_stats(self):
            return self.told

    monkeypatch.setattr("jax.local_devices", lambda: [Device(2**33, 0), Device(2**33, 2**32), Device(2**32, 2**30)])
    assert room.free_on("gpu") == 2**32 - 2**30
    with pytest.raises(UserError, match=r"of the 4\.0 that there are"):
        room.check_room(load("glyphs", limit=8), 2**29 + 1, "gpu")


def test_mapped_examples_are_an_accelerators_but_not_a_cpus(make_dataset, tmp_path):
    data = make_dataset((8, 8, 1), 3, train=100, test=20)
    assert room.examples_on("cpu", data) == room.examples_on("gpu", data) == 120 * 64
    np.save(tmp_path / "x.npy", data.train.images)
    images = np.load(tmp_path / "x.npy", mmap_mode="r")[:100].view(np.ndarray)
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, images=images))
    assert (room.examples_on("cpu", data), room.examples_on("gpu", data)) == (20 * 64, 120 * 64)
