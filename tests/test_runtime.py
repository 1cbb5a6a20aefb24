"""The process settings: what they do, where they do nothing, and that results stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import flaxvision as fv
done = fv.runtime.prepare() if sys.argv[1] == "prepare" else ()
import jax
losses = []
if sys.argv[2:]:
    model = fv.models.create("tiny_cnn", num_classes=10)
    result = fv.fit(model, fv.data.load("glyphs", limit=48), fv.Recipe(epochs=2, batch_size=16))
    losses = [float(x) for x in result.history["step_loss"]]
print(json.dumps({
    "done": done, "losses": losses,
    "asynchronous": jax.config.read("jax_cpu_enable_async_dispatch"), "cache": jax.config.jax_compilation_cache_dir,
}))
"""


def run(tmp_path, *how, **environment):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap is glibc's")
@pytest.mark.slow
def test_prepare_changes_speed_and_not_results(tmp_path):
    plain = run(tmp_path, "nothing", "train")
    assert plain["asynchronous"]
    assert plain["cache"] is None
    assert not (tmp_path / "flaxvision").exists()
    prepared = [run(tmp_path, "prepare", "train") for _ in range(2)]  # the second from the cache of programs
    for each in prepared:
        assert {"cache", "dispatch"} <= set(each["done"])
        assert not each["asynchronous"]
        assert each["losses"] == plain["losses"]
        assert len(each["losses"]) == 6
    folder = Path(prepared[0]["cache"])
    assert folder.parent == tmp_path / "flaxvision" / "compiled"
    assert len(list(folder.glob("*-cache"))) > 3


def test_the_switch_leaves_a_process_as_it_is(tmp_path):
    off = run(tmp_path, "prepare", FLAXVISION_RUNTIME="off")
    assert off["done"] == []
    assert off["asynchronous"]
    assert not (tmp_path / "flaxvision").exists()


def test_a_cache_of_ones_own_stays(tmp_path):
    mine = run(tmp_path, "prepare", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert mine["cache"] == str(tmp_path / "mine")
    assert "cache" not in mine["done"]


ACCELERATOR = """
import threading, types
import jax
import flaxvision as fv
readied = []
fv.runtime._has_accelerator = lambda: True
if {found}:
    jax.local_devices = lambda: [types.SimpleNamespace(platform="gpu")]
    fv.runtime._ready = lambda device: readied.append((device.platform, threading.current_thread() is not MAIN))
MAIN = threading.current_thread()
print(fv.runtime.prepare())
for thread in threading.enumerate():
    if thread is not MAIN:
        thread.join()
print(readied)
"""


@pytest.mark.parametrize(
    ("found", "platforms", "expected"),
    [
        (True, None, "('cache', 'accelerator')\n[('gpu', True)]\n"),
        (False, None, "('cache',)\n[]\n"),  # installed, and no device is there
        (True, "cpu", "('cache', 'dispatch', 'heap')\n[]\n"),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap is glibc's")
def test_an_accelerator_is_readied_in_a_thread(tmp_path, found, platforms, expected):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)} | ({"JAX_PLATFORMS": platforms} if platforms else {})
    if platforms is None:
        environment.pop("JAX_PLATFORMS", None)
    command = [sys.executable, "-W", "error", "-c", ACCELERATOR.format(found=found)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_readying_a_device_computes_there(monkeypatch):
    import jax

    from flaxvision import runtime

    computed = []
    monkeypatch.setattr(jax, "block_until_ready", computed.append)
    device = jax.local_devices()[0]
    runtime._ready(device)
    assert [(float(x), x.devices()) for x in computed] == [(1.0, {device})]
