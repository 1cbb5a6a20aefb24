"""Limits of memory and cores, from files as Linux has them in containers, batch jobs and services."""

from __future__ import annotations

import math

import pytest

from flaxvision import _limits, runtime

GB = 2**30
MEMINFO = f"MemTotal:       {16 * 2**20} kB\nMemFree:         100 kB\nMemAvailable:    {10 * 2**20} kB\n"
NONE = 9223372036854771712  # a limit of version 1 that is none
STAT = f"anon {GB // 2}\ninactive_file {GB // 4}\nactive_file {GB // 8}\nunevictable 0"
V1_STAT = f"cache 0\ninactive_file 0\nactive_file 0\ntotal_inactive_file {GB // 4}\ntotal_active_file {GB // 8}"

# The lines of /proc/self/cgroup, files below /sys/fs/cgroup, and what follows: GB in all, GB free, cores.
MACHINES = {
    "nothing is told": ("", {}, (16, 10, math.inf)),
    "no limit": (
        "0::/user.slice/a.scope",
        {"user.slice/a.scope/memory.max": "max", "user.slice/a.scope/cpu.max": "max 100000", "user.slice/cgroup": ""},
        (16, 10, math.inf),
    ),
    "a service": (
        "0::/system.slice/a.service",
        {
            "system.slice/a.service/memory.max": str(2 * GB),
            "system.slice/a.service/memory.current": str(GB),
            "system.slice/a.service/memory.stat": STAT,
            "system.slice/a.service/cpu.max": "150000 100000",
        },
        (2, 2 - 1 + 3 / 8, 1.5),
    ),
    "the slice around it has less": (
        "0::/a.slice/b.scope",
        {
            "a.slice/b.scope/memory.max": str(8 * GB),
            "a.slice/b.scope/memory.current": "0",
            "a.slice/memory.max": str(4 * GB),
            "a.slice/memory.current": str(3 * GB),
            "a.slice/cpu.max": "400000 200000",
            "a.slice/b.scope/cpu.max": "300000 100000",
        },
        (4, 1, 2.0),
    ),
    "a container of Docker": (
        "0::/",
        {"memory.max": str(GB), "memory.current": "0", "cpu.max": "50000"},
        (1, 1, math.inf),
    ),
    "version 1": (
        "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/",
        {
            "memory/a/b/memory.limit_in_bytes": str(NONE),
            "memory/a/memory.limit_in_bytes": str(3 * GB),
            "memory/a/memory.usage_in_bytes": str(2 * GB),
            "memory/a/memory.stat": V1_STAT,
            "cpu/a/cpu.cfs_quota_us": "100000",
            "cpu/a/cpu.cfs_period_us": "100000",
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
        },
        (3, 3 - 2 + 3 / 8, 1.0),
    ),
    "version 1 in a container, which does not see the path": (
        "4:memory:/docker/0123",
        {"memory/memory.limit_in_bytes": str(2 * GB), "memory/memory.usage_in_bytes": "0"},
        (2, 2, math.inf),
    ),
    "more than there is": ("0::/", {"memory.max": str(64 * GB), "memory.current": "0"}, (16, 10, math.inf)),
    "more is used than allowed": ("0::/", {"memory.max": str(GB), "memory.current": str(2 * GB)}, (1, -1, math.inf)),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    def make(own, files):
        for name, path, content in (("OWN", "own", own), ("MEMINFO", "meminfo", MEMINFO)):
            (tmp_path / path).write_text(content)
            monkeypatch.setattr(_limits, name, tmp_path / path)
        root = tmp_path / "cgroup"
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content + "\n")
        monkeypatch.setattr(_limits, "CGROUPS", root)

    return make


@pytest.mark.parametrize(("own", "files", "expected"), MACHINES.values(), ids=MACHINES)
def test_limits(machine, own, files, expected):
    machine(own, files)
    assert (_limits.memory() / GB, _limits.free_memory() / GB, _limits.most_cores()) == expected


def test_elsewhere_nothing_is_known(tmp_path, monkeypatch):
    for name in ("OWN", "MEMINFO", "CGROUPS"):
        monkeypatch.setattr(_limits, name, tmp_path / "none")
    assert (_limits.memory(), _limits.free_memory(), _limits.most_cores()) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize(("quota", "number"), [("max", 4), ("150000", 2), ("20000", 1), ("900000", 4)])
def test_no_more_cores_than_the_quota_keeps_busy(machine, monkeypatch, quota, number):
    machine("0::/", {"cpu.max": f"{quota} 100000"})
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda process: {3, 5, 6, 7}, raising=False)
    assert runtime.cores() == [3, 5, 6, 7][:number]
