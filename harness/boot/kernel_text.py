"""Kernel text: the text that the kernel's orc_find() knows, with the table it finds."""

from __future__ import annotations

import bisect

from msgspec import Struct

from harness.elf.orc import OrcEntry, OrcTable, unpack
from harness.elf.program import Program
from harness.errors import FormatError


class KernelText(Struct, frozen=True):
    """The text that orc_find() knows, with the table that it finds there.

    Attributes:
        ranges: [_stext, _etext) and [_sinittext, _einittext).
        modules: where the kernel maps modules; their tables are not here.
        ip: addresses of the table's entries in lookup order.
        state: packed entries, beside ``ip``.
    """

    ranges: tuple[tuple[int, int], ...]
    modules: tuple[int, int]
    ip: list[int]
    state: list[int]

    def slid(self, by: int) -> KernelText:
        """Return what KASLR makes of it, ``by`` bytes behind its linked address."""
        if not by:
            return self
        return KernelText(
            tuple((begin + by, end + by) for begin, end in self.ranges),
            (self.modules[0] + by, self.modules[1]),
            [ip + by for ip in self.ip],
            self.state,
        )

    def holds(self, address: int) -> bool:
        """The kernel's __kernel_text_address(), without modules."""
        return any(begin <= address < end for begin, end in self.ranges)

    def in_module(self, address: int) -> bool:
        """True in the window that modules are mapped in."""
        return self.modules[0] <= address < self.modules[1]

    def find(self, ip: int) -> int | None:
        """Return the index of the entry for ``ip``; None where no table is."""
        if not self.holds(ip):
            return None
        return max(bisect.bisect_right(self.ip, ip) - 1, 0)

    def entry(self, index: int) -> OrcEntry:
        """Return the entry at ``index``."""
        return unpack(self.state[index])


def kernel_text(program: Program, table: OrcTable) -> KernelText:
    """Return the text and table of a vmlinux at its linked address.

    Raises:
        FormatError: it has no symbols that bound its text.
    """
    bounds = (("_stext", "_etext"), ("_sinittext", "_einittext"))
    ranges = []
    for begin, end in bounds:
        first, last = program.symbols.find(begin), program.symbols.find(end)
        if first is None or last is None:
            raise FormatError(
                f"{program.name} has no {begin} and {end}",
                hint="a stripped image cannot be probed; take the vmlinux beside it",
            )
        ranges.append((first, last))
    end_of_image = max(s.address + s.size for s in program.sections if s.alloc)
    ordered = table.sorted()
    return KernelText(
        tuple(ranges),
        (_align(end_of_image, 1 << 21), 0xFFFF_FFFF_FF00_0000),
        ordered.ip.tolist(),
        ordered.state.tolist(),
    )


def _align(value: int, size: int) -> int:
    return (value + size - 1) & -size
