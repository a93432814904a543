"""What a callee does to its caller's stack, read off its own table."""

from __future__ import annotations

import pytest

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry, describe
from harness.verify.callee import Callee, Callees, Returns
from harness.verify.columns import read_columns
from harness.verify.lookup import lookup_of
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call, regs

Rows = list[tuple[int, OrcEntry]]


def judged(code: str, rows: Rows, size: int | None = None) -> Callee:
    """The judgement on a function of this code."""
    data = bytes.fromhex(code)
    writer = ElfWriter()
    text = writer.section(".text", data + b"\xfc" * 32, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, len(data) if size is None else size)
    cold = [(len(data) + 10, call(16))] if data[1:2] == b"\x74" else []
    add_orc(writer, text, [*rows, (len(data), UND), *cold])
    program = writer.program()
    columns = read_columns(program, Features({}, 0, "test"))
    assert columns is not None
    callees = Callees(program, columns.insns, lookup_of(columns.table))
    return callees.at(program.sections[0].address)


@pytest.mark.parametrize(
    ("code", "rows", "returns"),
    [
        ("c3", [(0, call(8))], Returns.BALANCED),
        ("50c3", [(0, call(8)), (1, regs(8))], Returns.MOVED),
        ("0f0b", [(0, call(8))], Returns.NEVER),
        ("ebfe", [(0, call(8))], Returns.NEVER),
        ("fc", [(0, call(8))], Returns.BALANCED),  # runs off its end: not followed
        ("e900010000", [(0, call(8))], Returns.BALANCED),  # tail call
        ("ffe0", [(0, call(8))], Returns.BALANCED),
        ("740150c3c3", [(0, regs(8)), (3, regs(16)), (4, regs(8))], Returns.UNCLEAR),
        # a jump into a cold part takes its frame along: it returns from there
        ("5074100f0b", [(0, call(8)), (1, call(16))], Returns.UNCLEAR),
        ("c3", [], Returns.BALANCED),  # no table: nothing is known
        ("740150c3c3", [(0, call(8)), (3, regs(16)), (4, call(8))], Returns.BALANCED),
    ],
)
def test_returns(code: str, rows: Rows, returns: Returns) -> None:
    """The states at a function's exits tell how it comes back."""
    assert judged(code, rows).returns is returns


def test_state_behind_the_call() -> None:
    """Popping the return address brings the frame nearer by a word."""
    callee = judged("50c3", [(0, call(8)), (1, regs(8))])
    assert describe(callee.state) == describe(describe_regs())


def describe_regs() -> int:
    """A register frame on top of the stack."""
    from harness.elf.orc import pack

    return pack(regs(0))


@pytest.mark.parametrize(
    ("code", "rows", "returns"),
    [
        ("c3", [(0, call(8))], Returns.BALANCED),
        ("50c3", [(0, call(8)), (1, regs(8))], Returns.MOVED),
        ("50eb00c3", [(0, call(8)), (1, regs(8))], Returns.MOVED),
        ("7401c3c3", [(0, regs(8)), (3, regs(16))], Returns.UNCLEAR),
        ("50e900010000", [(0, call(8)), (1, regs(8))], Returns.MOVED),
        ("0f0b", [(0, call(8))], Returns.BALANCED),  # not proved to end
        ("ebfe", [(0, call(8))], Returns.BALANCED),
        ("ffe0", [(0, call(8))], Returns.BALANCED),
    ],
)
def test_unsized_function_is_traced(code: str, rows: Rows, returns: Returns) -> None:
    """Without a symbol's size (a stripped kernel) the code itself is followed."""
    assert judged(code, rows, size=0).returns is returns
