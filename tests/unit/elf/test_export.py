"""What objects offer to modules."""

from __future__ import annotations

import struct

import pytest

from harness.elf.export import parse_exports
from harness.elf.program import Program
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    R_PC32,
    SECTION,
    ElfWriter,
)

TEXT = 0xFFFF_FFFF_8100_0000
STRINGS = TEXT + 0x1000
TABLE = TEXT + 0x2000
NAMES = b"\0open\0close\0"
EXPECTED = {"open": TEXT + 16, "close": TEXT + 48}


def kernel(size: int) -> Program:
    """A kernel that exports two functions, in entries of ``size`` bytes."""
    data = b""
    for value, name in ((TEXT + 16, 1), (TEXT + 48, 6)):
        at = TABLE + len(data)
        if size == 16:
            data += struct.pack("<QQ", value, STRINGS + name)
        else:
            fields = struct.pack("<ii", value - at, STRINGS + name - (at + 4))
            data += fields.ljust(size, b"\0")
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", bytes(256), flags=ALLOC | EXEC, address=TEXT)
    writer.section("__ksymtab_strings", NAMES, address=STRINGS)
    writer.section("__ksymtab_gpl", data, address=TABLE)
    return writer.program("vmlinux")


@pytest.mark.parametrize("size", [8, 12, 16])
def test_all_layouts(size: int) -> None:
    """Absolute up to 4.18, relative since, with a namespace since 5.4."""
    assert parse_exports(kernel(size)) == EXPECTED


def test_a_module() -> None:
    """In a module the fields are relocated."""
    writer = ElfWriter()
    text = writer.section(".text", bytes(256), flags=ALLOC | EXEC)
    function = writer.symbol("open", text, 16, 1)
    strings = writer.section("__ksymtab_strings", NAMES)
    table = writer.section("__ksymtab", bytes(12))
    writer.relocation(table, 0, R_PC32, function)
    named = writer.symbol("", strings, kind=SECTION, binding=0)
    writer.relocation(table, 4, R_PC32, named, 1)
    program = writer.program("a.ko")
    assert parse_exports(program) == {"open": program.symbols.find("open")}


def test_nothing() -> None:
    """Most modules export nothing."""
    writer = ElfWriter()
    writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    assert parse_exports(writer.program()) == {}


def test_no_sense() -> None:
    """A table of no known layout is an error."""
    writer = ElfWriter(ET_EXEC)
    writer.section("__ksymtab_strings", NAMES, address=STRINGS)
    writer.section("__ksymtab", bytes(24), address=TABLE)
    with pytest.raises(FormatError, match="8, 12 or 16"):
        parse_exports(writer.program("vmlinux"))
