"""What the exception table names, and whether it can fault."""

from __future__ import annotations

import struct

import pytest

from harness.elf.program import Program
from harness.verify.lints.fault import check_faults
from tests.builders.elfwriter import UND, call
from tests.builders.flow import TABLE, TEXT, columns_of, kernel, relative

F = [("f", 0, 0x20)]
IN = call(8)
NO_TYPE = 0


def faulting(code: str, place: int, fixup: int, kind: int = NO_TYPE) -> Program:
    """A function with one entry of __ex_table."""
    data = relative(TABLE, place, fixup) + struct.pack("<i", kind)
    size = len(bytes.fromhex(code))
    rows = [(0, IN), (size, UND)]
    return kernel(code, rows, F, [("__ex_table", data, TABLE)])


def messages(program: Program) -> list[str]:
    return [finding.message for finding in check_faults(columns_of(program)).findings]


# movl (%rdi),%eax; rep movsb; wrmsr; mov %eax,%ds; lock incl (%rdi); fxsave (%rdi)
@pytest.mark.parametrize("code", ["8b07", "f3a4", "0f30", "8ed8", "f0ff07", "0fae07"])
def test_what_may_fault(code: str) -> None:
    """Memory, string instructions, MSRs and segments do."""
    assert messages(faulting(f"{code} c3", 0, len(bytes.fromhex(code)))) == []


# mov %edi,%eax; test %eax,%eax; lea (%rdi),%rax; jmp; nop; mov $1,%eax
@pytest.mark.parametrize("code", ["89f8", "85c0", "488d07", "eb00", "90", "b801000000"])
def test_what_never_faults(code: str) -> None:
    """What works on registers, jumps, or does nothing."""
    program = faulting(f"{code} c3", 0, len(bytes.fromhex(code)))
    assert messages(program) == [
        "the exception table has an instruction that raises none"
    ]


def test_a_place_within_an_instruction() -> None:
    """An exception is raised at an instruction's start."""
    program = faulting("8b07 c3", 1, 2)
    assert messages(program) == [
        "the exception table has a place within an instruction"
    ]


def test_types() -> None:
    """EX_TYPE_RDMSR is for rdmsr and goes on behind it; _SAFE sets a register first."""
    code = "0f32 31c0 c3"
    assert messages(faulting(code, 0, 2, 9)) == []
    assert messages(faulting(code, 0, 4, 9)) == [
        "an exception of this type goes on right behind its instruction"
    ]
    assert messages(faulting(code, 0, 4, 11)) == []
    assert messages(faulting(code, 0, 2, 8)) == [
        "the entry's type is for another instruction"
    ]


def test_handlers_are_no_types() -> None:
    """Up to 5.16 the third field leads to a handler."""
    assert messages(faulting("0f32 31c0 c3", 0, 4, 0x1_0029)) == []


def test_a_handler_is_no_type() -> None:
    """What its lowest byte happens to be is none, if the field leads to a name."""
    handler = 9 - 0x100  # from the field on; 9 is what reads MSRs
    data = relative(TABLE, 0, 3) + struct.pack("<i", handler)
    rows, table = [(0, IN), (4, UND)], [("__ex_table", data, TABLE)]
    named = ("ex_handler_default", TABLE + 8 + handler - TEXT, 1)
    assert messages(kernel("488b07 c3", rows, F, table)) != []
    assert messages(kernel("488b07 c3", rows, [*F, named], table)) == []
