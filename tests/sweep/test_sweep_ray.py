"""`--executor ray` on a real cluster of two nodes, one with a GPU that is none; and what is told of clusters.

The nodes have working folders of their own, and see no file of the process that fills the run where the system allows
a folder that only that process sees.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flaxvision.errors import UserError
from flaxvision.sweep import run
from flaxvision.sweep.cluster import check_reachable
from flaxvision.sweep.executors import check_executor

CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

cluster, nodes = Cluster(), []
for gpus, folder in enumerate(sys.argv[1:]):
    os.chdir(folder)
    nodes.append(cluster.add_node(num_cpus=1, num_gpus=gpus, include_dashboard=False))
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
cluster.shutdown()
"""
OWN = """
import os, time

def net(build, outputs, width=4):
    if width == 5 and "RAY_JOB_ID" in os.environ:
        raise OSError("no such node")
    if width == 2 and "RAY_JOB_ID" in os.environ and os.environ.get("JAX_PLATFORMS") == "cpu":
        time.sleep(3600)  # as a trial that is too large for a core
    build.flatten("flat")
    build.linear("a", width)
    build.activation("act", "relu")
    build.linear("b", outputs)
"""
SPEC = {
    "name": "mine",
    "dataset": "npz:data",  # seen from where the sweep is started, and from nowhere else
    "model": "own.py:net",
    "recipe": {"batch_size": 32, "epochs": 2},
    "seeds": 3,
    "grid": {"learning_rate": [0.3, 0.1, 0.03, 0.01]},
}
EXPECTED = (
    r"run folder: .*|npz:data: .*|checking .*|arranging .*|writing .*|looking .*|pretraining.*|training.*"
    r"|\d+/\d+ trials.*"
    r"|trial \w+ keeps no checkpoints, nor do others on nodes that do not see the run's folder"
    r"|trial \w+ begins anew, as Ray lost it by \w+.*"
)


def can_hide() -> bool:
    """Whether this system lets a user have a folder for one process and its children alone."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Its address, and what to call to kill the node that has a GPU."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith(("FLAXVISION_", "JAX_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, *(str(tmp_path_factory.mktemp(f"node{number}")) for number in (1, 2))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )

    def kill_a_node() -> None:
        process.stdin.write("\n")
        process.stdin.flush()

    started, _, _ = select.select([process.stdout], [], [], 60)
    address = process.stdout.readline().strip() if started else ""
    if address:
        yield address, kill_a_node
    process.stdin.close()
    process.wait(60)
    process.stdout.close()
    if not address:
        pytest.skip("Ray starts no cluster here")


@pytest.fixture
def mine(tmp_path, spec_file) -> Path:
    """A folder with data and a network of one's own."""
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    (folder / "own.py").write_text(OWN)
    draw = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 50)):
        images, labels = draw.integers(0, 256, (count, 8, 8), np.uint8), draw.integers(0, 4, count)
        np.savez(folder / "data" / f"{split}.npz", images=images, labels=labels)
    return folder


def start(
    folder: Path, spec: Path, address: str, *, out: Path, hidden: bool, **variables: str
) -> subprocess.Popen[str]:
    """Fill the table from `folder`, which is hidden from all that runs already, if it is to be."""
    words = [sys.executable, "-m", "flaxvision.sweep", str(spec), "--executor", "ray", "--no-export", "--out", "run"]
    lines = [f"cd {folder}", shlex.join(words), "status=$?", f"cp -r run {out}", "exit $status"]
    shell = ["sh", "-c"]
    if hidden:
        lines = [
            f"cp -r {folder} {folder}.here",
            f"mount -t tmpfs none {folder}",
            f"cp -r {folder}.here/. {folder}",
            *lines,
        ]
        shell = ["unshare", "-rm", *shell]
    return subprocess.Popen(
        [*shell, "\n".join(lines)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "", "RAY_ADDRESS": address, **variables},
    )


def in_a_loop(folder: Path, spec: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same table by `loop`."""
    monkeypatch.chdir(folder)
    words = [sys.executable, "-m", "flaxvision.sweep", str(spec), "--executor", "loop", "--no-export", "--quiet"]
    subprocess.run([*words, "--out", str(out)], check=False, stderr=subprocess.DEVNULL)
    return out


@pytest.mark.slow
def test_gpus_train_cohorts_and_cores_single_trials(cluster, mine, tmp_path, spec_file, files, monkeypatch):
    """And a trial that fails on a node is one that failed; one that a core would be at for ever ends on a GPU."""
    grid = {"width": [2, 3, 5], "learning_rate": [0.1, 0.01]}
    spec = spec_file({**SPEC, "seeds": 1, "grid": grid})
    with start(mine, spec, cluster[0], out=tmp_path / "ray", hidden=False) as process:
        said = process.stdout.read()
    assert process.returncode == 3, said
    assert "install jax[cuda12] on it" in said
    records = files["trials"](tmp_path / "ray")
    failed = [(record["cell"]["width"], record["message"]) for record in records if record["status"] == "failed"]
    assert failed == [("5", "model 'own.py:net' cannot be built: OSError: no such node; fix it or its [sizes]")] * 2
    arranged = json.loads((tmp_path / "ray" / "arrangement.json").read_text())["sweep"]
    assert (arranged["executor"], arranged["platform"], list(map(len, arranged["cohorts"]))) == ("ray", "gpu", [2] * 3)
    loop = files["trials"](in_a_loop(mine, spec, tmp_path / "loop", monkeypatch))
    assert {record["id"]: record["final"] for record in records if "final" in record} == {
        record["id"]: record["final"] for record in loop if record["cell"]["width"] != "5"
    }


@pytest.mark.slow
def test_nodes_that_share_no_file_and_one_of_which_is_lost(cluster, mine, tmp_path, spec_file, files, monkeypatch):
    """Data, code and pretrained weights go to the nodes, and what they train comes back."""
    address, kill_a_node = cluster
    stage = {"pretrain": {"recipe": {"epochs": 1}}}
    spec = spec_file({**SPEC, "recipe": {**SPEC["recipe"], "warm_start": "pretrain"}, **stage})
    said = []
    with start(mine, spec, address, out=tmp_path / "ray", hidden=can_hide(), JAX_PLATFORMS="cpu") as process:
        for line in process.stdout:
            said.append(line)
            if re.match(r"[3-9]/12 trials", line) and "killed\n" not in said:
                kill_a_node()
                said.append("killed\n")
    text = "".join(said)
    assert process.returncode == 0, text
    assert "killed\n" in said, text
    before_the_table = text.partition("writing tables")[0].splitlines()
    assert [line for line in before_the_table if line != "killed" and not re.fullmatch(EXPECTED, line)] == []
    assert ("keeps no checkpoints" in text) == can_hide()
    loop = in_a_loop(mine, spec, tmp_path / "loop", monkeypatch)
    assert files["table_bytes"](tmp_path / "ray") == files["table_bytes"](loop)
    assert {record["cores"] for record in files["trials"](tmp_path / "ray")} == {1}


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (
            "127.0.0.1:1",
            r"^no Ray cluster answers at 127.0.0.1:1 \(.*refused\): start one by 'ray start --head', or forget",
        ),
        ("[::1]:x", r"^no Ray cluster answers at \[::1\]:x \(invalid literal"),
        ("ray://127.0.0.1:1", r"^RAY_ADDRESS is ray://127.0.0.1:1: run the sweep on a machine of the cluster"),
        ("", r"^no Ray cluster answers at 127.0.0.1:2 "),
        ("auto", r"^no Ray cluster answers at 127.0.0.1:2 "),
    ],
)
def test_an_address_that_does_not_answer_is_told_before_anything_is_written(address, told, tmp_path, monkeypatch, tiny):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:2")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name)
    with pytest.raises(UserError, match=told):
        run(tiny(), tmp_path / "run", executor="ray")
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        check_reachable()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    check_reachable()
    check_executor("auto")


def test_an_address_that_is_silent_is_told_in_time(monkeypatch):
    monkeypatch.setattr("flaxvision.sweep.cluster.WAIT", 0.1)
    began = time.monotonic()
    with socket.socket() as full:  # which takes no connection
        full.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{full.getsockname()[1]}")
        with pytest.raises(UserError, match="no Ray cluster answers"):
            check_reachable()
    assert time.monotonic() - began < 60
