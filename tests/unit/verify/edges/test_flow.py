"""Flow: all edges of a text, counted, and what no edge leads to."""

from __future__ import annotations

import re
from pathlib import Path

from harness.elf.program import Program
from harness.verify.check import check
from harness.verify.edges.doubt import Rule
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_PLT32,
    UND,
    ElfWriter,
    add_orc,
)
from tests.builders.flow import (
    IN,
    ONE,
    PUSHED,
    ex_table,
    flow,
    kernel,
    orphans,
    rules,
)


def test_code_that_nothing_leads_to() -> None:
    """A fixup without its entry, unless a jump to anywhere is in the function."""
    code = "488b07" + "c3" + "31c0c3"
    rows = [(0, IN), (7, UND)]
    assert orphans(kernel(code, rows, ONE, [ex_table((0, 4))])) == []
    assert orphans(kernel(code, rows, ONE, [ex_table((0, 3))])) == ["f+0x4"]
    assert orphans(kernel(code, rows, [("f", 0, 4)])) == []
    anywhere = "ffe0" + "c3" + "31c0c3"
    assert orphans(kernel(anywhere, [(0, IN), (6, UND)], ONE)) == []


def test_aux_code_has_the_state_of_who_jumps_there() -> None:
    """A section without states is the continuation of those who jump there."""

    def program(back: int) -> Program:
        writer = ElfWriter()
        code = bytes.fromhex("53" + "e900000000" + "5b" + "c3")
        text = writer.section(".text", code, flags=ALLOC | EXEC)
        writer.symbol("f", text, 0, len(code))
        aux = writer.section(
            ".altinstr_aux", bytes.fromhex("f60001" + "e900000000"), flags=ALLOC | EXEC
        )
        symbol = writer.symbol("", aux, kind=3, binding=0)
        home = writer.symbol("", text, kind=3, binding=0)
        writer.relocation(text, 2, R_PLT32, symbol, -4)
        writer.relocation(aux, 4, R_PLT32, home, back - 4)
        add_orc(writer, text, [(0, IN), (1, PUSHED), (7, IN), (8, UND)])
        return writer.program("f.o")

    assert rules(program(6)) == []
    assert flow(program(6)).counts["unreached"] == 0
    assert [rule.split()[0] for rule in rules(program(7))] == ["text/branch"]


def test_counts() -> None:
    """What was looked at is counted, and what was not."""
    code = "53" + "5b" + "c3" + "0f0b" + "fc"
    rows = [(0, IN), (1, PUSHED), (2, IN), (5, UND)]
    counts = flow(kernel(code, rows, [("f", 0, 5)])).counts
    assert counts["step edges"] == 2
    assert counts["return edges"] == 1
    assert counts["function edges"] == 1
    assert counts["defined"] == 4
    assert counts["unreached"] == 1  # ud2, behind a return
    assert counts["blind"] == 1  # cld
    assert counts["assumed"] == 0


def test_every_rule_is_documented() -> None:
    """docs/findings.md has one section per rule, and none for a rule that is gone."""
    text = (Path(__file__).parents[4] / "docs" / "findings.md").read_text()
    sections = set(re.findall(r"^## `(text/[\w-]+)`$", text, re.MULTILINE))
    assert sections == {rule.value for rule in Rule}


def test_no_code_is_no_error() -> None:
    """A whole validation of an object with nothing in it says nothing."""
    writer = ElfWriter()
    text = writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    add_orc(writer, text, [(0, IN), (1, UND)])
    assert check(writer.program()).findings == ()
