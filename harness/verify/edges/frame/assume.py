"""Assume: the shapes of code at which a claim is taken without proof.

Hardware, another context and a hint know what the code does not tell. What counts is
what the code did just before, never its name or where it lies. Each time the claim is
taken the walk goes on from it, so that a wrong one contradicts what follows.
"""

from __future__ import annotations

import enum

from harness.elf.orc import OrcType
from harness.text.operand import BP, SP
from harness.verify.edges.frame.claim import (
    BASE_REGISTER,
    IRET_OFFSET,
    PT_REGS,
    Answer,
    entry_of,
    foreign,
    place,
    weakest,
)
from harness.verify.edges.frame.frame import WORD, Anchor, Frame
from harness.verify.edges.frame.value import FRAME, RETURN, distance, initial, meant
from harness.verify.transfer import ENTRY


class Assumption(enum.IntEnum):
    """Why a claim is taken."""

    LOADED = 1  # its register got a value that the code does not tell
    FOUND = 2  # it is the first claim after code without a frame
    SAVED = 3  # the function overwrote its return address: its caller's registers
    MADE = 4  # a return address that the code made itself is on top of the stack
    WITHOUT = 5  # a function that claims to have no frame is entered
    KEPT = 6  # a call of another object kept a register, as the compiler was told


def shape(
    frame: Frame, state: int, answer: Answer, loaded: int | None, *, makes: bool
) -> Assumption | None:
    """Tell why ``state``, which ``frame`` does not bear out, may be taken.

    ``loaded`` is the register that the instruction before gave an unknown value,
    ``makes`` tells whether it may have put a return address on top of the stack.
    None: there is no such reason, it is wrong.
    """
    entry = entry_of(state)
    based = BASE_REGISTER.get(entry.sp_reg, SP)
    if answer is Answer.UNTOLD and loaded == based and based in (SP, BP):
        return Assumption.LOADED  # others get the frame's address from %rsp
    if answer is Answer.BP and loaded == BP and frame.switched:
        return Assumption.LOADED
    if frame.anchor is not Anchor.CALL:
        return None
    if entry.type in (OrcType.REGS, OrcType.REGS_PARTIAL) and _saved(frame, state):
        return Assumption.SAVED
    return Assumption.MADE if makes and state == ENTRY and _made(frame) else None


def _saved(frame: Frame, state: int) -> bool:
    """Whether registers lie where a return address was.

    Above it are orig_ax and then the interrupt's words.
    """
    found = place(frame, state)
    above = None if found is None else distance(found, FRAME)
    return above == WORD and frame.slots.get(FRAME - WORD) != RETURN


def _made(frame: Frame) -> bool:
    """Whether the word on top of the stack may be a return address of the code's own.

    It put something there, or it dropped its own return address and its caller's,
    which must have had nothing else on its stack, is there.
    """
    sp = frame.get(SP)
    if sp is None or frame.get(BP) != initial(BP):
        return False
    k, top = distance(sp, FRAME), frame.slots.get(sp)
    if k is None or k > 0 or k == -WORD:
        return False
    return k == 0 or top is None or not meant(top)


def contradicts(frame: Frame, state: int) -> bool:
    """Whether what was pushed without a frame is certainly not what ``state`` claims."""
    found = place(frame, state)
    if found is None or entry_of(state).type != OrcType.REGS:
        return False
    start = found - IRET_OFFSET
    saved = frame.slots.get(start + PT_REGS[BP], initial(BP))
    return saved != initial(BP) or foreign(frame, start)


def was_there(frame: Frame, state: int, entered: int | None, *, builds: bool) -> bool:
    """Whether the frame that ``state`` finds was there an instruction before.

    ``entered`` is where %rsp was at the start; ``builds`` tells whether what was
    executed last moved %rsp or wrote to the stack.
    """
    found = place(frame, state)
    if found is None:
        return False
    entry = entry_of(state)
    if entry.type == OrcType.REGS:
        known = found - IRET_OFFSET + PT_REGS[BP] in frame.slots
        return known and (not builds or entry.sp_offset < 0)
    back = (WORD,) if entry.type == OrcType.CALL else (0, WORD)  # or an error code
    return entered is not None and found - entered in back


def taken(frame: Frame, state: int, address: int) -> Frame:
    """Return the frame that ``state`` tells of, with what else is known of it."""
    found = place(frame, state)
    told = weakest(state, address)
    if found is None:
        return told
    moved = frame.moved(found, FRAME)
    moved.anchor = told.anchor
    moved.slots |= told.slots
    if (bp := told.get(BP)) is not None:
        moved.set(BP, bp)
    return moved


def switched(frame: Frame, state: int, address: int) -> Frame:
    """Return the frame that ``state`` tells of on a stack that was loaded.

    Of the old one nothing counts but the return address, in a register or copied.
    """
    told = weakest(state, address)
    told.switched = True
    told.slots |= {s: v for s, v in frame.slots.items() if v == RETURN}
    for register in range(16):
        if frame.get(register) == RETURN:
            told.set(register, RETURN)
    return told
