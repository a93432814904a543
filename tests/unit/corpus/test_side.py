"""Mutants of side tables: rows that are gone, or point elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from harness.corpus.classes import CLASSES, Zone, candidates
from harness.corpus.mutant import draw
from harness.elf.sites import Sites, SiteTable, parse_sites
from harness.verify.columns import Columns, read_columns
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    LOCAL,
    R_PC32,
    SECTION,
    UND,
    ElfWriter,
    add_orc,
    call,
)
from tests.unit.corpus.program import NAMES

TEXT = bytes.fromhex("31c0 31d2 e900000000 c3")  # xor; xor; jmp; ret


def columns() -> Columns:
    """Return an object with a return site at 4, and an exception at 0 fixed up at 9."""
    writer = ElfWriter()
    text = writer.section(".text", TEXT, flags=ALLOC | EXEC, align=16)
    writer.symbol("f", text, 0, len(TEXT))
    add_orc(writer, text, [(0, call(8)), (len(TEXT), UND)])
    symbol = writer.symbol("", text, kind=SECTION, binding=LOCAL)
    sites = writer.section(".return_sites", bytes(4))
    writer.relocation(sites, 0, R_PC32, symbol, 4)
    table = writer.section("__ex_table", bytes(12))
    writer.relocation(table, 0, R_PC32, symbol, 0)
    writer.relocation(table, 4, R_PC32, symbol, 9)
    read = read_columns(writer.program(), NAMES)
    assert read is not None
    return read


def sites(name: str, table: SiteTable) -> tuple[Sites | None, Sites | None]:
    """Return ``table`` of the clean object and of the mutant of the class ``name``."""
    clean, one = columns(), CLASSES[name]
    change = draw(one, clean, candidates(one, Zone.ALL, clean), 0)
    assert change is not None
    mutant = change.columns
    return parse_sites(clean.program, table), parse_sites(mutant.program, table)


def test_a_dropped_row_is_read_no_more() -> None:
    """Readers skip rows of zeros, as the kernel does."""
    clean, mutant = sites("side/return_sites-drop", SiteTable.RETURN_SITES)

    assert clean is not None
    assert mutant is not None
    assert (len(clean), len(mutant)) == (1, 0)


@pytest.mark.parametrize(
    ("name", "moved"),
    [("side/ex_table-place", (2, 0)), ("side/ex_table-target", (0, 1))],
)
def test_a_row_that_points_to_the_next_instruction(
    name: str, moved: tuple[int, int]
) -> None:
    """One of its two addresses moves by an instruction, the other stays."""
    clean, mutant = sites(name, SiteTable.EX_TABLE)

    assert clean is not None
    assert mutant is not None
    steps = (mutant.address - clean.address, mutant.target - clean.target)
    assert tuple(int(np.int64(step[0])) for step in steps) == moved


def test_a_table_that_is_not_there() -> None:
    """It has no rows to spoil."""
    one = CLASSES["side/bug_table-drop"]

    assert len(candidates(one, Zone.ALL, columns())) == 0
