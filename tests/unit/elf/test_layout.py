"""Objects get addresses, and their relocations are applied."""

from __future__ import annotations

import itertools
import struct

import pytest

from harness.elf.layout import EXTERNAL_ZONE, SECTION_ZONE
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    LIVEPATCH,
    NOBITS,
    R_32,
    R_32S,
    R_64,
    R_NONE,
    R_PC32,
    R_PLT32,
    UNDEF,
    ElfWriter,
)

R_PC64, R_GOTPCREL, R_TPOFF32 = 24, 9, 23


def test_sections_do_not_touch() -> None:
    """Space and alignment separate sections; what is not in memory stays out."""
    writer = ElfWriter()
    writer.section(".text", b"\x90" * 0x123, flags=ALLOC | EXEC, align=4096)
    writer.section(".data", b"abc", align=1 << 20)
    writer.section(".comment", b"gcc", flags=0)
    writer.section(".discard.reachable", bytes(4), flags=0)
    writer.section(".bss", type=NOBITS, size=0x5000)
    sections = writer.program().sections
    assert [s.name for s in sections] == [
        ".text",
        ".data",
        ".discard.reachable",
        ".bss",
    ]
    assert sections[0].address == SECTION_ZONE
    assert sections[1].address % (1 << 20) == 0
    for before, after in itertools.pairwise(sections):
        assert after.address - before.end >= 0x10000
    assert (sections[3].size, len(sections[3].data)) == (0x5000, 0)


@pytest.mark.parametrize(
    ("kind", "width", "relative"),
    [
        (R_64, 8, False),
        (R_32, 4, False),
        (R_32S, 4, False),
        (R_PC32, 4, True),
        (R_PLT32, 4, True),
        (R_GOTPCREL, 4, True),
        (R_PC64, 8, True),
        (R_NONE, 0, False),
    ],
)
def test_relocations_write_what_the_linker_would(
    kind: int, width: int, relative: bool
) -> None:
    """S + A, or S + A - P, truncated to the field, and no byte more."""
    writer = ElfWriter()
    text = writer.section(".text", b"\xcc" * 32, flags=ALLOC | EXEC)
    data = writer.section(".data", b"\xcc" * 64)
    symbol = writer.symbol("there", data, 16)
    writer.relocation(text, 5, kind, symbol, -4)
    program = writer.program()
    base, target = program.sections[0].address, program.sections[1].address + 16
    value = target - 4 - (base + 5 if relative else 0)
    field = struct.pack("<Q", value & (1 << 64) - 1)[:width]
    expected = b"\xcc" * 5 + field + b"\xcc" * (27 - width)
    assert program.sections[0].data.tobytes() == expected


def test_symbols_of_other_objects_get_a_slot_each() -> None:
    """A call of one goes to its slot, which the program can name."""
    writer = ElfWriter()
    text = writer.section(".text", b"\xe8\0\0\0\0\xe8\0\0\0\0", flags=ALLOC | EXEC)
    printk = writer.symbol("_printk", UNDEF)
    patched = writer.symbol(".klp.sym.vmlinux.fork,0", LIVEPATCH)
    writer.relocation(text, 1, R_PLT32, printk, -4)
    writer.relocation(text, 6, R_PLT32, patched, -4)
    program = writer.program()
    assert program.externals == {
        EXTERNAL_ZONE: "_printk",
        EXTERNAL_ZONE + 16: ".klp.sym.vmlinux.fork,0",
    }
    assert program.symbols.find("_printk") == EXTERNAL_ZONE
    (rel,) = struct.unpack("<i", program.read(SECTION_ZONE + 6, 4).tobytes())
    assert SECTION_ZONE + 10 + rel == EXTERNAL_ZONE + 16
    assert str(program.location(EXTERNAL_ZONE)) == "_printk"


@pytest.mark.parametrize(
    ("offset", "kind", "symbol", "message"),
    [
        (0, R_TPOFF32, 1, r"\.rela\.text has R_X86_64_TPOFF32"),
        (0, 200, 1, r"\.rela\.text has type 200"),
        (30, R_32, 1, "patches offset 0x1e, the section has 0x20 bytes"),
        (1 << 63, R_64, 1, "patches offset 0x8000000000000000"),
        (0, R_32, 7, "refers to symbol 7, the file has 2"),
    ],
)
def test_damaged_relocations_are_refused(
    offset: int, kind: int, symbol: int, message: str
) -> None:
    """The section and the bad value are named."""
    writer = ElfWriter()
    text = writer.section(".text", bytes(32), flags=ALLOC | EXEC)
    writer.symbol("here", text)
    writer.relocation(text, offset, kind, symbol)
    with pytest.raises(FormatError, match=message):
        writer.program()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"align": 3}, r"section \.bss is aligned to 0x3"),
        ({"align": 1 << 40}, r"section \.bss is aligned to"),
        ({"size": 1 << 33}, "does not fit into the kernel's 2 GB"),
    ],
)
def test_absurd_sections_are_refused(attributes: dict[str, int], message: str) -> None:
    """A size or alignment that no kernel can have is damage."""
    writer = ElfWriter()
    writer.section(".bss", type=NOBITS, **{"size": 16, **attributes})
    with pytest.raises(FormatError, match=message):
        writer.program()
