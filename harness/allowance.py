"""Allowance: the cores and the memory of this machine that we may use.

A container's own limits count, of either version of cgroups.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
JOB_MB = 384  # of a build; cells/need.py says how it was measured
RESERVE_MB = 512  # left to everybody else
_UNLIMITED = 1 << 60  # bytes; what version 1 of cgroups calls no limit is more


def jobs(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Return how many jobs run at once unless people say otherwise.

    Memory for one of them is left free: a moment later less may be available.
    """
    return max(1, min(int(cores(cgroup)), memory_mb(proc, cgroup) // JOB_MB - 1))


def cores(cgroup: Path = CGROUP) -> float:
    """Return how many cores we may use, at least one."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return max(1.0, min([ours, *_quotas(cgroup)]))


def memory_mb(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Return the memory that is available now, less what is left to others."""
    available = min([_available_mb(proc / "meminfo"), *_limits_mb(cgroup)])
    return max(0, available - RESERVE_MB)


def _available_mb(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:  # a chroot without it: all that there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) >> 10
    raise ValueError(f"{meminfo} has no MemAvailable")


def _limits_mb(cgroup: Path) -> list[int]:
    found = []
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        most, used = _number(cgroup / limit), _number(cgroup / usage)
        if most is not None and used is not None and most < _UNLIMITED:
            given_back = _stat((cgroup / limit).with_name("memory.stat"), cache)
            found.append((most - used + given_back) >> 20)
    return found


def _stat(path: Path, name: str) -> int:
    # What files left in memory counts as used, and is given back when others need it.
    try:
        stat = dict(line.split() for line in path.read_text().splitlines())
        return int(stat.get(name, 0))
    except (OSError, ValueError):
        return 0


def _quotas(cgroup: Path) -> list[float]:
    try:
        quota, _, period = (cgroup / "cpu.max").read_text().partition(" ")
        return [] if quota == "max" else [int(quota) / int(period)]
    except (OSError, ValueError):
        pass
    most = _number(cgroup / "cpu/cpu.cfs_quota_us")
    period_us = _number(cgroup / "cpu/cpu.cfs_period_us")
    return [most / period_us] if most and most > 0 and period_us else []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
