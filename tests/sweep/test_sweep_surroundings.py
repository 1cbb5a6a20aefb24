"""A sweep where there is no network, no shared memory and no character beyond ASCII: nothing of it is needed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest

APART = ["unshare", "-rnm", "sh", "-c"]  # a user, network and mounts of its own
NO_SHARED_MEMORY = "mount -t tmpfs -o ro none /dev/shm"


def can_be_set_apart() -> bool:
    """Whether this system lets a user do that."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*APART, NO_SHARED_MEMORY], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_be_set_apart(), reason="needs Linux namespaces")
def test_a_default_sweep_opens_no_connection(tmp_path, spec_file, tiny, files):
    """Worker processes, the report, the export and its comparison; where strace is there, nothing even tries."""
    out, trace = tmp_path / "run", tmp_path / "trace"
    command = [sys.executable, "-m", "flaxvision.sweep", str(spec_file(tiny(seeds=2))), "--out", str(out)]
    calls = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto", "-o", str(trace)]
    traced = calls if shutil.which("strace") else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "LC_", "PYTHONIO"))}
    environment |= {"LANG": "C", "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    inside = f"{NO_SHARED_MEMORY} && exec {shlex.join([*traced, *command, '--executor', 'processes'])}"
    done = subprocess.run([*APART, inside], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert files["table"](out)[0]["n"] == "2"
    assert (out / "winner" / "parity.md").exists()
    if traced:
        assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []
    assert list((tmp_path / "home").rglob("*deviceid*")) == []  # of onnxruntime
