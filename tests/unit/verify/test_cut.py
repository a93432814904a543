"""A part of a program keeps its addresses, and of each table the rows about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.elf.assemble import assemble
from harness.elf.feature import image_features
from harness.elf.load import parse
from harness.elf.orc import parse_orc
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.verify.columns import Columns, read_columns
from harness.verify.cut import cut, extent_of, leads_to, merge
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    LOCAL,
    R_64,
    R_PC32,
    SECTION,
    UND,
    ElfWriter,
    add_orc,
    call,
)

# first: push; pop; ret; fill. second: call third; ret; fill. third: ret
CODE = bytes.fromhex("5058c3cc e803000000c3cccc c3")
SECOND = 4


def whole() -> Columns:
    """An object of three functions, with a row about each of the first two."""
    writer = ElfWriter()
    text = writer.section(".text", CODE, flags=ALLOC | EXEC)
    for name, at, size in (("first", 0, 3), ("second", 4, 6), ("third", 12, 1)):
        writer.symbol(name, text, at, size)
    rows = [(0, call(8)), (1, call(16)), (2, call(8)), (3, UND)]
    rows += [(4, call(8)), (10, UND), (12, call(8)), (13, UND)]
    add_orc(writer, text, rows)
    base = writer.symbol("", text, kind=SECTION, binding=LOCAL)
    for name, size, fields in (
        ("__ex_table", 12, ((0, 0), (4, 1))),
        ("__jump_table", 16, ((0, 0), (4, 1))),
        ("__bug_table", 12, ((0, 0),)),
        (".return_sites", 4, ((0, 2),)),
    ):
        table = writer.section(name, bytes(2 * size))
        for row in range(2):
            for field, offset in fields:
                place = row * size + field
                target = row * SECOND + offset
                writer.relocation(table, place, R_PC32, base, target)
    sites = writer.section(".parainstructions", bytes(32))
    for row in range(2):
        writer.relocation(sites, 16 * row, R_64, base, row * SECOND)
    columns = read_columns(program := writer.program(), image_features(program))
    assert columns is not None
    return columns


def second(columns: Columns) -> Program:
    """What is cut out is `second` alone."""
    address = columns.program.symbols.find("second")
    assert address is not None
    part = cut(columns, [extent_of(columns.program, address)])
    return parse(assemble(part.pieces, part.names), "part", Path("part"))


def test_code_and_names_stay_where_they_are() -> None:
    """What it calls is external, what it does not call is gone."""
    columns = whole()
    part = second(columns)

    for name in ("second", "third"):
        assert part.symbols.find(name) == columns.program.symbols.find(name)
    assert part.symbols.find("first") is None
    assert part.externals == {columns.program.symbols.find("third"): "third"}
    assert part.section(".text").data.tobytes() == CODE[4:10]  # type: ignore[union-attr]


def test_the_table_ends_with_the_part() -> None:
    """The rows that hold in it, and an end behind it."""
    columns = whole()
    table = parse_orc(second(columns))
    start = columns.program.symbols.find("second")

    assert table is not None
    assert [ip - (start or 0) for ip in table.ip.tolist()] == [0, 6]
    assert table.sp_offset.tolist() == [8, 0]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (SiteTable.EX_TABLE, (0, 1)),
        (SiteTable.JUMP_TABLE, (0, 1)),
        (SiteTable.BUG_TABLE, (0, None)),
        (SiteTable.RETURN_SITES, (2, None)),
    ],
)
def test_rows_move_up_and_still_say_the_same(
    name: SiteTable, fields: tuple[int, int | None]
) -> None:
    """A row's fields count from where it lies, which is the table's start now."""
    columns = whole()
    start = columns.program.symbols.find("second") or 0

    sites = parse_sites(second(columns), name)

    assert sites is not None
    assert (sites.address - np.uint64(start)).tolist() == [fields[0]]
    if fields[1] is not None:
        assert (sites.target - np.uint64(start)).tolist() == [fields[1]]


def test_absolute_rows_are_kept_as_they_are() -> None:
    """A paravirt site is an address."""
    columns = whole()
    section = second(columns).section(".parainstructions")
    assert section is not None
    row = section.data.tobytes()
    assert len(row) == 16
    assert int.from_bytes(row[:8], "little") == columns.program.symbols.find("second")


def test_where_a_part_leads() -> None:
    """Direct branches out of it, once each."""
    columns = whole()
    address = columns.program.symbols.find("second") or 0
    third = columns.program.symbols.find("third")

    assert leads_to(columns, [extent_of(columns.program, address)]) == [third]


def test_intervals_that_touch_are_one() -> None:
    """In any order."""
    assert merge([(8, 12), (0, 4), (4, 6), (9, 10)]) == [(0, 6), (8, 12)]
