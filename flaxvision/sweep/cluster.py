"""The Ray cluster that a sweep uses: reached before anything is written, and kept from printing."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from pathlib import Path

from flaxvision._text import visible
from flaxvision.errors import UserError

WAIT = 3.0  # seconds for a cluster to answer


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
    """How many GPUs the cluster has, and how many cores of nodes that have none; a core at least."""
    import ray

    found = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    gpus = 0 if os.environ.get("JAX_PLATFORMS") == "cpu" else int(sum(each.get("GPU", 0) for each in found))
    cores = int(sum(each.get("CPU", 0) for each in found if not (gpus and each.get("GPU"))))
    return gpus, cores if gpus else max(1, cores)
