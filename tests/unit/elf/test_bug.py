"""Which traps only warn."""

from __future__ import annotations

import struct

import pytest

from harness.elf.bug import BUGFLAG_WARNING, parse_warnings
from harness.elf.program import Program
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter

TEXT = 0xFFFF_FFFF_8100_0000
TABLE = TEXT + 0x1000


def kernel(size: int, *flags: int) -> Program:
    """A kernel with a trap at every 16th byte; ``flags`` of each."""
    writer = ElfWriter(ET_EXEC)
    writer.section(
        ".text", b"\x0f\x0b".ljust(256, b"\x90"), flags=ALLOC | EXEC, address=TEXT
    )
    data = b""
    for number, each in enumerate(flags):
        place = TEXT + 16 * number - (TABLE + size * number)
        head = struct.pack("<i", place).ljust({8: 4, 12: 10, 16: 14}[size], b"\x55")
        data += (head + struct.pack("<H", each)).ljust(size, b"\0")
    writer.section("__bug_table", data, address=TABLE)
    return writer.program("vmlinux")


@pytest.mark.parametrize("size", [8, 12, 16])
def test_warnings(size: int) -> None:
    """The first flag says "warning", in all three layouts."""
    flags = (BUGFLAG_WARNING, 0, BUGFLAG_WARNING | 2, 2 | 0x900, 0x901)
    found = parse_warnings(kernel(size, *flags)) - TEXT
    assert found.tolist() == [0, 32, 64]


def test_none() -> None:
    """A program without the table has no warnings."""
    writer = ElfWriter()
    writer.section(".text", b"\x0f\x0b", flags=ALLOC | EXEC)
    assert not len(parse_warnings(writer.program()))
