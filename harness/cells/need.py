"""Need: the cores and the memory that a build or a guest takes, and a machine has.

A guest's memory is its machine's, and QEMU's beside it: its container may have no more.
What a build takes is three times what was measured: a larger configuration's link, or
objtool on its vmlinux.o, may take more. Measured, with two jobs, was the
container's peak (``memory.max_usage_in_bytes``, page cache and all), and what processes
had of it (``total_rss``): of ``small`` with gcc 280 MB for 6.12 and 337 MB for 6.1, 123
and 175 MB of them; of ``full`` with gcc 382 MiB for 5.10, 452 for 6.1 and 421 for 6.12,
162, 261 and 263 of them, and with clang 443 MiB for 6.12, 223 of them.
"""

from __future__ import annotations

from msgspec import Struct

from harness import allowance
from harness.allowance import JOB_MB
from harness.boot import nested
from harness.boot.machine import OVERHEAD_MB
from harness.boot.platforms import kvm, native, xen
from harness.cells.cell import Cell
from harness.corpus.built import Build
from harness.variant import Platform

BUILD_MB = {"small": 1024, "full": 1536}
OURS_MB = 768  # our own, while we validate and compare
GUEST_MB = {
    Platform.NATIVE: native.MEMORY_MB,
    Platform.KVM: max(kvm.MEMORY_MB, nested.MEMORY_MB),
    Platform.XEN: xen.MEMORY_MB,
    Platform.VSMP: native.MEMORY_MB,
}


class Need(Struct, frozen=True):
    """What work takes, or a machine has."""

    cores: float
    memory_mb: int

    def fits(self, room: Need) -> bool:
        """Tell whether there is so much in ``room``."""
        return self.cores <= room.cores and self.memory_mb <= room.memory_mb

    def __add__(self, other: Need) -> Need:
        return Need(self.cores + other.cores, self.memory_mb + other.memory_mb)

    def __sub__(self, other: Need) -> Need:
        return Need(self.cores - other.cores, self.memory_mb - other.memory_mb)

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores:g} cores"
        return f"{cores}, {self.memory_mb} MB"


def of_build(build: Build, jobs: int) -> Need:
    """Return what building ``build`` with ``jobs`` takes."""
    return Need(jobs, max(BUILD_MB[build.profile], jobs * JOB_MB))


def of_cell(cell: Cell) -> Need:
    """Return what validating and booting ``cell`` takes: one guest at a time.

    A nested guest has two CPUs, one of which waits for the other mostly.
    """
    return Need(1, GUEST_MB[cell.boot.platform] + OVERHEAD_MB + OURS_MB)


def of_machine() -> Need:
    """Return what this machine has now: usable cores, memory that is available."""
    return Need(allowance.cores(), allowance.memory_mb())
