"""Lints of the table itself."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.feature import Features
from harness.elf.orc import WITHOUT_OFFSET, OrcEntry, OrcFormat, OrcReg, OrcType
from harness.elf.program import Program
from harness.verify.check import check
from harness.verify.columns import read_columns
from harness.verify.lints.table import check_table
from tests.builders.elfwriter import (
    ALLOC,
    END,
    ET_EXEC,
    EXEC,
    OBJECT,
    UND,
    ElfWriter,
    add_orc,
    call,
    regs,
)

TEXT = 0xFFFFFFFF81000000
CODE = bytes.fromhex("55" + "4889e5" + "5d" + "c3" + "cc" * 10)
FRAME = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
GOOD = [(0, call(8)), (1, call(16, -16)), (4, FRAME), (5, call(8)), (16, UND)]


def kernel(
    rows: list[tuple[int, OrcEntry]], orc_format: OrcFormat = OrcFormat.V3
) -> Program:
    """A linked kernel of one function with these entries."""
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", CODE, flags=ALLOC | EXEC, address=TEXT)
    writer.symbol("f", text, TEXT, 6)
    data = writer.section(".data", bytes(64), address=TEXT + 0x1000)
    writer.symbol("object", data, TEXT + 0x1000, 32, kind=OBJECT)
    writer.symbol("code_in_data", data, TEXT + 0x1020, 0, kind=0)
    add_orc(writer, text, rows, orc_format, address=TEXT + 0x2000)
    return writer.program("vmlinux")


def rules(program: Program) -> list[tuple[str, int]]:
    """Rule and offset of each finding."""
    found = check(program).findings
    return [
        (finding.rule, finding.location.address - TEXT)
        for finding in found
        if not finding.rule.startswith("text/")
    ]


def test_good_table_is_clean() -> None:
    """What a kernel ships has nothing against it."""
    assert rules(kernel(GOOD)) == []


def test_unsorted() -> None:
    """A linked kernel's lookup is a bisection: the order is not a matter of taste."""
    rows = [GOOD[0], GOOD[2], GOOD[1], *GOOD[3:]]
    assert rules(kernel(rows)) == [("table/order", 1)]


def test_unsorted_when_the_kernel_sorts_itself() -> None:
    """Up to 5.5 the table of vmlinux is sorted at boot; that is a note."""
    program = kernel([GOOD[0], GOOD[2], GOOD[1], *GOOD[3:]], OrcFormat.V1B)
    verdict = check(program)
    assert verdict.findings == ()
    assert any("when it boots" in note for note in verdict.notes)


def interrupts(*signals: bool) -> Program:
    """A kernel of so many frames of interrupts, 16 bytes each."""
    writer = ElfWriter(ET_EXEC)
    code = b"\x90" * 16 * len(signals)
    text = writer.section(".text", code, flags=ALLOC | EXEC, address=TEXT)
    rows = [
        (16 * n, replace(regs(8 * n), signal=signal))
        for n, signal in enumerate(signals)
    ]
    add_orc(writer, text, [*rows, (len(code), UND)], address=TEXT + 0x2000)
    return writer.program("vmlinux")


def test_a_thousand_bad_entries() -> None:
    """Bits that no format has, in every entry: one finding, and nobody looks at each."""
    count = 600
    writer = ElfWriter(ET_EXEC)
    code = bytes.fromhex("5358c3cc" * count)
    text = writer.section(".text", code, flags=ALLOC | EXEC, address=TEXT)
    rows = [(4 * n + at, call(8 + 8 * at)) for n in range(count) for at in (0, 1)]
    add_orc(writer, text, [*rows, (len(code), UND)], address=TEXT + 0x2000)
    columns = read_columns(writer.program("vmlinux"), Features({}, 0, "test"))
    assert columns is not None
    bits = columns.table.raw | np.uint16(0xF000)
    table = replace(columns.table, raw=bits)

    (finding,) = check_table(replace(columns, table=table)).findings

    assert finding.key == "table/field:wholesale"
    assert finding.occurrences == len(table) == 2 * count + 1
    assert "(flags 0xf" in finding.message


def test_signal_is_lost_for_all() -> None:
    """Interrupts that say they are calls: one finding, however many they are."""
    (finding,) = (
        f
        for f in check(interrupts(True, *[False] * 29)).findings
        if f.rule == "table/signal"
    )
    assert finding.location.address == TEXT + 16
    assert finding.occurrences == 29
    assert "29 of 30" in finding.message


@pytest.mark.parametrize("signals", [[False] * 7 + [True] * 30, [False] * 3])
def test_some_interrupts_have_no_signal(signals: list[bool]) -> None:
    """#BP's entry has none; a few frames tell nothing."""
    assert "table/signal" not in {rule for rule, _ in rules(interrupts(*signals))}


def test_duplicate() -> None:
    """Two live entries of one address: which one holds is left to the sort."""
    rows = [*GOOD[:2], (1, call(24)), *GOOD[2:]]
    assert rules(kernel(rows)) == [("table/duplicate", 1)]


def test_terminator_and_first_entry_may_tie() -> None:
    """A section's terminator and the next one's first entry share an address."""
    rows = [*GOOD[:3], (5, UND), *GOOD[3:]]
    assert rules(kernel(rows)) == []


@pytest.mark.parametrize(
    "entry",
    [
        OrcEntry(8, 0, 11, 0, OrcType.CALL, False),
        OrcEntry(8, 0, OrcReg.SP, 0, 5, False),
        OrcEntry(8, 0, OrcReg.UNDEFINED, 0, OrcType.CALL, False),
        OrcEntry(8, 0, OrcReg.PREV_SP, 0, OrcType.CALL, False),
        OrcEntry(8, 0, OrcReg.SP, OrcReg.DX, OrcType.CALL, False),
        OrcEntry(8, 0, OrcReg.SP, 0, OrcType.UNDEFINED, False),
        OrcEntry(16, -16, OrcReg.SP, OrcReg.PREV_SP, OrcType.CALL, True),
        OrcEntry(0, -16, OrcReg.SP, OrcReg.PREV_SP, OrcType.REGS, True),
        OrcEntry(0, 0, OrcReg.SP, OrcReg.BP, OrcType.REGS_PARTIAL, True),
    ],
)
def test_illegal_fields(entry: OrcEntry) -> None:
    """Codes that do not exist, and combinations that mean nothing."""
    rows = [GOOD[0], (1, entry), *GOOD[2:]]
    assert ("table/field", 1) in rules(kernel(rows))


@pytest.mark.parametrize("base", sorted(WITHOUT_OFFSET - {OrcReg.AX}))
def test_an_offset_that_nobody_adds(base: OrcReg) -> None:
    """One cause for each register and offset; without an offset all is well."""
    legal = OrcEntry(0, 0, base, 0, OrcType.REGS_PARTIAL, True)
    entry = replace(legal, sp_offset=8)
    (finding,) = (
        finding
        for finding in check(kernel([GOOD[0], (1, entry), *GOOD[2:]])).findings
        if finding.rule.startswith("table/")
    )
    assert finding.key == f"table/offset:offset ignored under {finding.declared}"
    assert finding.location.address == TEXT + 1
    assert "table/offset" not in dict(rules(kernel([GOOD[0], (1, legal), *GOOD[2:]])))


def test_end_of_stack_is_legal() -> None:
    """The outermost frame has no register."""
    found = rules(kernel([(0, END), (16, UND)]))
    assert not [rule for rule, _ in found if rule.startswith("table/")]


def test_missing_terminator() -> None:
    """Without one the last function's state reaches into what follows."""
    ((rule, offset),) = rules(kernel(GOOD[:-1]))
    assert (rule, offset) == ("table/terminator", 5)


def test_entry_inside_an_instruction() -> None:
    """An entry between the bytes of an instruction holds from a place of no use."""
    rows = [*GOOD[:2], (2, call(24)), *GOOD[2:]]
    assert rules(kernel(rows)) == [("table/boundary", 2)]


def test_entry_for_data() -> None:
    """An entry for an object is lost; behind a plain label it may be code."""
    rows = [*GOOD, (0x1000, call(8)), (0x1020, END), (0x1030, UND)]
    assert rules(kernel(rows)) == [("table/text", 0x1000)]


def test_entry_nowhere() -> None:
    """An entry outside of every section is lost."""
    assert rules(kernel([*GOOD, (0x9000, UND)])) == [("table/text", 0x9000)]


def test_evidence_shows_the_neighbours() -> None:
    """The window has the entries around, with an arrow, within 100 columns."""
    (finding,) = check(kernel([*GOOD[:2], (2, call(24)), *GOOD[2:]])).findings
    marked = [line for line in finding.window if line.startswith("->")]
    assert len(marked) == 1
    assert "sp+24 call" in marked[0]
    assert max(map(len, finding.window)) <= 100


def test_equal_neighbours_are_a_note() -> None:
    """An entry that repeats the one before says nothing new, and harms nobody."""
    verdict = check(kernel([*GOOD[:4], (6, call(8)), GOOD[4]]))
    assert verdict.findings == ()
    assert any("1 entries repeat" in note for note in verdict.notes)


def test_columns_survive() -> None:
    """Linting reads the table, it does not write it."""
    from harness.elf.orc import parse_orc

    program = kernel(GOOD)
    table = parse_orc(program)
    assert table is not None
    before = table.ip.copy()
    check(program)
    assert np.array_equal(table.ip, before)
