"""Entry: one unwind state, in one numbering whatever kernel wrote it."""

from __future__ import annotations

import enum

from msgspec import Struct

SIGNAL = 1 << 44  # in a packed state
ILLEGAL = 15  # a register or type code that the format does not have


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


class OrcType(enum.IntEnum):
    """What lies at the CFA (v3's numbers)."""

    UNDEFINED = 0
    END_OF_STACK = 1
    CALL = 2
    REGS = 3
    REGS_PARTIAL = 4


# To these unwind_next_frame() adds no sp_offset (arch/x86/kernel/unwind_orc.c, read in
# v5.10 and v6.12, which have no AX: that is taken to be like the others).
WITHOUT_OFFSET = frozenset({OrcReg.AX, OrcReg.DX, OrcReg.DI, OrcReg.R10, OrcReg.R13})
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


def offset_ignored(state: str) -> str:
    """Return the cause of findings about an entry, ``state``, with such an offset."""
    return f"offset ignored under {state}"


def _place(reg: int, offset: int) -> str:
    if reg == OrcReg.BP_INDIRECT:
        return f"(bp{offset:+d})"
    if reg == OrcReg.SP_INDIRECT:
        return f"(sp){offset:+d}"
    return f"{_REG_NAMES.get(reg, f'reg{reg}')}{offset:+d}"


def _s16(value: int) -> int:
    return (value & 0xFFFF ^ 0x8000) - 0x8000
