"""Which devices trials train on."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from flaxvision.sweep import devices as module
from flaxvision.sweep.devices import devices_for


@pytest.fixture
def four(monkeypatch):
    local = [SimpleNamespace(id=number) for number in range(4)]
    monkeypatch.setattr(jax, "local_devices", lambda: local)
    monkeypatch.setattr(module, "_ever", module._ever.copy())
    module._ever.clear()


def ids(trials, shared="trials"):
    with devices_for(trials, shared) as devices:
        return [device.id for device in devices]


def test_single_trials_take_turns_and_several_have_some_each(four):
    assert [ids(1) for _ in range(5)] == [[0], [1], [2], [3], [0]]
    assert ids(2) == ids(1, "batch") == [0, 1, 2, 3]


def test_a_device_that_trains_waits_for_its_turn(four):
    with contextlib.ExitStack() as stack:
        (first,) = stack.enter_context(devices_for(1, "trials"))
        assert [ids(1) for _ in range(4)] == [[1], [2], [3], [1]]
    assert ids(1) == [first.id]
    with contextlib.suppress(ZeroDivisionError), devices_for(1, "trials"):
        raise ZeroDivisionError
    assert not any(module._now.values())


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "more"), [("threads", ()), ("vmap", ()), ("loop", ("batch",))])
def test_a_table_is_that_of_one_device(tmp_path, spec_file, tiny, executor, more):
    """To the bit, where trials are not vmapped and share no batch."""
    tables = []
    for count in (1, 4):
        out = tmp_path / str(count)
        spec = tiny(seeds=3, **({"devices": "batch"} if more else {}))
        options = ["--out", str(out), "--executor", executor, "--no-export"]
        command = [sys.executable, "-m", "flaxvision.sweep", str(spec_file(spec)), *options]
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
        tables.append([{key: value for key, value in row.items() if "seconds" not in key} for row in rows])
    if executor == "threads":
        assert tables[0] == tables[1]
    loss = next(name for name in tables[0][0] if name.startswith("test_loss"))
    losses = [[float(row[loss]) for row in table] for table in tables]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
