"""How much memory and how many cores this process may take: what the machine has, and what control groups leave of it.

Containers, batch systems and services limit by Linux's control groups, of version 1 or 2, what `/proc/meminfo` and the
number of cores do not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN, MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")
_CACHE = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")  # which the kernel gives up


def memory() -> float:
    """Bytes that this process may have at most; infinity where the system does not say."""
    return min([_of_machine("MemTotal"), *(limit for _, limit in _limited())])


def free_memory() -> float:
    """Bytes that this process may still take, with those of files that the kernel would give up for it."""
    return min([_of_machine("MemAvailable"), *(limit - _used(group) for group, limit in _limited())])


def most_cores() -> float:
    """How many cores this process may keep busy, by quotas of time; infinity without one."""
    quotas = [math.inf]
    for group in _groups("cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")  # "max 100000" is without
        quota, period = quota or _read(group / "cpu.cfs_quota_us"), period or _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # -1 is without
            quotas.append(int(quota) / int(period))
    return min(quotas)


def _of_machine(entry: str) -> float:
    rows = (line.split() for line in _read(MEMINFO).splitlines())
    return next((1024.0 * int(row[1]) for row in rows if row[0] == f"{entry}:"), math.inf)


def _limited() -> Iterator[tuple[Path, float]]:
    """The control groups with a limit of memory, and how many bytes it is."""
    for group in _groups("memory"):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if limit.isdecimal():  # "max" is without; version 1 has a number for that, beyond what any machine has
            yield group, float(limit)


def _used(group: Path) -> float:
    """Bytes that a group holds, but for files that the kernel keeps as long as nobody needs their memory."""
    used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
    rows = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    # Version 1 has those of the groups within one only in its totals.
    cache = max(sum(float(rows.get(name, 0)) for name in pair) for pair in (_CACHE[:2], _CACHE[2:]))
    return max(0.0, float(used or 0) - cache)


def _groups(controller: str) -> Iterator[Path]:
    """The control groups around this process that may limit something, from its own to the outermost that it sees."""
    for line in _read(OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        own = root / path.lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root) and group.is_dir())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
