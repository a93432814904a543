"""Switches: indirect jumps whose targets are in a table."""

from __future__ import annotations

import struct

import pytest

from harness.elf.orc import OrcEntry
from harness.elf.program import Program
from tests.builders.elfwriter import (
    UND,
)
from tests.builders.flow import (
    IN,
    ONE,
    PUSHED,
    RODATA,
    TEXT,
    flow,
    kernel,
    orphans,
    rules,
)


def switch(states: list[tuple[int, OrcEntry]], *cases: int) -> Program:
    """A switch: push; jmp *table(,%rax,8); two cases that pop and return."""
    table = struct.pack("<i", RODATA - (1 << 64)).hex()
    code = "53" + "ff24c5" + table + "5bc3" + "5bc3"
    data = b"".join(struct.pack("<Q", TEXT + case) for case in cases)
    rows = [(0, IN), (1, PUSHED), *states, (12, UND)]
    return kernel(code, rows, ONE, [(".rodata", data + bytes(8), RODATA)])


def test_jump_table() -> None:
    """All cases of a switch have the state of its jump."""
    good = [(9, IN), (10, PUSHED), (11, IN)]
    program = switch(good, 8, 10)
    assert rules(program) == []
    assert flow(program).counts["jump table edges"] == 2
    assert rules(switch(good, 8, 11)) == ["text/jump-table f+0x1"]


def test_a_table_goes_on_behind_what_cannot_be() -> None:
    """clang's table of x & 5 has entries that are no place: all its cases are led to."""
    good = [(0, IN), (1, PUSHED), (9, IN), (10, PUSHED), (11, IN), (12, UND)]
    assert orphans(switch(good, 8, 0x400000, 10)) == []
    assert orphans(switch(good, 8)) == ["f+0xa"]


def test_jump_table_behind_a_base() -> None:
    """The table's address may be in a register."""
    away = (RODATA - (TEXT + 8)).to_bytes(4, "little").hex()
    code = "53" + f"488d3d{away}" + "488b3cc7" + "ffe7" + "5bc3" + "5bc3"

    def program(*cases: int) -> Program:
        data = b"".join(struct.pack("<Q", TEXT + case) for case in cases) + bytes(8)
        rows = [(0, IN), (1, PUSHED), (15, IN), (16, PUSHED), (17, IN), (18, UND)]
        return kernel(code, rows, ONE, [(".rodata", data, RODATA)])

    assert rules(program(14, 16)) == []
    assert flow(program(14, 16)).counts["jump table edges"] == 2
    assert rules(program(14, 17)) == ["text/jump-table f+0xc"]


@pytest.mark.parametrize(
    ("load", "add", "known"),
    [
        ("48630481", "4801c8", True),  # movslq (%rcx,%rax,4),%rax; add %rcx,%rax
        ("48630c81", "4803c1", False),  # the base is overwritten: no such switch
        ("48631481", "4803c1", False),  # what is loaded is not what is added
        ("48630481", "4803c1", True),  # add %rcx,%rax in its other encoding
    ],
)
def test_jump_table_of_distances(load: str, add: str, known: bool) -> None:
    """Code that may lie anywhere adds an entry to its table's address."""
    away = (RODATA - (TEXT + 8)).to_bytes(4, "little").hex()
    code = "53" + f"488d0d{away}" + load + add + "ffe0" + "5bc3" + "5bc3"

    def program(*cases: int) -> Program:
        far = (TEXT + case - RODATA for case in cases)
        data = b"".join(struct.pack("<i", distance) for distance in far) + bytes(4)
        rows = [(0, IN), (1, PUSHED), (18, IN), (19, PUSHED), (20, IN), (21, UND)]
        return kernel(code, rows, ONE, [(".rodata", data, RODATA)])

    assert (rules(program(17, 19)) == []) is known
    assert ("text/jump-table f+0xf" in rules(program(17, 20))) is known
