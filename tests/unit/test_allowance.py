"""Allowance: the cores and the memory of this machine, and of a container on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import allowance
from harness.allowance import JOB_MB, RESERVE_MB, cores, memory_mb

CORES = len(os.sched_getaffinity(0))


def machine(
    directory: Path, files: dict[str, str], available_mb: int = 8192
) -> tuple[float, int]:
    """Return what a machine has whose /proc and cgroups hold ``files``."""
    (directory / "meminfo").write_text(
        f"MemTotal: 99999999 kB\nMemAvailable: {available_mb << 10} kB\n"
    )
    for name, text in files.items():
        path = directory / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cgroup = directory / "cgroup"
    return cores(cgroup), memory_mb(directory, cgroup)


def test_a_bare_machine(tmp_path: Path) -> None:
    """What is available counts, less a reserve; and the cores that we may use."""
    assert machine(tmp_path, {}) == (CORES, 8192 - RESERVE_MB)


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": f"{3 << 30}\n", "memory.current": f"{1 << 30}\n"},
        {
            "memory/memory.limit_in_bytes": f"{3 << 30}",
            "memory/memory.usage_in_bytes": f"{1 << 30}",
        },
    ],
    ids=["v2", "v1"],
)
def test_the_memory_of_a_container(tmp_path: Path, files: dict[str, str]) -> None:
    """What its limit leaves is all that there is."""
    assert machine(tmp_path, files)[1] == 2048 - RESERVE_MB


@pytest.mark.parametrize(
    ("directory", "name"),
    [("", "inactive_file"), ("memory/", "total_inactive_file")],
    ids=["v2", "v1"],
)
def test_what_files_left_in_memory_is_given_back(
    tmp_path: Path, directory: str, name: str
) -> None:
    """A container that has read much is not short of memory."""
    limit, usage = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if directory
        else ("memory.max", "memory.current")
    )
    files = {
        directory + limit: f"{3 << 30}",
        directory + usage: f"{2 << 30}",
        f"{directory}memory.stat": f"anon 1\n{name} {1 << 30}\n",
    }
    assert machine(tmp_path, files)[1] == 2048 - RESERVE_MB


def test_a_container_without_a_limit(tmp_path: Path) -> None:
    """Both versions have their own way to say so."""
    files = {
        "memory.max": "max\n",
        "memory.current": "1\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "1",
        "cpu.max": "max 100000\n",
    }
    assert machine(tmp_path, files) == (CORES, 8192 - RESERVE_MB)


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "100000 100000\n"},
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
    ],
    ids=["v2", "v1"],
)
def test_the_cores_of_a_container(tmp_path: Path, files: dict[str, str]) -> None:
    """A quota of one core is one core."""
    assert machine(tmp_path, files)[0] == 1


def test_a_machine_without_proc(tmp_path: Path) -> None:
    """All of its memory counts: who only validates needs no /proc."""
    assert memory_mb(tmp_path, tmp_path) > RESERVE_MB


@pytest.mark.parametrize(
    ("quota", "available_mb", "jobs"),
    [
        ("max", 64 << 10, 64),
        ("400000", 64 << 10, 4),
        ("150000", 64 << 10, 1),
        ("max", RESERVE_MB + 11 * JOB_MB, 10),
        ("max", RESERVE_MB, 1),
    ],
)
def test_jobs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quota: str,
    available_mb: int,
    jobs: int,
) -> None:
    """Of 64 cores those that a quota and the memory allow; never none."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    machine(tmp_path, {"cpu.max": f"{quota} 100000"}, available_mb)

    assert allowance.jobs(tmp_path, tmp_path / "cgroup") == jobs
