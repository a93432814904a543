"""Memory: a stopped guest's kernel image, as its memory holds it.

QEMU writes guest memory to a file of the machine's directory (``memsave``, by the
stopped vCPU's page tables): a whole kernel takes less time than a page through the
gdbstub's packets.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from msgspec.structs import replace

from harness.boot.gdb import Gdb
from harness.boot.machine import Machine
from harness.elf.program import Program, Section
from harness.errors import FormatError, InfraError

FILE = "memory"
_WRAP = 1 << 64


class Memory(Protocol):
    """A kernel's memory, by its own addresses."""

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes.

        Raises:
            InfraError: nothing is there, or it cannot be read.
        """

    def write(self, address: int, data: bytes) -> None:
        """Change it.

        Raises:
            InfraError: nothing is there.
        """


class GuestMemory:
    """The memory of a stopped guest."""

    def __init__(self, machine: Machine, gdb: Gdb) -> None:
        self._machine = machine
        self._gdb = gdb

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes, see :class:`Memory`."""
        # QMP's numbers are signed where an old QEMU reads them
        value = address - _WRAP if address >= _WRAP // 2 else address
        name = f"{self._machine.inside}/{FILE}"
        self._machine.qmp.command("memsave", val=value, size=size, filename=name)
        data = self._machine.read(FILE)
        if len(data) != size:
            raise InfraError(
                f"qemu saved {len(data)} bytes of guest memory at {address:#x}, "
                f"expected {size}"
            )
        return data

    def write(self, address: int, data: bytes) -> None:
        """Change it, whatever its page protection, see :class:`Memory`."""
        self._gdb.write(address, data)


class StubMemory:
    """The memory of a guest whose QEMU we can reach by its gdbstub alone: a nested one."""

    def __init__(self, gdb: Gdb) -> None:
        self._gdb = gdb

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes, see :class:`Memory`."""
        return self._gdb.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Change it, whatever its page protection, see :class:`Memory`."""
        self._gdb.write(address, data)


def memory_of(machine: Machine, gdb: Gdb) -> Memory:
    """Return the memory of the guest that ``machine`` runs, stopped by ``gdb``."""
    if machine.plan.outer_nonce:
        return StubMemory(gdb)
    return GuestMemory(machine, gdb)


def read_image(program: Program, memory: Memory, *, init: bool) -> Program:
    """Return ``program`` with its sections as they are in memory.

    Sections that are not in the running image (per-CPU ones are copied elsewhere) are
    as linked. Without ``init`` those that a kernel frees when it is up are left out.

    Raises:
        InfraError: the memory cannot be read.
        FormatError: ``program`` does not say where its image lies.
    """
    kept = {
        (section.index, section.address): replace(
            section,
            data=np.frombuffer(memory.read(section.address, section.size), np.uint8),
        )
        for section in image_sections(program, init=init)
    }
    sections = [
        kept.get((section.index, section.address), section)
        for section in program.sections
        if not section.executable or (section.index, section.address) in kept
    ]
    return replace(program, sections=tuple(sections))


def image_sections(program: Program, *, init: bool) -> list[Section]:
    """Return the sections that are mapped where they are linked."""
    first, last = _symbol(program, "_text"), _symbol(program, "__bss_stop")
    inside = [s for s in program.sections if first <= s.address and s.end <= last]
    if init:
        return inside
    begin, end = _symbol(program, "__init_begin"), _symbol(program, "__init_end")
    return [s for s in inside if s.end <= begin or end <= s.address]


def _symbol(program: Program, name: str) -> int:
    address = program.symbols.find(name)
    if address is None:
        raise FormatError(
            f"{program.name} has no symbol {name}: where its image lies is not known",
            hint="give the vmlinux with its symbols",
        )
    return address
