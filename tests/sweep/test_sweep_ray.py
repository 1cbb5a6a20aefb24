"""`--executor ray` on a real cluster of two nodes, of which one is lost; it runs where Ray is installed."""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()
nodes = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster():
    """Its address, and what to call to kill the second node."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
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


def test_a_cluster_that_loses_a_node_fills_the_same_table(cluster, tmp_path, files, spec_file, tiny):
    address, kill_a_node = cluster
    grid = {"learning_rate": [0.3, 0.1, 0.03], "momentum": [0.0, 0.9]}
    path = spec_file(tiny(seeds=2, grid=grid))

    def start(executor: str) -> subprocess.Popen[str]:
        words = ["-m", "flaxvision.sweep", str(path), "--executor", executor, "--out", str(tmp_path / executor)]
        return subprocess.Popen(
            [sys.executable, *words, "--no-export", "--quiet"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_ADDRESS": address, "RAY_USAGE_STATS_ENABLED": "0"},
        )

    trials = tmp_path / "ray" / "trials.jsonl"
    with start("ray") as process:
        until = time.monotonic() + 300
        while not (trials.exists() and trials.read_text()) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        in_the_middle = process.poll() is None
        kill_a_node()
        if time.monotonic() > until:
            process.kill()
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert in_the_middle
    with start("loop") as process:
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert files["table_bytes"](tmp_path / "ray") == files["table_bytes"](tmp_path / "loop")
