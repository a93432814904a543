"""Doubt: what a finding says of an edge, and which edges no frame excuses."""

from __future__ import annotations

import re

from msgspec.structs import replace

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from tests.builders.elfwriter import (
    END,
    UND,
    regs,
)
from tests.builders.flow import (
    IN,
    ONE,
    flow,
    kernel,
    rules,
)


def test_step_says_both_sides() -> None:
    """Declared is the table's entry, actual what the instruction leads to."""
    program = kernel("53" + "5b" + "c3", [(0, IN), (3, UND)], ONE)
    (finding,) = flow(program).findings
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")
    assert any(line.startswith("-> f ") for line in finding.window)
    assert max(map(len, finding.window)) <= 100
    assert len(finding.window) <= 25


def test_the_window_tells_an_end_from_nothing() -> None:
    """The end of the stack is a state that the table has; no state is none."""
    program = kernel("53" + "5b" + "c3", [(0, IN), (1, END), (2, UND)], ONE)
    window = "\n".join(flow(program).findings[0].window)

    assert re.search(r"f\+0x1 .* end$", window, re.MULTILINE)
    assert re.search(r"f\+0x2 .* \(und\)$", window, re.MULTILINE)


def test_step_that_drops_signal() -> None:
    """An interrupt's frame stays one: its address is looked up as it is."""
    code = "53" + "5b" + "48cf"  # push; pop; iretq
    rows = [(0, regs(0)), (1, regs(8)), (2, regs(0)), (4, UND)]
    assert rules(kernel(code, rows, ())) == []
    rows[1] = (1, replace(regs(8), signal=False))
    assert rules(kernel(code, rows, ())) == ["text/step .text", "text/step .text+0x1"]


def test_step_that_gains_signal() -> None:
    """No instruction makes a trap's frame a fault's."""
    code = "53" + "5b" + "48cf"  # push; pop; iretq
    trap = replace(regs(0), signal=False)
    rows = [(0, trap), (1, replace(regs(8), signal=False)), (2, trap), (4, UND)]
    assert rules(kernel(code, rows, ())) == []
    rows[1:3] = [(1, regs(8)), (2, regs(0))]
    assert rules(kernel(code, rows, ())) == ["text/step .text"]


def test_branch_that_gains_registers() -> None:
    """A jump leads from an interrupt's words to no whole pt_regs."""
    code = "4881c480000000" + "eb01" + "cc" + "48cf"  # add $128,%rsp; jmp; int3; iretq
    words = OrcEntry(0, 0, OrcReg.SP, OrcReg.UNDEFINED, OrcType.REGS_PARTIAL, True)
    rows = [(0, regs(0)), (7, words), (10, words), (12, UND)]
    assert rules(kernel(code, rows, ())) == []
    rows[2] = (10, regs(-128))
    assert rules(kernel(code, rows, ())) == ["text/branch .text+0x7"]
