"""Debugline: just enough DWARF 4 for an address to have a source line."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.builders.elfwriter import ElfWriter

Rows = Sequence[tuple[int, int]]  # bytes, line

STANDARD_LENGTHS = bytes((0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1))


def add_lines(writer: ElfWriter, start: int, lines: Rows) -> None:
    """Say that code at ``start`` is of kernel/fork.c: (bytes, line) one by one."""
    size = sum(length for length, _ in lines)
    aranges = struct.pack("<HIBBIQQQQ", 2, 0, 8, 0, 0, start, size, 0, 0)
    info = struct.pack("<HIBBI", 4, 0, 8, 1, 0)
    writer.section(".debug_abbrev", bytes.fromhex("01110010170000 00"), flags=0)
    writer.section(".debug_info", _sized(info), flags=0)
    writer.section(".debug_aranges", _sized(aranges), flags=0)
    writer.section(".debug_line", _sized(_line_program(start, lines)), flags=0)


def _line_program(start: int, lines: Rows) -> bytes:
    names = b"kernel\0\0fork.c\0\x01\0\0\0"
    header = struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 13) + STANDARD_LENGTHS + names
    program = b"\0\x09\x02" + struct.pack("<Q", start)
    before = 1
    for length, line in lines:
        step = line - before
        assert -64 <= step < 64
        assert length < 128
        program += bytes((3, step & 0x7F, 1, 2, length))  # line, row, address
        before = line
    program += b"\0\x01\x01"
    return struct.pack("<HI", 4, len(header)) + header + program


def _sized(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body
