"""Tables of places that the kernel patches or looks up."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.elf.load import parse
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.errors import FormatError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, NOTYPE, ElfWriter

TEXT = 0xFFFF_FFFF_8100_0000
TABLE = TEXT + 0x1000


def _kernel(
    section: str, data: bytes, symbols: tuple[str, str] | None = None
) -> Program:
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", bytes(256), flags=ALLOC | EXEC, address=TEXT)
    table = writer.section(section, data, address=TABLE)
    if symbols:
        writer.symbol(symbols[0], table, TABLE, kind=NOTYPE)
        writer.symbol(symbols[1], table, TABLE + len(data), kind=NOTYPE)
    return parse(writer.build(), "vmlinux", Path("vmlinux"))


def _relative(*places: int, start: int = TABLE, stride: int = 4) -> list[int]:
    return [TEXT + at - (start + i * stride) for i, at in enumerate(places)]


def test_places_are_relative_to_their_field() -> None:
    """Each entry becomes the address it means."""
    data = struct.pack("<3i", *_relative(0, 16, 32))
    sites = parse_sites(_kernel(".return_sites", data), SiteTable.RETURN_SITES)
    assert sites is not None
    assert (sites.address - TEXT).tolist() == [0, 16, 32]
    assert sites.target.tolist() == [0, 0, 0]


def test_padding_is_left_out() -> None:
    """The linker fills .smp_locks to a page with zeros, which are no sites."""
    data = struct.pack("<2i", *_relative(3, 9)) + bytes(40)
    sites = parse_sites(_kernel(".smp_locks", data), SiteTable.SMP_LOCKS)
    assert sites is not None
    assert (sites.address - TEXT).tolist() == [3, 9]


def test_jump_labels_of_both_layouts_are_read() -> None:
    """Absolute entries of 24 bytes up to 4.18, relative ones of 16 since."""
    old = struct.pack("<QQQ", TEXT + 8, TEXT + 64, 1) * 2
    code = _relative(8, 8, stride=16)
    target = _relative(64, 64, start=TABLE + 4, stride=16)
    new = b"".join(
        struct.pack("<iiq", *row, 7) for row in zip(code, target, strict=True)
    )
    for data, size in ((old, 24), (new, 16)):
        sites = parse_sites(_kernel("__jump_table", data), SiteTable.JUMP_TABLE)
        assert sites is not None
        assert sites.entry_size == size
        assert (sites.address - TEXT).tolist() == [8, 8]
        assert (sites.target - TEXT).tolist() == [64, 64]


def test_tables_without_a_section_lie_between_their_symbols() -> None:
    """A linked kernel keeps static calls in .data."""
    data = struct.pack("<ii", *_relative(40), 0x100)
    bounds = ("__start_static_call_sites", "__stop_static_call_sites")
    program = _kernel(".data", data, bounds)
    sites = parse_sites(program, SiteTable.STATIC_CALL_SITES)
    assert sites is not None
    assert (sites.address - TEXT).tolist() == [40]
    assert sites.target.tolist() == [TABLE + 4 + 0x100]


@pytest.mark.parametrize("table", sorted(SiteTable))
def test_a_kernel_without_a_table_is_none(table: SiteTable) -> None:
    """Most kernels lack some of them."""
    assert parse_sites(_kernel(".data", bytes(8)), table) is None


@pytest.mark.parametrize("data", [b"\x01\x02\x03", b"\x01\x02\x03\x04" * 7])
def test_nonsense_is_refused(data: bytes) -> None:
    """A size that nothing divides, or places outside the code, are damage."""
    with pytest.raises(FormatError, match="return_sites has"):
        parse_sites(_kernel(".return_sites", data), SiteTable.RETURN_SITES)


def test_what_ftrace_patches_is_absolute() -> None:
    """__mcount_loc has addresses; those of dropped functions are zero."""
    data = struct.pack("<3Q", TEXT + 4, 0, TEXT + 20)
    bounds = ("__start_mcount_loc", "__stop_mcount_loc")
    sites = parse_sites(_kernel(".init.data", data, bounds), SiteTable.MCOUNT_LOC)
    assert sites is not None
    assert (sites.address - TEXT).tolist() == [4, 20]
