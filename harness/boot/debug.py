"""Debug: a guest that is left stopped where something is wrong, for a person with gdb."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from harness.boot.gdb import Gdb
from harness.boot.wire import GdbTimeout, LostGuest
from harness.elf.program import Program
from harness.finding import Location

HELD_S = 24 * 3600.0  # how long a machine may stand
DIES_AT = "panic"  # with oops=panic, however a kernel dies (kernel/panic.c)


class Stopped(Struct, frozen=True):
    """A machine that waits for a debugger.

    Attributes:
        where: the instruction that the vCPU stands at.
        why: what is wrong.
        vmlinux: the kernel's symbols.
        socket: where QEMU's gdbstub listens, on this host.
    """

    where: Location
    why: str
    vmlinux: Path
    socket: Path

    @property
    def command(self) -> str:
        """What attaches to it."""
        remote = f"target remote {self.socket}"
        return shlex.join(["gdb", str(self.vmlinux), "-ex", remote])


OnStop = Callable[[Stopped], None]


def run_to_death(gdb: Gdb, program: Program, timeout_s: float) -> Location | None:
    """Let the guest run until its kernel dies; None if it did not within the time.

    It is left stopped at the first instruction of panic().
    """
    address = program.symbols.find(DIES_AT)
    if address is None:
        return None
    gdb.insert_breakpoint(address)
    gdb.cont()
    try:
        stop = gdb.wait(timeout_s)
    except (GdbTimeout, LostGuest):
        return None
    at = gdb.registers().rip
    gdb.remove_breakpoint(address)
    return program.location(at) if stop.trapped and at == address else None
