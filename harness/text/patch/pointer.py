"""Pointer: where a call through pv_ops goes on a platform, as far as the image tells.

Natively that is what the image has in the array. Xen PV fills it at boot from tables of
its own (xen_irq_ops and others, shaped like the array), and then by code: where it keeps
a function for when a virtual CPU's state is mapped, that one's address
(xen_setup_vcpu_info_placement() in arch/x86/xen/enlighten_pv.c). KVM changes a few by
code. What code changes the image cannot tell for sure, so all of that is counted.
"""

from __future__ import annotations

import numpy as np

from harness.elf.program import Program
from harness.variant import Platform

_POINTER = 8
_XEN = ("xen_irq_ops", "xen_cpu_ops", "xen_mmu_ops")
_NOTHING = ("nop_func", "_paravirt_nop", "paravirt_nop")
# What a null pointer stands for: in alternatives (6.8), in .parainstructions (6.1).
_BUGS = ("BUG_func", "paravirt_BUG")


class Pointers:
    """The pointers of one platform.

    Attributes:
        guessed: how often a pointer was asked for that the platform may change.
    """

    def __init__(
        self, program: Program, platform: Platform, *, running: bool = False
    ) -> None:
        """``running`` says that ``program`` is what a machine has in its memory."""
        self.guessed = 0
        self._running = running
        bugs = filter(None, map(program.symbols.find, _BUGS))
        self._null = next(bugs, 0) if running else 0
        self._program = program
        self._tables = _tables(program) if platform is Platform.XEN else []
        self._sure = platform in (Platform.NATIVE, Platform.VSMP)
        self._base = program.symbols.find("pv_ops") or 0
        names = map(program.symbols.find, _NOTHING)
        self._nothing = frozenset(at for at in names if at is not None)

    def target(self, slot: int) -> int:
        """Return where a call through ``slot`` goes, 0 if the image does not tell."""
        self.guessed += not self._sure
        native = self._read(slot)
        for table in self._tables:
            if found := self._read(table + slot - self._base):
                return self._mapped(native) or found
        return native or self._null

    def changed(self, slot: int, linked: int) -> bool:
        """Whether the pointer at ``slot`` is known to be another than was ``linked``."""
        return self._read(slot) not in (0, linked)

    def is_null(self, slot: int) -> bool:
        """Whether the machine is known to have no function at ``slot``."""
        there = self._program.section_at(slot) is not None
        return self._running and there and not self._read(slot)

    def _mapped(self, native: int) -> int:
        """Return Xen's function for when a virtual CPU's state is mapped, or 0."""
        for name in names_at(self._program, native):
            operation = name.removeprefix("pv_").removeprefix("native_")
            if found := self._program.symbols.find(f"xen_{operation}_direct"):
                return found
        return 0

    def does_nothing(self, target: int) -> bool:
        """Whether the kernel writes NOPs in the place of a call of ``target``."""
        return target in self._nothing

    def _read(self, at: int) -> int:
        section = self._program.section_at(at)
        if section is None or not section.data.size or at + _POINTER > section.end:
            return 0
        return int(self._program.read(at, _POINTER).view("<u8")[0])


def running_pointers(image: Program) -> Pointers:
    """Return the pointers that a kernel's memory ``image`` has: none is guessed.

    A null pointer is made a call of a function that dies, where there is one.
    """
    return Pointers(image, Platform.NATIVE, running=True)


def names_at(program: Program, function: int) -> frozenset[str]:
    """Return all names of the function at an address."""
    address = program.symbols.address
    wanted = np.uint64(function)
    first = int(np.searchsorted(address, wanted, "left"))
    last = int(np.searchsorted(address, wanted, "right"))
    return frozenset(map(str, program.symbols.names[first:last]))


def _tables(program: Program) -> list[int]:
    """Return the addresses of Xen's tables that are shaped like pv_ops."""
    symbols = program.symbols
    array = symbols.find_index("pv_ops")
    found = []
    for index in map(symbols.find_index, _XEN):
        if array is None or index is None:
            continue
        if symbols.size[index] == symbols.size[array] > 0:
            found.append(int(symbols.address[index]))
    return found
