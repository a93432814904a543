"""Needs: what a build or a guest takes, and what this machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.boot.machine import OVERHEAD_MB
from harness.cells.cell import choose, read
from harness.cells.need import RESERVE_MB, Need, of_build, of_cell, of_machine
from harness.corpus.built import Build

CORES = len(os.sched_getaffinity(0))


def machine(directory: Path, files: dict[str, str], available_mb: int = 8192) -> Need:
    """Return what a machine has whose /proc and cgroups hold ``files``."""
    (directory / "meminfo").write_text(
        f"MemTotal: 99999999 kB\nMemAvailable: {available_mb << 10} kB\n"
    )
    for name, text in files.items():
        path = directory / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return of_machine(directory, directory / "cgroup")


def test_a_bare_machine(tmp_path: Path) -> None:
    """What is available counts, less a reserve; and the cores that we may use."""
    assert machine(tmp_path, {}) == Need(CORES, 8192 - RESERVE_MB)


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
    assert machine(tmp_path, files).memory_mb == 2048 - RESERVE_MB


def test_a_container_without_a_limit(tmp_path: Path) -> None:
    """Both versions have their own way to say so."""
    files = {
        "memory.max": "max\n",
        "memory.current": "1\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "1",
        "cpu.max": "max 100000\n",
    }
    assert machine(tmp_path, files) == Need(CORES, 8192 - RESERVE_MB)


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
    assert machine(tmp_path, files).cores == 1


def test_this_machine() -> None:
    """It has something."""
    assert of_machine().cores >= 1


def test_more_is_needed_for_more() -> None:
    """A full kernel, more jobs; a nested guest; and never less than a container's."""
    small, full = Build("b", "bookworm"), Build("b", "bookworm", profile="full")

    assert of_build(small, 2).fits(of_build(full, 2))
    assert of_build(small, 64).memory_mb > of_build(full, 1).memory_mb
    needs = {
        cell.boot.platform: of_cell(cell) for cell in choose(read(), (), nightly=False)
    }
    assert needs["kvm"].memory_mb > needs["native"].memory_mb > OVERHEAD_MB  # type: ignore[index]
