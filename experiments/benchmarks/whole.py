"""Whole commands: the time from start to exit, and the memory of all their processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

EVERY = 0.25  # seconds between two looks at the memory


def run(
    command: Sequence[str], folder: Path, *, watch: bool = False, environment: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Run a command in a folder, where log.txt keeps what it prints; `environment` is added to this process's.

    Returns:
        Seconds from its start to its exit; and with `watch` the most memory of it and its children together, in MB.

    Raises:
        RuntimeError: If it fails.
    """
    most = [0.0]
    with (folder / "log.txt").open("a", encoding="utf-8") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, **(environment or {})}
        )
        if watch:
            threading.Thread(target=_watch, args=(process, most), daemon=True).start()
        status = process.wait()
        seconds = time.perf_counter() - began
    if status:
        last = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise RuntimeError(f"{' '.join(command)} ended with status {status}: {''.join(last)}")
    return seconds, most[0]


def _watch(process: subprocess.Popen, most: list[float]) -> None:
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            most[0] = max(most[0], sum(map(_memory, [root, *root.children(recursive=True)])))
        except psutil.Error:
            pass
        time.sleep(EVERY)


def _memory(process: psutil.Process) -> float:
    """Memory in MB; on Linux, pages that processes share are shared out among them."""
    try:
        found = process.memory_full_info() if sys.platform == "linux" else process.memory_info()
    except psutil.Error:
        return 0.0
    return float(getattr(found, "pss", found.rss)) / 2**20
