"""Orc: the unwind table, in one numbering whatever kernel wrote it.

An entry has always been 6 bytes: s16 sp_offset, s16 bp_offset and a word of bit
fields, whose layout changed four times (arch/x86/include/asm/orc_types.h):

    v1a  4.14 - 4.18   sp_reg 0-3, bp_reg 4-7, type 8-9
    v1b  4.19 - 6.2    + end 10
    v2   6.3           + signal 10, end 11 (commit ffb1b4a41016)
    v3   6.4 - 7.0     type 8-10, signal 11, no end (commit fb799447ae29)
    v4   7.1 -         registers renumbered (commit 1735858caa4b)

Kernels since 6.4 say which in .orc_header, a hash of the header file's text
(scripts/orc_hash.sh). For the others, and for vendor kernels that took the layout
but not the header, the table itself tells: see :func:`_sniff`.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.program import Program, Section
from harness.errors import FormatError

ENTRY_SIZE = 6
IP_SIZE = 4
SIGNAL = 1 << 44  # in a packed state


class OrcFormat(enum.StrEnum):
    """A layout of struct orc_entry."""

    V1A = "v1a"
    V1B = "v1b"
    V2 = "v2"
    V3 = "v3"
    V4 = "v4"


class OrcReg(enum.IntEnum):
    """The base register of a CFA or of a saved RBP (v3's numbers, and AX)."""

    UNDEFINED = 0
    PREV_SP = 1
    DX = 2
    DI = 3
    BP = 4
    SP = 5
    R10 = 6
    R13 = 7
    BP_INDIRECT = 8
    SP_INDIRECT = 9
    AX = 10


# To these unwind_next_frame() adds no sp_offset (arch/x86/kernel/unwind_orc.c, read in
# v5.10 and v6.12, which have no AX: that is taken to be like the others).
WITHOUT_OFFSET = frozenset({OrcReg.AX, OrcReg.DX, OrcReg.DI, OrcReg.R10, OrcReg.R13})


def offset_ignored(state: str) -> str:
    """Return the cause of findings about an entry, ``state``, with such an offset."""
    return f"offset ignored under {state}"


class OrcType(enum.IntEnum):
    """What lies at the CFA (v3's numbers)."""

    UNDEFINED = 0
    END_OF_STACK = 1
    CALL = 2
    REGS = 3
    REGS_PARTIAL = 4


ILLEGAL = 15  # a register or type code that the format does not have


class OrcEntry(Struct, frozen=True):
    """One unwind state, its fields in the canonical numbering.

    ``sp_reg`` and ``bp_reg`` are OrcReg and ``type`` is OrcType, or ILLEGAL.
    """

    sp_offset: int
    bp_offset: int
    sp_reg: int
    bp_reg: int
    type: int
    signal: bool


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
        return _LAYOUTS[self.format].illegal(self.raw)

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


def pack(entry: OrcEntry) -> int:
    """Return ``entry`` as one number, equal for equal entries of any format."""
    return (
        (entry.sp_offset & 0xFFFF)
        | (entry.bp_offset & 0xFFFF) << 16
        | entry.sp_reg << 32
        | entry.bp_reg << 36
        | entry.type << 40
        | entry.signal * SIGNAL
    )


def unpack(state: int) -> OrcEntry:
    """Return the entry that :func:`pack` made ``state`` of."""
    return OrcEntry(
        sp_offset=_s16(state),
        bp_offset=_s16(state >> 16),
        sp_reg=state >> 32 & 15,
        bp_reg=state >> 36 & 15,
        type=state >> 40 & 15,
        signal=bool(state & SIGNAL),
    )


def describe(state: int) -> str:
    """Say ``state`` in the words of ``objtool --dump=orc``.

    ``sp+16 call``, ``sp+16 call bp:prevsp-16``, ``sp+0 regs``, ``(und)``, ``end``.
    """
    entry = unpack(state)
    if entry.type in (OrcType.UNDEFINED, OrcType.END_OF_STACK) and not entry.sp_reg:
        return _TYPE_NAMES[entry.type]
    text = f"{_place(entry.sp_reg, entry.sp_offset)} "
    text += _TYPE_NAMES.get(entry.type, f"type:{entry.type}")
    if entry.bp_reg:
        text += f" bp:{_place(entry.bp_reg, entry.bp_offset)}"
    if entry.signal != (entry.type in (OrcType.REGS, OrcType.REGS_PARTIAL)):
        text += f" signal:{int(entry.signal)}"
    return text


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
        orc_format = _sniff(program, word)
    else:
        orc_format = _from_header(program, header, word)
    layout = _LAYOUTS[orc_format]
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


def header_format(program: Program) -> OrcFormat | None:
    """Return the format that .orc_header names; None without one that we know."""
    header = program.section(".orc_header")
    if header is None:
        return None
    return _HEADERS.get(header.data.tobytes().hex()[:_DIGITS])


def canonical_registers(
    orc_format: OrcFormat, codes: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Return the OrcReg of each of ``codes``, as ``orc_format`` numbers them."""
    table = np.full(256, ILLEGAL, dtype=np.uint8)
    table[:16] = _lookup(_LAYOUTS[orc_format].registers, np.arange(16))
    return np.asarray(table[codes])


def meanings(
    orc_format: OrcFormat,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return sp_reg, bp_reg and type of every word that an entry may have."""
    layout = _LAYOUTS[orc_format]
    sp_reg, bp_reg, kind, _ = layout.decode(np.arange(1 << 16).astype(np.uint16))
    return sp_reg, bp_reg, kind


class _Layout(Struct, frozen=True):
    """How one format packs the word: codes index ``registers`` and ``types``."""

    registers: tuple[int, ...]
    types: tuple[int, ...]
    type_mask: int
    signal_bit: int = 0
    end_bit: int = 0

    def decode(
        self, word: npt.NDArray[np.uint16]
    ) -> tuple[
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8],
        npt.NDArray[np.bool_],
    ]:
        """Return the columns sp_reg, bp_reg, type and signal."""
        sp_reg = _lookup(self.registers, word & 15)
        bp_reg = _lookup(self.registers, word >> 4 & 15)
        kind = _lookup(self.types, word >> 8 & self.type_mask)
        if not self.has_undefined_type:
            end = (word & self.end_bit) != 0
            kind[(sp_reg == OrcReg.UNDEFINED) & ~end] = OrcType.UNDEFINED
            kind[(sp_reg == OrcReg.UNDEFINED) & end] = OrcType.END_OF_STACK
        if self.signal_bit:
            return sp_reg, bp_reg, kind, (word & self.signal_bit) != 0
        return sp_reg, bp_reg, kind, np.isin(kind, _REGS_TYPES)

    @property
    def has_undefined_type(self) -> bool:
        """A type tells entries without a state; else sp_reg does."""
        return OrcType.UNDEFINED in self.types

    def illegal(self, word: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
        """Tell which words this layout cannot have written."""
        sp_reg, bp_reg, kind, _ = self.decode(word)
        known = 0xFF | self.type_mask << 8 | self.signal_bit | self.end_bit
        bad = (word & ~np.uint16(known)) != 0
        bad |= (sp_reg == ILLEGAL) | (kind == ILLEGAL)
        bad |= ~np.isin(bp_reg, _BP_REGS)  # objtool writes no other (orc_gen.c)
        stateless = np.isin(kind, (OrcType.UNDEFINED, OrcType.END_OF_STACK))
        bad |= stateless & (sp_reg != OrcReg.UNDEFINED)
        bad |= ~stateless & (sp_reg == OrcReg.UNDEFINED)
        if not self.has_undefined_type:
            bad |= stateless & ((word >> 8 & self.type_mask) != 0)
            bad |= ~stateless & ((word & self.end_bit) != 0)
        return np.asarray(bad)

    def ordinary(
        self, words: npt.NDArray[np.uint16], counts: npt.NDArray[np.int64]
    ) -> int:
        """Count what most code looks like: calls, and a CFA based on RSP or RBP."""
        sp_reg, _, kind, _ = self.decode(words)
        based = np.isin(sp_reg, (OrcReg.SP, OrcReg.BP))
        return int(counts[based].sum() + counts[kind == OrcType.CALL].sum())


_REGS_TYPES = (OrcType.REGS, OrcType.REGS_PARTIAL)
_BP_REGS = (OrcReg.UNDEFINED, OrcReg.PREV_SP, OrcReg.BP)
_OLD_REGS = tuple(range(10))
_NEW_REGS = (0, 10, 2, 5, 4, 3, 6, 7, 1, 9, 8)
_OLD_TYPES = (OrcType.CALL, OrcType.REGS, OrcType.REGS_PARTIAL)
_NEW_TYPES = tuple(OrcType)

# Where two fit equally well the first is taken: a table that never sets the bits
# in which v1b, v2 and v1a differ reads the same in all three.
_LAYOUTS = {
    OrcFormat.V3: _Layout(_OLD_REGS, _NEW_TYPES, 7, signal_bit=1 << 11),
    OrcFormat.V4: _Layout(_NEW_REGS, _NEW_TYPES, 7, signal_bit=1 << 11),
    OrcFormat.V1B: _Layout(_OLD_REGS, _OLD_TYPES, 3, end_bit=1 << 10),
    OrcFormat.V2: _Layout(
        _OLD_REGS, _OLD_TYPES, 3, signal_bit=1 << 10, end_bit=1 << 11
    ),
    OrcFormat.V1A: _Layout(_OLD_REGS, _OLD_TYPES, 3),
}
_DIGITS = 40
_HEADERS = {
    # v2's text never was a header of its own: 6.3 has no .orc_header.
    "fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24": OrcFormat.V3,
    "137c36ad7627c4dd55932176bb0ecdbd5041fc82": OrcFormat.V4,
    "db84aed4103b31dd51e017f8f79783ca985c2c51": OrcFormat.V2,
}
_ENTRY = np.dtype([("sp_offset", "<i2"), ("bp_offset", "<i2"), ("word", "<u2")])
_TYPE_NAMES: dict[int, str] = {
    OrcType.UNDEFINED: "(und)",
    OrcType.END_OF_STACK: "end",
    OrcType.CALL: "call",
    OrcType.REGS: "regs",
    OrcType.REGS_PARTIAL: "regs(partial)",
}
_REG_NAMES: dict[int, str] = {
    OrcReg.PREV_SP: "prevsp",
    OrcReg.DX: "dx",
    OrcReg.DI: "di",
    OrcReg.BP: "bp",
    OrcReg.SP: "sp",
    OrcReg.R10: "r10",
    OrcReg.R13: "r13",
    OrcReg.AX: "ax",
}


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


def _from_header(
    program: Program, header: Section, word: npt.NDArray[np.uint16]
) -> OrcFormat:
    digest = header.data.tobytes().hex()
    if digest == digest[:_DIGITS] * (len(digest) // _DIGITS):
        digest = digest[:_DIGITS]  # each of several objects has its own
    if (orc_format := _HEADERS.get(digest)) is None:
        known = ", ".join(f"{text[:8]} ({name})" for text, name in _HEADERS.items())
        raise FormatError(
            f"{program.name}: unknown ORC layout {digest or 'empty'}, known: {known}",
            hint="this kernel is newer than this program, or .orc_header is damaged",
        )
    faults = int(_LAYOUTS[orc_format].illegal(word).sum())
    if len(word) >= 16 and faults * 10 > len(word):
        raise FormatError(
            f"{program.name}: .orc_header says {orc_format}, but {faults} of "
            f"{len(word)} entries cannot be {orc_format}"
        )
    return orc_format


def _sniff(program: Program, word: npt.NDArray[np.uint16]) -> OrcFormat:
    """Tell the format from the entries alone.

    Formats are ranked by the entries that they cannot have written (a wrong
    register numbering gives saved RBPs an impossible base, a wrong type field
    gives states to undefined code), then by how ordinary the rest looks.
    """
    words, counts = np.unique(word, return_counts=True)

    def fit(orc_format: OrcFormat) -> tuple[int, int]:
        layout = _LAYOUTS[orc_format]
        return (
            int(counts[layout.illegal(words)].sum()),
            -layout.ordinary(words, counts),
        )

    best = min(_LAYOUTS, key=fit)
    faults, _ = fit(best)
    if faults * 100 > len(word):
        raise FormatError(
            f"{program.name}: the ORC entries fit no known layout: {faults} of "
            f"{len(word)} cannot be {best}, the nearest"
        )
    if not program.relocatable and best is OrcFormat.V1B and not (word & 0x400).any():
        return OrcFormat.V1A  # a whole kernel has ends of stacks
    return best


def _lookup(
    table: tuple[int, ...], codes: npt.NDArray[np.integer]
) -> npt.NDArray[np.uint8]:
    column = np.full(16, ILLEGAL, dtype=np.uint8)
    column[: len(table)] = table
    return np.asarray(column[codes])


def _place(reg: int, offset: int) -> str:
    if reg == OrcReg.BP_INDIRECT:
        return f"(bp{offset:+d})"
    if reg == OrcReg.SP_INDIRECT:
        return f"(sp){offset:+d}"
    return f"{_REG_NAMES.get(reg, f'reg{reg}')}{offset:+d}"


def _s16(value: int) -> int:
    return (value & 0xFFFF ^ 0x8000) - 0x8000
