"""Table: all entries of a program, as columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.orc.entry import SIGNAL, OrcType
from harness.elf.orc.format import LAYOUTS, OrcFormat, from_header, sniff
from harness.elf.program import Program, Section
from harness.errors import FormatError

ENTRY_SIZE = 6
IP_SIZE = 4
_ENTRY = np.dtype([("sp_offset", "<i2"), ("bp_offset", "<i2"), ("word", "<u2")])


class OrcTable(Struct, frozen=True):
    """The table as columns, in the order of the file; one row per entry.

    Attributes:
        ip: u64[n], the address from which an entry holds.
        sp_offset: i16[n], bytes from sp_reg to the CFA.
        bp_offset: i16[n], bytes from bp_reg to the saved RBP.
        sp_reg: u8[n], OrcReg or ILLEGAL.
        bp_reg: u8[n], OrcReg or ILLEGAL.
        type: u8[n], OrcType or ILLEGAL.
        signal: bool[n]: the frame below was interrupted, not called. Where the
            format has no such bit (up to 6.2) the unwinder derives it from the
            type, and so do we.
        raw: u16[n], the word of bit fields as found.
        format: the layout it was read as.
        from_header: .orc_header told the format; else the entries did.
    """

    ip: npt.NDArray[np.uint64]
    sp_offset: npt.NDArray[np.int16]
    bp_offset: npt.NDArray[np.int16]
    sp_reg: npt.NDArray[np.uint8]
    bp_reg: npt.NDArray[np.uint8]
    type: npt.NDArray[np.uint8]
    signal: npt.NDArray[np.bool_]
    raw: npt.NDArray[np.uint16]
    format: OrcFormat
    from_header: bool

    def __len__(self) -> int:
        return len(self.ip)

    @property
    def state(self) -> npt.NDArray[np.int64]:
        """Each entry without its address as one number, i64[n]; see :func:`pack`."""
        return self._packed(slice(None))

    def _packed(self, rows: slice) -> npt.NDArray[np.int64]:
        state = self.sp_offset[rows].astype(np.int64) & 0xFFFF
        state |= (self.bp_offset[rows].astype(np.int64) & 0xFFFF) << 16
        state |= self.sp_reg[rows].astype(np.int64) << 32
        state |= self.bp_reg[rows].astype(np.int64) << 36
        state |= self.type[rows].astype(np.int64) << 40
        state |= self.signal[rows] * SIGNAL
        return state

    def one(self, row: int) -> int:
        """Return the state of the entry at ``row``."""
        return int(self._packed(slice(row, row + 1))[0])

    @property
    def illegal(self) -> npt.NDArray[np.bool_]:
        """Which entries hold codes or bits that their format does not have."""
        return LAYOUTS[self.format].illegal(self.raw)

    def sorted(self) -> OrcTable:
        """Return the table in the order that the kernel looks it up in.

        Of entries at one address those without a state go first, so that the
        lookup takes the other (orc_sort_cmp in scripts/sorttable.h).
        """
        order = np.lexsort((self.type != OrcType.UNDEFINED, self.ip))
        columns = {
            name: getattr(self, name)[order]
            for name in (
                "ip",
                "sp_offset",
                "bp_offset",
                "sp_reg",
                "bp_reg",
                "type",
                "signal",
                "raw",
            )
        }
        return replace(self, **columns)

    def find(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the row that holds at each of ``addresses``, -1 before the first.

        The table must be :meth:`sorted`.
        """
        return np.searchsorted(self.ip, addresses, "right").astype(np.int64) - 1


def parse_orc(program: Program) -> OrcTable | None:
    """Read the ORC table of ``program``; None if it carries none.

    Raises:
        FormatError: the two sections disagree, or their layout is unknown.
    """
    entries, ips = program.section(".orc_unwind"), program.section(".orc_unwind_ip")
    if entries is None and ips is None:
        return None
    count = _count(program, entries, ips)
    if not count:
        return None
    assert entries is not None
    assert ips is not None
    fields = np.frombuffer(entries.data, dtype=_ENTRY)
    word = fields["word"].astype(np.uint16)
    header = program.section(".orc_header")
    if header is None:
        orc_format = sniff(program, word)
    else:
        orc_format = from_header(program, header, word)
    layout = LAYOUTS[orc_format]
    offsets = np.frombuffer(ips.data, dtype="<i4").astype(np.int64).view(np.uint64)
    places = np.uint64(ips.address) + np.arange(count, dtype=np.uint64) * np.uint64(4)
    sp_reg, bp_reg, kind, signal = layout.decode(word)
    return OrcTable(
        ip=places + offsets,
        sp_offset=fields["sp_offset"].astype(np.int16),
        bp_offset=fields["bp_offset"].astype(np.int16),
        sp_reg=sp_reg,
        bp_reg=bp_reg,
        type=kind,
        signal=signal,
        raw=word,
        format=orc_format,
        from_header=header is not None,
    )


def _count(program: Program, entries: Section | None, ips: Section | None) -> int:
    if entries is None or ips is None:
        has, lacks = ".orc_unwind", ".orc_unwind_ip"
        if entries is None:
            has, lacks = lacks, has
        raise FormatError(f"{program.name}: has {has} but no {lacks}")
    for section, size in ((entries, ENTRY_SIZE), (ips, IP_SIZE)):
        if section.data.size % size or section.data.size != section.size:
            raise FormatError(
                f"{program.name}: {section.name} has {section.data.size} bytes of "
                f"{section.size}, expected a multiple of {size}"
            )
    count, ip_count = entries.size // ENTRY_SIZE, ips.size // IP_SIZE
    if count != ip_count:
        raise FormatError(
            f"{program.name}: .orc_unwind has {count} entries, "
            f".orc_unwind_ip has {ip_count}"
        )
    return count
