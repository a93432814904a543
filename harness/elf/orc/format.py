"""Format: how kernels have written an entry, and which of them wrote a table.

An entry has always been 6 bytes: s16 sp_offset, s16 bp_offset and a word of bit
fields, whose layout changed four times (arch/x86/include/asm/orc_types.h):

    v1a  4.14 - 4.18   sp_reg 0-3, bp_reg 4-7, type 8-9
    v1b  4.19 - 6.2    + end 10
    v2   6.3           + signal 10, end 11 (commit ffb1b4a41016)
    v3   6.4 - 7.0     type 8-10, signal 11, no end (commit fb799447ae29)
    v4   7.1 -         registers renumbered (commit 1735858caa4b)

Kernels since 6.4 say which in .orc_header, a hash of the header file's text
(scripts/orc_hash.sh). For the others, and for vendor kernels that took the layout
but not the header, the table itself tells: see :func:`sniff`.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.orc.entry import ILLEGAL, OrcReg, OrcType
from harness.elf.program import Program, Section
from harness.errors import FormatError


class OrcFormat(enum.StrEnum):
    """A layout of struct orc_entry."""

    V1A = "v1a"
    V1B = "v1b"
    V2 = "v2"
    V3 = "v3"
    V4 = "v4"


class Layout(Struct, frozen=True):
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
LAYOUTS = {
    OrcFormat.V3: Layout(_OLD_REGS, _NEW_TYPES, 7, signal_bit=1 << 11),
    OrcFormat.V4: Layout(_NEW_REGS, _NEW_TYPES, 7, signal_bit=1 << 11),
    OrcFormat.V1B: Layout(_OLD_REGS, _OLD_TYPES, 3, end_bit=1 << 10),
    OrcFormat.V2: Layout(_OLD_REGS, _OLD_TYPES, 3, signal_bit=1 << 10, end_bit=1 << 11),
    OrcFormat.V1A: Layout(_OLD_REGS, _OLD_TYPES, 3),
}
_DIGITS = 40
_HEADERS = {
    # v2's text never was a header of its own: 6.3 has no .orc_header.
    "fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24": OrcFormat.V3,
    "137c36ad7627c4dd55932176bb0ecdbd5041fc82": OrcFormat.V4,
    "db84aed4103b31dd51e017f8f79783ca985c2c51": OrcFormat.V2,
}


def canonical_registers(
    orc_format: OrcFormat, codes: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Return the OrcReg of each of ``codes``, as ``orc_format`` numbers them."""
    table = np.full(256, ILLEGAL, dtype=np.uint8)
    table[:16] = _lookup(LAYOUTS[orc_format].registers, np.arange(16))
    return np.asarray(table[codes])


def meanings(
    orc_format: OrcFormat,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return sp_reg, bp_reg and type of every word that an entry may have."""
    layout = LAYOUTS[orc_format]
    sp_reg, bp_reg, kind, _ = layout.decode(np.arange(1 << 16).astype(np.uint16))
    return sp_reg, bp_reg, kind


def header_format(program: Program) -> OrcFormat | None:
    """Return the format that .orc_header names; None without one that we know."""
    header = program.section(".orc_header")
    if header is None:
        return None
    return _HEADERS.get(header.data.tobytes().hex()[:_DIGITS])


def from_header(
    program: Program, header: Section, word: npt.NDArray[np.uint16]
) -> OrcFormat:
    """Return the format that ``header`` names, of entries with these words.

    Raises:
        FormatError: it names none that is known, or the entries cannot be of it.
    """
    digest = header.data.tobytes().hex()
    if digest == digest[:_DIGITS] * (len(digest) // _DIGITS):
        digest = digest[:_DIGITS]  # each of several objects has its own
    if (orc_format := _HEADERS.get(digest)) is None:
        known = ", ".join(f"{text[:8]} ({name})" for text, name in _HEADERS.items())
        raise FormatError(
            f"{program.name}: unknown ORC layout {digest or 'empty'}, known: {known}",
            hint="this kernel is newer than this program, or .orc_header is damaged",
        )
    faults = int(LAYOUTS[orc_format].illegal(word).sum())
    if len(word) >= 16 and faults * 10 > len(word):
        raise FormatError(
            f"{program.name}: .orc_header says {orc_format}, but {faults} of "
            f"{len(word)} entries cannot be {orc_format}"
        )
    return orc_format


def sniff(program: Program, word: npt.NDArray[np.uint16]) -> OrcFormat:
    """Tell the format of ``program`` from the words of its entries alone.

    Formats are ranked by the entries that they cannot have written (a wrong
    register numbering gives saved RBPs an impossible base, a wrong type field
    gives states to undefined code), then by how ordinary the rest looks.

    Raises:
        FormatError: they fit none.
    """
    words, counts = np.unique(word, return_counts=True)

    def fit(orc_format: OrcFormat) -> tuple[int, int]:
        layout = LAYOUTS[orc_format]
        return (
            int(counts[layout.illegal(words)].sum()),
            -layout.ordinary(words, counts),
        )

    best = min(LAYOUTS, key=fit)
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
