"""Which states are true after an instruction."""

from __future__ import annotations

import numpy as np
import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType, describe, pack
from harness.text.decode import decode_all
from harness.text.insn import Insn
from harness.verify.transfer import ENTRY, UNDEFINED, moves_sp, step
from tests.builders.elfwriter import END, call, regs


def insn(code: str) -> Insn:
    """The one instruction that ``code`` spells."""
    return decode_all(np.frombuffer(bytes.fromhex(code), np.uint8), 0).at(0)


def bp(offset: int = 16, slot: int = -16) -> OrcEntry:
    """A state with a frame pointer."""
    return OrcEntry(offset, slot, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)


def indirect(offset: int) -> OrcEntry:
    """A state on another stack, whose top word is the old %rsp."""
    return OrcEntry(offset, 0, OrcReg.SP_INDIRECT, 0, OrcType.CALL, False)


def drap(offset: int) -> OrcEntry:
    """A state counted from a realigned frame's register."""
    return OrcEntry(offset, 0, OrcReg.R10, 0, OrcType.CALL, False)


RULES = [
    ("push %rbx", "53", call(8), [call(16)]),
    ("push $0", "6a00", call(8), [call(16)]),
    ("pushq mem", "ff30", call(8), [call(16)]),
    ("push %fs", "0fa0", call(8), [call(16)]),
    ("pushf", "9c", call(8), [call(16)]),
    ("push %rbp saves it", "55", call(8), [call(16, -16), call(16)]),
    ("push %rbp again", "55", call(24, -16), [call(32, -16)]),
    ("push %r13 is not %rbp", "4155", call(8), [call(16)]),
    ("push %rbp of a register frame", "55", regs(0), [regs(8)]),
    ("pushw", "6650", call(8), []),
    ("pop %rbx", "5b", call(16), [call(8)]),
    ("popf", "9d", call(16), [call(8)]),
    ("pop %fs", "0fa1", call(16), [call(8)]),
    ("popq mem", "8f00", call(16), [call(8)]),
    ("pop %rbp restores it", "5d", call(16, -16), [call(8), call(8, -16)]),
    ("pop %rbp of another slot", "5d", call(24, -16), [call(16, -16)]),
    ("pop %rbp clobbers", "5d", call(16), []),
    ("pop %rbp ends a frame", "5d", bp(), [call(8)]),
    ("pop %r13", "415d", call(16), [call(8)]),
    ("pop %rsp comes back", "5c", indirect(8), [call(8)]),
    ("pop %rsp goes astray", "5c", call(8), []),
    ("leave", "c9", bp(), [call(8)]),
    ("leave without a frame", "c9", call(8), []),
    ("add", "4883c410", call(24), [call(8)]),
    ("add imm32", "4881c400010000", call(264), [call(8)]),
    ("sub", "4883ec10", call(8), [call(24)]),
    ("add $-8", "4883c4f8", call(8), [call(16)]),
    ("lea", "488d6424f8", call(8), [call(16)]),
    ("and", "4883e4f0", call(8), []),
    ("add reg", "4801c4", call(8), []),
    ("sub under a frame", "4883ec10", bp(), [bp()]),
    ("and under a frame", "4883e4f0", bp(), [bp()]),
    ("push under a frame", "53", bp(), [bp()]),
    ("and of a realigned frame", "4883e4f0", drap(8), [drap(8)]),
    ("mov %rsp,%rbp", "4889e5", call(16, -16), [bp(), call(16, -16)]),
    ("mov %rsp,%rbp, other form", "488bec", call(16, -16), [bp(), call(16, -16)]),
    ("mov %rsp,%rbp unsaved", "4889e5", call(8), []),
    ("mov %rbp,%rsp", "4889ec", bp(), [call(16, -16), bp()]),
    ("lea -8(%rbp),%rsp", "488d65f8", bp(), [bp(), call(24, -16)]),
    ("mov %rax,%rsp", "4889c4", call(8), []),
    ("mov 8(%rax),%rsp", "488b6008", call(8), []),
    ("xor %ebp,%ebp unsaved", "31ed", call(8), []),
    ("xor %ebp,%ebp saved", "31ed", call(16, -16), [call(16, -16)]),
    ("xor %ebp,%ebp of a frame", "31ed", bp(), []),
    ("xor %ebp,%ebp of registers", "31ed", regs(0), [regs(0)]),
    ("reload from the slot", "488b2c24", call(16, -16), [call(16), call(16, -16)]),
    ("reload from elsewhere", "488b6c2408", call(16, -16), [call(16, -16)]),
    ("push on another stack", "53", indirect(8), []),
    ("cld", "fc", call(8), [call(8)]),
    ("call", "e800000000", call(8), [call(8)]),
    ("undefined", "53", None, [None]),
    ("end of stack", "53", END, [END]),
]


@pytest.mark.parametrize(
    ("code", "before", "after"), [rule[1:] for rule in RULES], ids=[r[0] for r in RULES]
)
def test_step(code: str, before: OrcEntry | None, after: list[OrcEntry | None]) -> None:
    """Each instruction leaves exactly these states true, objtool's first."""

    def state(entry: OrcEntry | None) -> int:
        return UNDEFINED if entry is None else pack(entry)

    result = step(state(before), insn(code))
    expected = [state(entry) for entry in after]
    assert [describe(each) for each in result] == [describe(e) for e in expected]
    assert list(result) == expected


def test_stack_switch_takes_two_instructions() -> None:
    """mov %rsp,(%r11); mov %r11,%rsp: the old %rsp is on top of the new stack."""
    store, load = insn("498923"), insn("4c89dc")
    assert step(pack(call(40)), load, store) == (pack(indirect(40)),)
    assert step(pack(call(40)), load) == ()
    assert step(pack(call(40)), insn("4c89d4"), store) == ()  # another register
    assert step(pack(call(40)), load, insn("49896308")) == ()  # not on top


@pytest.mark.parametrize(
    ("code", "delta"),
    [
        ("53", -8),
        ("9c", -8),
        ("5b", 8),
        ("9d", 8),
        ("4883c410", 16),
        ("4883ec10", -16),
        ("488d6424f0", -16),
        ("5c", None),
        ("c9", None),
        ("4889c4", None),
        ("6650", None),
        ("e800000000", 0),
        ("4889e5", 0),
        ("fc", 0),
    ],
)
def test_moves_sp(code: str, delta: int | None) -> None:
    """By how much %rsp moves, where the bytes tell."""
    assert moves_sp(insn(code)) == delta


def test_entry_state() -> None:
    """A function starts with its return address on top."""
    assert describe(ENTRY) == "sp+8 call"
    assert pack(call(8)) == ENTRY
