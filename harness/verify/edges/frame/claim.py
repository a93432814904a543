"""Claim: an ORC state read as a statement about a frame, as the unwinder reads it.

The three questions to it: does it hold (:func:`ask`), what is the weakest frame in
which it holds (:func:`weakest`), and how would ORC put a frame in words
(:func:`describe_frame`). arch/x86/kernel/unwind_orc.c, unwind_next_frame().
"""

from __future__ import annotations

import enum
import functools

from harness.elf.orc import OrcEntry, OrcReg, OrcType, describe, pack, unpack
from harness.text.operand import BP, SP
from harness.verify.edges.frame.frame import WORD, Anchor, Frame
from harness.verify.edges.frame.value import (
    FRAME,
    INTERRUPT,
    RETURN,
    distance,
    initial,
    initial_of,
)

IRET_OFFSET = 0x80  # of the interrupt's words in struct pt_regs

# struct pt_regs up to orig_ax, by register number
PT_REGS = {
    15: 0x00, 14: 0x08, 13: 0x10, 12: 0x18, BP: 0x20, 3: 0x28, 11: 0x30, 10: 0x38,
    9: 0x40, 8: 0x48, 0: 0x50, 1: 0x58, 2: 0x60, 6: 0x68, 7: 0x70,
}  # fmt: skip
BASE_REGISTER: dict[int, int] = {
    OrcReg.SP: SP,
    OrcReg.BP: BP,
    OrcReg.DX: 2,
    OrcReg.DI: 7,
    OrcReg.R10: 10,
    OrcReg.R13: 13,
    OrcReg.AX: 0,
}
_REGS = (OrcType.REGS, OrcType.REGS_PARTIAL)
_WORDS = range(0, 0x28, WORD)  # ip, cs, flags, sp and ss


class Answer(enum.IntEnum):
    """Whether a claim holds, and if not, which part of it."""

    HOLDS = 0
    UNTOLD = 1  # where the claim looks for the frame nothing is known
    ELSEWHERE = 2  # the frame is not there
    RETURN = 3  # no return address below the CFA
    BP = 4  # the caller's %rbp is not where the claim says
    ANCHOR = 5  # a call's frame is claimed to be an interrupt's, or the other way
    LOST = 6  # it holds, and it held before, where the table has no state
    UNHINTED = 7  # the code hides it, and no hint tells


@functools.lru_cache(maxsize=1 << 16)
def entry_of(state: int) -> OrcEntry:
    """Return ``state`` in its parts."""
    return unpack(state)


def is_call(state: int) -> bool:
    """Whether ``state`` claims a caller's frame."""
    return state >> 40 & 15 == OrcType.CALL


@functools.lru_cache(maxsize=1 << 16)
def bases_of(state: int) -> int:
    """Return the mask of the registers that ``state`` counts from, as far as one may.

    %rsp is among them, below which nothing stays, and so is the caller's %rbp.
    """
    register = BASE_REGISTER.get(entry_of(state).sp_reg, SP)
    return 1 << SP | 1 << BP | 1 << register


def place(frame: Frame, state: int) -> int | None:
    """Return where ``state`` says that the frame is; None if unknown.

    For REGS that is the address of the interrupt's words in pt_regs, too.
    """
    entry = entry_of(state)
    found = _expression(frame, entry)
    if found is not None and entry.type == OrcType.REGS:
        return found + IRET_OFFSET
    return found


def _expression(frame: Frame, entry: OrcEntry) -> int | None:
    register = BASE_REGISTER.get(entry.sp_reg)
    if register is not None:
        value = frame.get(register)
        return None if value is None else value + entry.sp_offset
    if entry.sp_reg == OrcReg.BP_INDIRECT and (bp := frame.get(BP)) is not None:
        slot = bp + entry.sp_offset
        return None if _released(frame, slot) else frame.slots.get(slot)
    if entry.sp_reg == OrcReg.SP_INDIRECT and (sp := frame.get(SP)) is not None:
        top = frame.slots.get(sp)
        return None if top is None else top + entry.sp_offset
    return None


def ask(frame: Frame, state: int) -> Answer:
    """Tell whether ``state``, which must be defined, holds of ``frame``."""
    entry = entry_of(state)
    found = place(frame, state)
    if found != FRAME:
        known = found is not None and distance(found, FRAME) is not None
        return Answer.ELSEWHERE if known else Answer.UNTOLD
    if entry.type in _REGS:
        return _ask_regs(frame, entry)
    if frame.anchor is not Anchor.CALL:
        return Answer.ANCHOR
    if frame.slots.get(FRAME - WORD) != RETURN:
        return Answer.RETURN
    return Answer.HOLDS if _has_bp(frame, entry) else Answer.BP


def _has_bp(frame: Frame, entry: OrcEntry) -> bool:
    """Whether the caller's %rbp is where ``entry`` says, and stays there."""
    wanted = initial(BP)
    if entry.bp_reg == OrcReg.UNDEFINED:
        return frame.get(BP) == wanted
    slot = FRAME + entry.bp_offset
    if entry.bp_reg == OrcReg.BP:
        bp = frame.get(BP)
        if bp is None:
            return False
        slot = bp + entry.bp_offset
    return frame.slots.get(slot) == wanted and not _released(frame, slot)


def _released(frame: Frame, slot: int) -> bool:
    """Whether ``slot`` lies below the stack, where an interrupt overwrites it."""
    sp = frame.get(SP)
    return sp is not None and (distance(sp, slot) or 0) > 0


def _ask_regs(frame: Frame, entry: OrcEntry) -> Answer:
    if frame.anchor is not Anchor.IRET:
        return Answer.ANCHOR
    if entry.type == OrcType.REGS_PARTIAL:
        return Answer.HOLDS if frame.get(BP) == initial(BP) else Answer.BP
    saved = frame.slots.get(FRAME - IRET_OFFSET + PT_REGS[BP])
    return Answer.HOLDS if saved == initial(BP) else Answer.BP


def weakest(state: int, address: int) -> Frame:
    """Return the frame of which nothing is known but that ``state`` holds.

    Registers that the claim does not mention count as those of the start; what is
    made up is made up at ``address``. Without a claim there is no frame.
    """
    frame = Frame(Anchor.NOTHING)
    for register in range(16):
        frame.set(register, initial(register))
    frame.set(SP, None)
    entry = entry_of(state)
    if entry.type == OrcType.CALL:
        frame.anchor = Anchor.CALL
        frame.slots[FRAME - WORD] = RETURN
        start = FRAME
    elif entry.type in _REGS:
        frame.anchor = Anchor.IRET
        start = FRAME - (IRET_OFFSET if entry.type == OrcType.REGS else 0)
    else:
        frame.name(SP, address)
        return frame
    _point(frame, entry, start, address)
    if entry.type in _REGS:
        frame.slots |= {FRAME + k: INTERRUPT + k for k in _WORDS}
    if entry.type == OrcType.REGS:
        for register, offset in PT_REGS.items():
            frame.slots[start + offset] = initial(register)
    elif entry.bp_reg == OrcReg.PREV_SP:
        frame.slots[FRAME + entry.bp_offset] = initial(BP)
        _unless(frame, BP, entry)
    elif entry.bp_reg == OrcReg.BP:
        _unless(frame, BP, entry)
        frame.slots[frame.name(BP, -address) + entry.bp_offset] = initial(BP)
    return frame


def _unless(frame: Frame, register: int, entry: OrcEntry) -> None:
    """Forget the initial value of ``register`` unless the claim is based on it."""
    if frame.get(register) == initial(register):
        frame.set(register, None)


def _point(frame: Frame, entry: OrcEntry, start: int, address: int) -> None:
    """Make the claim's expression lead to ``start``."""
    register = BASE_REGISTER.get(entry.sp_reg)
    if register is not None:
        frame.set(register, start - entry.sp_offset)
    if register != SP:
        frame.name(SP, address)
    if entry.sp_reg == OrcReg.BP_INDIRECT:
        frame.set(BP, None)
        frame.slots[frame.name(BP, -address) + entry.sp_offset] = start
    elif entry.sp_reg == OrcReg.SP_INDIRECT:
        frame.slots[frame.registers[SP]] = start - entry.sp_offset


def describe_frame(frame: Frame) -> str:
    """Say ``frame`` in the words of an ORC dump, as near as they come."""
    if frame.anchor is Anchor.NOTHING:
        return "no frame"
    start, kind = FRAME, OrcType.CALL
    if frame.anchor is Anchor.IRET:
        kind = OrcType.REGS_PARTIAL
        if frame.slots.get(FRAME - IRET_OFFSET + PT_REGS[BP]) == initial(BP):
            start, kind = FRAME - IRET_OFFSET, OrcType.REGS
    based = _based(frame, start)
    if based is None:
        return "frame lost"
    register, offset = based
    signal = kind is not OrcType.CALL
    entry = OrcEntry(offset, 0, register, OrcReg.UNDEFINED, kind, signal)
    if kind is OrcType.REGS or frame.get(BP) == initial(BP):
        return _with_return(frame, describe(pack(entry)))
    saved = _saved(frame) if kind is OrcType.CALL else None
    if saved is None:
        return _with_return(frame, f"{describe(pack(entry))}, caller's %rbp lost")
    entry = OrcEntry(offset, saved[1], register, saved[0], kind, signal)
    return _with_return(frame, describe(pack(entry)))


def _saved(frame: Frame) -> tuple[OrcReg, int] | None:
    """Return the base and the offset at which ORC finds the caller's %rbp saved."""
    bp = frame.get(BP)
    for slot, value in sorted(frame.slots.items(), reverse=True):
        if value != initial(BP):
            continue
        if (k := distance(slot, FRAME)) is not None and k < 0:
            return OrcReg.PREV_SP, k
        if bp is not None and (k := distance(slot, bp)) is not None:
            return OrcReg.BP, k
    return None


def _with_return(frame: Frame, text: str) -> str:
    gone = frame.anchor is Anchor.CALL and frame.slots.get(FRAME - WORD) != RETURN
    return f"{text}, return address overwritten" if gone else text


def _based(frame: Frame, start: int) -> tuple[OrcReg, int] | None:
    """Return the register and the offset by which ORC reaches ``start``."""
    for orc, register in BASE_REGISTER.items():
        value = frame.get(register)
        if value is not None and (k := distance(start, value)) is not None:
            return OrcReg(orc), k
    sp, bp = frame.get(SP), frame.get(BP)
    top = None if sp is None else frame.slots.get(sp)
    if top is not None and (k := distance(start, top)) is not None:
        return OrcReg.SP_INDIRECT, k
    holding = [slot for slot, value in frame.slots.items() if value == start]
    for slot in holding:
        if bp is not None and (k := distance(slot, bp)) is not None:
            return OrcReg.BP_INDIRECT, k
    return None


def copied(frame: Frame, found: int) -> bool:
    """Whether the interrupt's words are at ``found``, too."""
    slots = frame.slots
    return all(slots.get(found + k) == INTERRUPT + k for k in _WORDS)


def foreign(frame: Frame, start: int) -> bool:
    """Whether what is known at ``start`` is certainly no struct pt_regs.

    A program may push something else for a register, but not for most of them.
    """
    own = others = 0
    for register, offset in PT_REGS.items():
        value = frame.slots.get(start + offset)
        owner = None if value is None else initial_of(value)
        own += owner == register
        others += owner is not None and owner != register
    return others > own
