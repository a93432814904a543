"""The evidence: what is shown, and that it fits."""

from __future__ import annotations

import numpy as np

from harness.elf.orc import pack
from harness.elf.program import Program
from harness.finding import Lines
from harness.text.decode import decode_all
from harness.verify.window import LINES, WIDTH, Column, draw
from tests.builders.elfwriter import ElfWriter, call


def column(title: str, code: str) -> Column:
    """A variant of this code."""
    insns = decode_all(np.frombuffer(bytes.fromhex(code), np.uint8), 0)
    rows = (insns.at(row) for row in range(len(insns)))
    return Column(title, {insn.address: insn for insn in rows})


def nothing() -> Program:
    """A program without anything in it."""
    return ElfWriter().program()


def test_window_has_a_column_per_variant_and_the_table() -> None:
    """Each row is an offset at which a text or the table changes."""
    table = [pack(call(8)), *[pack(call(16))] * 5, pack(call(8))]
    columns = [column("original", "ff1500000000"), column("replacement", "9c58")]
    lines = Lines(lambda: draw(nothing(), columns, table, 1, ["at +0x1: wrong"]))
    assert lines == (
        "         original                        replacement                     ORC",
        "   +0x0  callq *(%rip)                   pushfq                          "
        "sp+8 call",
        "-> +0x1                                  popq %rax                       "
        "sp+16 call",
        "   +0x6                                                                  "
        "sp+8 call",
        "at +0x1: wrong",
    )


def test_long_sites_are_cut_around_the_bad_row() -> None:
    """However long the site, the arrow is on the screen."""
    table = [pack(call(8 + 8 * (n % 2))) for n in range(200)]
    columns = [column("a" * 90, "fc" * 200)] * 3
    for bad in (0, 7, 100, 199):
        lines = list(map(str, draw(nothing(), columns, table, bad, ["x" * 150, "y"])))
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= WIDTH
        assert [line for line in lines if line.startswith(f"-> +{bad:#x}")]
