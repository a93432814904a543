"""Core: a dump of memory as an ELF file (``ET_CORE``), its segments as columns.

QEMU's dump-guest-memory, /proc/vmcore and makedumpfile -E write it. A segment tells
where its bytes were in physical memory and, if page tables were walked, in virtual.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.file import EHDR, EM_X86_64, Bytes
from harness.errors import FormatError

ET_CORE, PT_LOAD = 4, 1
PHDR = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("virtual", "<u8"),
        ("physical", "<u8"),
        ("filesize", "<u8"),
        ("memsize", "<u8"),
        ("align", "<u8"),
    ]
)
_MANY = 0xFFFF  # PN_XNUM: the count is in the first section header


class Core(Struct, frozen=True):
    """A dump.

    Attributes:
        name: what messages call it.
        data: every byte of the file.
        offset: u64[n], where each segment's bytes are in it.
        size: u64[n], how many.
        physical: u64[n], where they were.
        virtual: u64[n], the same by the page tables; 0 if nobody asked them.
    """

    name: str
    data: Bytes
    offset: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    physical: npt.NDArray[np.uint64]
    virtual: npt.NDArray[np.uint64]

    def read(self, address: int, size: int, *, physical: bool) -> bytes | None:
        """Return ``size`` bytes at ``address``; None if they are not all there."""
        parts = []
        while size > 0:
            part = self._part(
                address, size, self.physical if physical else self.virtual
            )
            if part is None:
                return None
            parts.append(part)
            address += len(part)
            size -= len(part)
        return b"".join(parts)

    def physical_of(self, address: int) -> int:
        """Return where the byte at ``address``, which :meth:`read` finds, was."""
        row = self._row(address, self.virtual)
        assert row is not None
        return int(self.physical[row]) + address - int(self.virtual[row])

    def _part(
        self, address: int, size: int, starts: npt.NDArray[np.uint64]
    ) -> bytes | None:
        if (row := self._row(address, starts)) is None:
            return None
        within = address - int(starts[row])
        first = int(self.offset[row]) + within
        length = min(size, int(self.size[row]) - within)
        return self.data[first : first + length].tobytes()

    def _row(self, address: int, starts: npt.NDArray[np.uint64]) -> int | None:
        at = np.uint64(address)
        rows = np.flatnonzero((starts <= at) & (at - starts < self.size))
        return int(rows[0]) if len(rows) else None


def parse_core(data: Bytes, name: str) -> Core:
    """Read the headers of a dump.

    Raises:
        FormatError: it is none, is cut off, or is not of x86-64.
    """
    if len(data) < EHDR.itemsize:
        raise FormatError(f"{name}: {len(data)} bytes, expected an ELF dump of memory")
    header = np.frombuffer(data[: EHDR.itemsize], EHDR)[0]
    if header["magic"] != b"\x7fELF" or header["type"] != ET_CORE:
        raise FormatError(
            f"{name} is no ELF dump of memory",
            hint="write one with QMP's dump-guest-memory, or makedumpfile -E",
        )
    if header["machine"] != EM_X86_64:
        raise FormatError(f"{name}: machine {header['machine']}, expected x86-64")
    first, count = int(header["phoff"]), int(header["phnum"])
    if count == _MANY:
        # gABI: of the first section header, sh_info has the number
        at = int(header["shoff"]) + 44
        count = int.from_bytes(data[at : at + 4].tobytes(), "little")
    end = first + count * PHDR.itemsize
    if header["phentsize"] != PHDR.itemsize or end > len(data):
        raise FormatError(f"{name}: {count} program headers do not fit into the file")
    records = np.frombuffer(data[first:end], PHDR)
    loads = records[(records["type"] == PT_LOAD) & (records["filesize"] > 0)]
    ends = loads["offset"] + loads["filesize"]
    if len(loads) and int(ends.max()) > len(data):
        raise FormatError(
            f"{name}: truncated: a segment ends at {int(ends.max()):#x}, the file at "
            f"{len(data):#x}"
        )
    return Core(
        name,
        data,
        loads["offset"].astype(np.uint64),
        loads["filesize"].astype(np.uint64),
        loads["physical"].astype(np.uint64),
        loads["virtual"].astype(np.uint64),
    )
