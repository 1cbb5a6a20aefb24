"""The Ray cluster that a sweep uses: reached before anything is written, and kept from printing."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from flaxvision import __version__
from flaxvision._text import visible
from flaxvision.errors import UserError
from flaxvision.sweep.executors import reason

if TYPE_CHECKING:
    import ray

WAIT = 3.0  # seconds for a cluster to answer
PATIENCE = 20.0  # seconds for one that answered before: after a minute Ray ends the process without a word


class ClusterGone(UserError):
    """A cluster that was there does not answer any more."""


def connect() -> None:
    """Connect to the cluster of RAY_ADDRESS, else to one of this machine, else start one on it; once a process.

    Raises:
        UserError: If there is none at the address.
    """
    import ray._private.worker

    if ray.is_initialized():
        return
    check_reachable()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no statistics are sent, unless somebody asks for it
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"no Ray cluster: {line}: start one by 'ray start --head', or unset RAY_ADDRESS") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own
    # What becomes of tasks is told by `tasks`; Ray has no setting that keeps its raylets from printing here as well.
    ray._private.worker._worker_logs_enabled = False


def check_reachable() -> None:
    """Raise `UserError` where nothing answers at the address of the cluster, for which Ray waits ten minutes."""
    named = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # as `ray start` leaves it
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto"):
        address = ""
        with contextlib.suppress(OSError):
            address = named.read_text(encoding="utf-8").strip()
    if address in ("", "local"):
        return
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS is {address}: run the sweep on a machine of the cluster, with RAY_ADDRESS=HOST:PORT as "
            "'ray start' prints it"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), WAIT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {visible(address)} ({error}): start one by 'ray start --head', or forget that "
            "one: unset RAY_ADDRESS, ray stop"
        ) from error


def check_alone() -> None:
    """Raise `UserError` in one of several processes that `jax.distributed` joins: each would train the whole table."""
    import jax

    if jax.distributed.is_initialized():
        raise UserError(
            "jax.distributed joins this process with others, each of which would fill the whole table: leave its "
            "initialize() out, and use one process with executor 'ray' for many machines, or part 1/8, 2/8, … for many "
            "processes"
        )


def cluster_platform() -> str:
    """The platform for whose tasks trials are shared out: "gpu" where the cluster has any, else "cpu"."""
    connect()
    return "gpu" if resources()[0] else "cpu"


def resources() -> tuple[int, int]:
    """How many GPUs the cluster has, and how many cores of nodes that have none."""
    found = nodes()
    return found.gpus, found.cores


@dataclasses.dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a cluster that tasks may use."""

    gpus: int = 0
    cores: int = 0  # of those that have no GPU, or of all where no GPU is used
    avoided: tuple[str, ...] = ()  # ids of nodes for no task
    with_gpus: tuple[str, ...] = ()  # ids of those whose cores are for no task of a core


def nodes(avoided: Collection[str] = ()) -> Nodes:
    """What the cluster has now on nodes but those at the addresses `avoided`.

    Raises:
        ClusterGone: If it does not answer, or no longer has the node of this process.
    """
    import ray

    context = ray.get_runtime_context()
    _check_answers(context.gcs_address)
    there = [each for each in ray.nodes() if each["Alive"]]
    if context.get_node_id() not in [each["NodeID"] for each in there]:
        raise ClusterGone("the Ray cluster has lost the node of this process")
    used = [each for each in there if each["NodeManagerAddress"] not in avoided]
    gpus = 0 if os.environ.get("JAX_PLATFORMS") == "cpu" else int(sum(each["Resources"].get("GPU", 0) for each in used))
    with_gpus = [each for each in used if gpus and each["Resources"].get("GPU")]
    return Nodes(
        gpus,
        int(sum(each["Resources"].get("CPU", 0) for each in used if each not in with_gpus)),
        tuple(each["NodeID"] for each in there if each not in used),
        tuple(each["NodeID"] for each in with_gpus),
    )


def _check_answers(address: str) -> None:
    """Raise `ClusterGone` where nothing answers: Ray's own calls would wait for a minute, and then end the process."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), WAIT).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise ClusterGone(f"the Ray cluster at {address} does not answer any more ({error})") from error
        time.sleep(0.5)


def line_of(error: Exception) -> str:
    """An error of Ray's: its kind, and the first line of what it says."""
    line = str(error).strip().partition("\n")[0]
    return visible(f"{type(error).__name__}{': ' if line else ''}{line}")


def of_node(error: ray.exceptions.RayTaskError) -> tuple[str, str]:
    """The address of a node on which a task failed, and why: not by a trial, as those errors are caught there."""
    found = re.search(r"\bip=([^,)\s]+)", str(error))  # as the exception that Ray raises in its place has no other
    address, text = found[1] if found else "an unknown address", str(error.cause).strip()
    if "failed to import on the worker" not in text:
        return address, reason(error.cause)
    last = visible(text.splitlines()[-1].strip())  # before it comes all of the node's sys.path
    return address, f"flaxvision cannot be imported there ({last}): install flaxvision {__version__} on every node"
