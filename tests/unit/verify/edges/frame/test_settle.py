"""Doubtful edges settled by executing the units that they belong to."""

from __future__ import annotations

import struct

import pytest

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.verify.columns import read_columns
from harness.verify.edges.flow import check_flow, flow_of
from harness.verify.edges.frame.settle import Settled, Verdict, settle
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_PC32,
    UND,
    ElfWriter,
    add_orc,
    call,
)
from tests.unit.verify.edges.frame.test_unit import DRAP, FRAMED, SWITCHED, Rows, based


def program(
    code: str, rows: Rows, cold: int = 0, hints: tuple[int, ...] | None = None
) -> ElfWriter:
    """An object with one function, of which a fragment begins at ``cold``."""
    data = bytes.fromhex(code)
    writer = ElfWriter()
    text = writer.section(".text", data + b"\xcc" * 16, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, cold or len(data))
    if cold:
        writer.symbol("f.cold", text, cold, len(data) - cold)
    add_orc(writer, text, [*rows, (len(data), UND)])
    if hints is not None:
        records = struct.pack("<ihBBI", 0, 0, OrcReg.SP, 3, 0) * len(hints)
        section = writer.section(".discard.unwind_hints", records, flags=0)
        text_symbol = writer.symbol("start", text)
        for number, at in enumerate(hints):
            writer.relocation(section, 12 * number, R_PC32, text_symbol, at)
    return writer


def settled(code: str, rows: Rows, cold: int = 0) -> Settled:
    """The verdicts on what the local rule leaves in doubt."""
    columns = read_columns(program(code, rows, cold).program(), Features({}, 0, "test"))
    assert columns is not None
    flow = flow_of(columns)
    ways, tables = flow.noreturn.ways, flow.switches.targets
    return settle(flow.scope, flow.doubtful, flow.ends, ways, tables)


@pytest.mark.parametrize(("code", "rows"), [FRAMED, DRAP, SWITCHED], ids="fds")
def test_proved(code: str, rows: Rows) -> None:
    """Edges that look wrong alone are right where the frame is followed to them."""
    result = settled(code, rows)
    assert set(result.verdict.tolist()) <= {Verdict.PROVED}
    assert not result.refusals
    assert not len(result.assumed)


def test_refused_once() -> None:
    """A wrong entry is refused once in its function, with the true frame."""
    code, rows = DRAP
    wrong = [*rows[:2], (17, based(OrcReg.R10, 8)), *rows[3:]]
    refusals = settled(code, wrong).refusals
    assert [refusal.actual for refusal in refusals] == ["r10+0 call bp:bp+0"]


def test_fragment() -> None:
    """A fragment has the registers of those who jump there."""
    # push %r13; lea 16(%rsp),%r13; and $-64,%rsp; jmp f.cold; int3
    # f.cold: lea -16(%r13),%rsp; pop %r13; ret
    code = "4155 4c8d6c2410 4883e4e0 eb01 cc 498d65f0 415d c3"
    rows = [(0, call(8)), (2, call(16)), (7, based(OrcReg.R13, 0))]
    rows += [(18, call(16)), (20, call(8))]
    assert set(settled(code, rows, cold=14).verdict.tolist()) <= {Verdict.PROVED}
    wrong = [*rows[:3], (18, call(24)), rows[4]]
    assert settled(code, wrong, cold=14).refusals


def test_assumed_with_a_hint_only() -> None:
    """An object that has hints must have one where the code hides the frame."""
    # mov %rdi,%rsp; call (behind it); nop; jmp to itself
    code = "4889fc 90 ebfe"
    rows = [(0, call(8)), (3, OrcEntry(0, 0, OrcReg.SP, 0, OrcType.REGS, True))]

    def rules(hints: tuple[int, ...] | None) -> list[str]:
        writer = program(code, rows, hints=hints)
        columns = read_columns(writer.program(), Features({}, 0, "test"))
        assert columns is not None
        return [finding.rule for finding in check_flow(columns).findings]

    assert rules(None) == []
    assert rules((3,)) == []
    assert rules((0,)) == ["text/hint"]


def test_a_kept_register_needs_no_hint() -> None:
    """objtool takes registers for kept over every call."""
    # push %rbx; lea 8(%rsp),%r9; call; mov %r9,%rsp; ret
    code = "53 4c8d4c2408 e800100000 4c89cc c3"
    rows = [(0, call(8)), (1, call(16)), (14, call(8))]
    writer = program(code, rows, hints=(0,))
    columns = read_columns(writer.program(), Features({}, 0, "test"))
    assert columns is not None
    found = check_flow(columns)
    assert ([f.rule for f in found.findings], found.counts["assumed"]) == ([], 1)


def test_a_lost_frame_needs_no_hint() -> None:
    """No state behind a stack that is loaded is what objtool says by itself."""
    # mov %rax,%rsp; nop; jmp to itself (no_context() of 5.10 leaves the stack so)
    code = "4889c4 90 ebfe"

    def rules(lost: OrcEntry) -> list[str]:
        writer = program(code, [(0, call(8)), (3, lost)], hints=(0,))
        columns = read_columns(writer.program(), Features({}, 0, "test"))
        assert columns is not None
        return [finding.rule for finding in check_flow(columns).findings]

    assert rules(UND) == []
    assert rules(OrcEntry(0, 0, 0, 0, OrcType.END_OF_STACK, False)) == ["text/hint"]


def test_into_code_without_a_state() -> None:
    """Who jumps there for good may, and nobody whose own frame lives on."""
    # push %rbx; jmp f.cold; int3; f.cold: pop %rbx; ret
    lives: Rows = [(0, call(8)), (1, call(16)), (4, UND)]
    assert settled("53 eb01 cc 5b c3", lives, cold=4).refusals
    # push %rbx; pop %rbx; jmp f.cold; int3; f.cold: ret
    gone: Rows = [(0, call(8)), (1, call(16)), (2, call(8)), (5, UND)]
    assert not settled("53 5b eb01 cc c3", gone, cold=5).refusals
