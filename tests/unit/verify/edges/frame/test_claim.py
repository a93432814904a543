"""Claims: statements about frames, and what they are not true of."""

from __future__ import annotations

import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType, describe, pack
from harness.text.operand import BP, SP
from harness.verify.edges.frame.claim import (
    IRET_OFFSET,
    PT_REGS,
    Answer,
    ask,
    describe_frame,
    foreign,
    weakest,
)
from harness.verify.edges.frame.frame import Frame
from harness.verify.edges.frame.value import FRAME, RETURN, fresh, initial
from tests.builders.elfwriter import call, regs


def based(register: int, offset: int, bp_offset: int = 0) -> int:
    """A call's state with this base; the caller's %rbp is saved if there is an offset."""
    saved = OrcReg.PREV_SP if bp_offset else OrcReg.UNDEFINED
    return pack(OrcEntry(offset, bp_offset, register, saved, OrcType.CALL, False))


STATES = [
    pack(call(8)),
    pack(call(64, -24)),
    based(OrcReg.BP, 16, -16),
    based(OrcReg.R10, 0),
    based(OrcReg.R13, 0, -40),
    based(OrcReg.BP_INDIRECT, -8, -24),
    based(OrcReg.SP_INDIRECT, 24, -24),
    pack(OrcEntry(0, 0, OrcReg.R10, OrcReg.BP, OrcType.CALL, False)),
    pack(regs()),
    pack(regs(24)),
    pack(regs(8, partial=True)),
    pack(OrcEntry(8, 0, OrcReg.DX, 0, OrcType.REGS_PARTIAL, True)),
]


@pytest.mark.parametrize("state", STATES, ids=describe)
def test_a_claim_holds_of_its_weakest_frame(state: int) -> None:
    """The frame made from a claim bears the claim out, and no other of the list."""
    frame = weakest(state, 0x1000)
    assert [other for other in STATES if not ask(frame, other)] == [state]


@pytest.mark.parametrize("state", STATES, ids=describe)
def test_a_frame_is_described_as_its_claim(state: int) -> None:
    """What ORC can say of a frame is what the frame was made from."""
    assert describe_frame(weakest(state, 0x1000)) == describe(state)


def test_what_is_not_so() -> None:
    """Each part of a claim has its own answer."""

    def answer(state: int, **changes: int | None) -> Answer:
        frame = weakest(state, 0x1000)
        if "sp" in changes:
            frame.set(SP, changes["sp"])
        if "bp" in changes:
            frame.set(BP, changes["bp"])
        return ask(frame, state)

    entered, saved = pack(call(8)), pack(call(24, -16))
    assert answer(entered, sp=FRAME - 16) is Answer.ELSEWHERE
    assert answer(entered, sp=None) is Answer.UNTOLD
    assert answer(entered, sp=fresh(1)) is Answer.UNTOLD
    assert answer(entered, bp=initial(3)) is Answer.BP
    assert answer(saved, bp=None) is Answer.HOLDS
    assert answer(pack(regs()), bp=None) is Answer.HOLDS
    assert answer(pack(regs(partial=True)), bp=None) is Answer.BP


def test_overwritten() -> None:
    """A slot that something else was written to is no return address, nor a %rbp."""
    frame = weakest(pack(call(24, -16)), 0x1000)
    frame.store(FRAME - 16, initial(0))
    assert ask(frame, pack(call(24, -16))) is Answer.BP
    frame.wipe(FRAME - 4, 2)
    assert ask(frame, pack(call(24, -16))) is Answer.RETURN
    assert "return address overwritten" in describe_frame(frame)


def test_released() -> None:
    """A slot below the stack pointer keeps nothing: an interrupt overwrites it."""
    frame = weakest(pack(call(24, -16)), 0x1000)
    frame.set(SP, FRAME - 8)
    assert ask(frame, pack(call(8, -16))) is Answer.BP


def test_kinds_of_frames() -> None:
    """A call's frame is no interrupt's."""
    frame = weakest(pack(call(8)), 0x1000)
    assert ask(frame, pack(regs(8, partial=True))) is Answer.ANCHOR
    frame = weakest(pack(regs(8, partial=True)), 0x1000)
    assert ask(frame, pack(call(8))) is Answer.ANCHOR


def test_pushed_registers() -> None:
    """Most registers in a struct pt_regs must be its own."""
    frame = Frame(weakest(pack(regs()), 0).anchor)
    start = FRAME - IRET_OFFSET
    assert not foreign(frame, start)
    frame.store(start + PT_REGS[12], initial(12))
    frame.store(start + PT_REGS[0], RETURN)
    frame.store(start + PT_REGS[1], initial(BP))
    assert not foreign(frame, start)
    frame.store(start + PT_REGS[13], initial(12))
    assert foreign(frame, start)
