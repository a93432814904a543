"""Side tables: exceptions, static keys and calls, warnings."""

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
    TABLE,
    TEXT,
    ex_table,
    kernel,
    relative,
    rules,
)


def test_return_that_may_fault() -> None:
    """That an exception table has a return's place makes it no switch."""
    code = "53" + "c3" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (3, IN), (4, UND)]
    found = rules(kernel(code, rows, ONE, [ex_table((1, 2))]))
    assert found == ["text/return f+0x1"]


def test_ex_table() -> None:
    """A fixup goes on with the frame of what faulted."""
    code = "53" + "488b07" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (5, IN), (6, UND)]
    assert rules(kernel(code, rows, ONE, [ex_table((1, 4))])) == []
    found = rules(kernel(code, rows, ONE, [ex_table((1, 5))]))
    assert found == ["text/ex-table f+0x1"]


def test_jump_label() -> None:
    """A static key's branch and what follows it have one state."""
    code = "53" + "0f1f440000" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (7, IN), (8, UND)]

    def labelled(target: int) -> Program:
        data = relative(TABLE, 1, target) + struct.pack("<q", 0)
        return kernel(code, rows, ONE, [("__jump_table", data, TABLE)])

    assert rules(labelled(6)) == []
    assert rules(labelled(7)) == ["text/jump-label f+0x1"]


def test_jump_label_that_jumps() -> None:
    """It becomes a NOP when its key is turned: what is behind it has one state, too."""
    code = "53" + "eb02" + "5bc3" + "5bc3"  # push; jmp over pop; ret

    def labelled(behind: OrcEntry) -> Program:
        data = relative(TABLE, 1, 5) + struct.pack("<q", 0)
        states = [(3, behind), (4, IN), (5, PUSHED), (6, IN), (7, UND)]
        rows = [(0, IN), (1, PUSHED), *states]
        return kernel(code, rows, ONE, [("__jump_table", data, TABLE)])

    assert rules(labelled(PUSHED)) == []
    assert rules(labelled(IN)) == ["text/jump-label f+0x1"]


@pytest.mark.parametrize("size", [8, 12, 16])
def test_warning(size: int) -> None:
    """Behind a ud2 that warns the code goes on; behind any other it ends."""
    code = "0f0b" + "c3"

    def with_flags(flags: int) -> Program:
        entry = relative(TABLE, 0).ljust({8: 4, 12: 10, 16: 14}[size], b"\0")
        entry = (entry + struct.pack("<H", flags)).ljust(size, b"\0")
        rows = [(0, IN), (2, PUSHED), (3, UND)]
        return kernel(code, rows, ONE, [("__bug_table", entry, TABLE)])

    assert "text/bug f" in rules(with_flags(1))
    assert "text/bug f" not in rules(with_flags(0))


def test_static_call() -> None:
    """A static call in tail position may become a return."""
    code = "53" + "e901000000" + "cc" + "c3"
    rows = [(0, IN), (1, PUSHED), (6, UND), (7, PUSHED), (8, UND)]

    def site(flags: int) -> Program:
        data = struct.pack("<ii", TEXT + 1 - TABLE, 0x1000 + flags)
        return kernel(code, rows, ONE, [(".static_call_sites", data, TABLE)])

    assert "text/static-call f+0x1" in rules(site(1))
    assert "text/static-call f+0x1" not in rules(site(0))
