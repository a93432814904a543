"""The compiler's account of a frame is a witness, and is not always right itself."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.debug_frame import SAME, UNTOLD, FrameRows
from harness.elf.feature import image_features
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.verify.columns import Columns, Part, read_columns
from harness.verify.lints.dwarf import check_dwarf
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call, regs

RSP, RBP = 7, 6
Row = tuple[int, int, int, int]  # offset, register, CFA offset, %rbp's rule
BP_FRAME = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)


def columns(code: str, entries: list[tuple[int, OrcEntry]]) -> Columns:
    """One function with its table."""
    writer = ElfWriter()
    data = bytes.fromhex(code)
    text = writer.section(".text", data, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, len(data))
    add_orc(writer, text, [*entries, (len(data), UND)])
    program = writer.program()
    found = read_columns(program, image_features(program))
    assert found is not None
    return found


def compare(
    code: str, entries: list[tuple[int, OrcEntry]], rows: list[Row]
) -> tuple[Part, list[tuple[int, str, str]]]:
    """Return the part, and (offset, declared, actual) of its findings."""
    found = columns(code, entries)
    base = int(found.program.executable[0].address)
    end = len(bytes.fromhex(code))
    frames = FrameRows(
        np.array([base + row[0] for row in rows] + [base + end], np.uint64),
        np.array([row[1] for row in rows] + [0], np.uint8),
        np.array([row[2] for row in rows] + [0], np.int64),
        np.array([row[3] for row in rows] + [0], np.int64),
        np.array([True] * len(rows) + [False]),
    )
    part = check_dwarf(replace(found, frames=frames))
    findings = [(f.location.offset, f.declared, f.actual) for f in part.findings]
    return part, findings


PUSH_POP = "50 90 58 c3"  # push %rax; nop; pop %rax; ret
ENTRY = (0, RSP, 8, SAME)


def test_two_who_agree() -> None:
    """A frame based on %rbp, and one on %rsp, are what DWARF says too."""
    entries = [(0, call(8)), (1, call(16, -16)), (4, BP_FRAME), (5, call(8))]
    rows = [ENTRY, (1, RSP, 16, -16), (4, RBP, 16, -16), (5, RSP, 8, SAME)]

    part, findings = compare("55 4889e5 c9 c3", entries, rows)

    assert findings == []
    assert part.counts == {
        "dwarf compared": 4,
        "dwarf differs": 0,
        "dwarf undecided": 0,
    }


def test_where_the_table_is_wrong_the_instruction_says_so() -> None:
    """A push makes DWARF's state, not the table's."""
    _, findings = compare(
        PUSH_POP,
        [(0, call(8)), (3, call(8))],
        [ENTRY, (1, RSP, 16, SAME), (3, RSP, 8, SAME)],
    )

    assert findings == [(1, "sp+8 call", "sp+16 call")]


def test_where_dwarf_is_wrong_nothing_is_found() -> None:
    """Inline assembly pushes, and the compiler does not know."""
    part, findings = compare(
        PUSH_POP, [(0, call(8)), (1, call(16)), (3, call(8))], [ENTRY]
    )

    assert findings == []
    assert part.counts["dwarf differs"] == 2
    assert part.counts["dwarf undecided"] == 0


@pytest.mark.parametrize(
    ("table", "dwarf", "found"),
    [(call(8), 16, []), (call(16), 8, [(5, "sp+16 call", "sp+8 call")])],
    ids=["dwarf is wrong", "the table is wrong"],
)
def test_a_jump_decides_where_code_is_apart(
    table: OrcEntry, dwarf: int, found: list[tuple[int, str, str]]
) -> None:
    """A cold part begins with the state of the jump that leads to it."""
    code = "7403 90 c3 cc 90 c3"  # je to the nop behind int3
    _, findings = compare(
        code, [(0, call(8)), (5, table)], [ENTRY, (5, RSP, dwarf, SAME)]
    )

    assert findings == found


def test_what_nothing_decides_is_counted() -> None:
    """Nobody jumps there, nothing falls through to it."""
    part, findings = compare(
        "c3 90 c3", [(0, call(8)), (1, call(16))], [ENTRY, (1, RSP, 24, SAME)]
    )

    assert findings == []
    assert part.counts["dwarf undecided"] == 1


def test_only_what_both_can_say_is_compared() -> None:
    """Interrupt frames are not DWARF's, expressions are not ORC's."""
    part, _ = compare(
        "90 90 90 c3",
        [(0, regs(8)), (1, call(8))],
        [ENTRY, (1, RSP, 8, UNTOLD), (2, 12, 8, SAME), (3, RSP, 8, SAME)],
    )

    assert part.counts["dwarf compared"] == 1


def test_without_frames_nothing_is_said() -> None:
    """Comparing is asked for."""
    assert check_dwarf(columns("c3", [(0, call(8))])) == Part()
