"""Replacements: they tile their section and branch to where code begins."""

from __future__ import annotations

from harness.elf.feature import Features
from harness.elf.program import Program
from harness.verify.columns import read_columns
from harness.verify.lints.replacement import check_replacements
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_PLT32,
    UND,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)

NAMES = Features({}, 22, "test")


def messages(program: Program) -> list[str]:
    """What the check says."""
    columns = read_columns(program, NAMES)
    assert columns is not None
    return [finding.message for finding in check_replacements(columns).findings]


def program(*rows: tuple[int, int], size: int = 6) -> Program:
    """Sites of 3 bytes, with replacements of (offset, length) in ``size`` bytes."""
    writer = ElfWriter()
    data = bytes.fromhex("0f1f00") * len(rows) + b"\xc3"
    text = writer.section(".text", data, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, len(data))
    add_orc(writer, text, [(0, call(8)), (len(data), UND)])
    sites = [
        Alternative(3 * n, at, 280, 3, length) for n, (at, length) in enumerate(rows)
    ]
    add_alternatives(writer, text, b"\xfc" * size, sites)
    return writer.program()


def test_tiles_are_clean() -> None:
    """One behind the other, in any order, those without bytes anywhere."""
    assert messages(program((0, 3), (3, 3))) == []
    assert messages(program((3, 3), (0, 3))) == []
    assert messages(program((0, 3), (3, 3), (1, 0))) == []


def test_shared_bytes() -> None:
    """Two entries cannot have one byte: the offset of one is wrong."""
    (message,) = messages(program((0, 3), (2, 3), size=5))
    assert message == "its replacement shares bytes with another site's"


def test_bytes_of_nobody() -> None:
    """What no entry has was cut off: in front, between, or at the end."""
    for rows in (((1, 2), (3, 3)), ((0, 2), (3, 3)), ((0, 3), (3, 2))):
        (message,) = messages(program(*rows))
        assert message == "1 bytes behind its replacement belong to no entry"


def branching(addend: int, *, jump: bool = False) -> Program:
    """A site whose replacement calls (or jumps to) g + ``addend``."""
    writer = ElfWriter()
    data = bytes.fromhex("0f1f440000" + "c3" + "b801000000" + "c3")
    text = writer.section(".text", data, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, 6)
    g = writer.symbol("g", text, 6, 6)
    add_orc(writer, text, [(0, call(8)), (len(data), UND)])
    code = (b"\xe9" if jump else b"\xe8") + bytes(4)
    add_alternatives(writer, text, code, [Alternative(0, 0, 280, 5, 5)])
    (where,) = (n for n, s in enumerate(writer.sections) if s.name.endswith("cement"))
    writer.relocation(where, 1, R_PLT32, g, addend - 4)
    return writer.program()


def test_targets_after_relocation() -> None:
    """Calls go to functions, jumps to instructions."""
    assert messages(branching(0)) == []
    assert messages(branching(5, jump=True)) == []
    (message,) = messages(branching(5))
    assert message == "a call of its replacement goes to g+0x5, which is no start"
    (message,) = messages(branching(2, jump=True))
    assert message == "a jump of its replacement goes to g+0x2, which is no start"
