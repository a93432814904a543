"""Where sites lie: overlaps, starts inside instructions, branches into them."""

from __future__ import annotations

from harness.elf.program import Program
from harness.verify.check import check
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    UND,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)


def program(code: str, *sites: tuple[int, int]) -> Program:
    """A function with sites of (offset, length), replaced by clds."""
    data = bytes.fromhex(code)
    writer = ElfWriter()
    text = writer.section(".text", data, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, len(data))
    add_orc(writer, text, [(0, call(8)), (len(data), UND)])
    rows, at = [], 0
    for offset, length in sites:
        rows.append(Alternative(offset, at, 280, length, length))
        at += length
    add_alternatives(writer, text, b"\xfc" * at, rows)
    return writer.program()


def rules(found: Program) -> list[str]:
    """Rules and places of all findings."""
    return [f"{f.rule} {f.location}" for f in check(found).findings]


def test_neighbours_are_clean() -> None:
    """Sites that touch do not overlap."""
    assert rules(program("fcfcfcfcc3", (0, 2), (2, 2))) == []


def test_overlap() -> None:
    """Of two sites that share bytes one destroys the other."""
    assert rules(program("fcfcfcfcc3", (0, 3), (2, 2))) == ["alternative/overlap f+0x2"]


def test_start_inside_an_instruction() -> None:
    """A site must start where the linked code has an instruction."""
    found = rules(program("0f1f4000" + "90c3", (2, 3)))
    assert "alternative/boundary f+0x2" in found


def test_branch_into_a_site() -> None:
    """Code outside must not jump past a site's first byte."""
    code = "eb01" + "fcfc" + "c3"
    assert rules(program(code, (2, 2))) == ["alternative/target f"]
    assert rules(program("eb00" + "fcfc" + "c3", (2, 2))) == []


def test_branch_within_a_site() -> None:
    """The site's own text may jump about in it."""
    assert rules(program("eb01" + "fcfc" + "c3", (0, 4))) == []
