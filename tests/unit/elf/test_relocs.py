"""What KASLR changes in a kernel."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from harness.elf.relocs import Relocs, parse_relocs, slid
from harness.errors import FormatError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter

TEXT = 0xFFFFFFFF81000000
SLIDE = 0x1A200000


def places(*addresses: int) -> np.ndarray:
    """A column of addresses."""
    return np.array(addresses, np.uint64)


def test_the_tables_are_read_from_the_end() -> None:
    """Their addresses are cut to 32 bits; the ELF file's own zeros are not in the way."""
    table = [0, TEXT + 8, 0, TEXT + 4, 0, TEXT, TEXT + 16]
    cells = struct.pack("<7I", *(at & 0xFFFFFFFF for at in table))
    payload = np.frombuffer(b"\x7fELF" + bytes(12) + cells, np.uint8)
    relocs = parse_relocs(payload, "bzImage")
    assert relocs.words.tolist() == [TEXT, TEXT + 16]
    assert relocs.inverse.tolist() == [TEXT + 4]
    assert relocs.quads.tolist() == [TEXT + 8]


@pytest.mark.parametrize("payload", [b"\x7fELF" * 8, b"\x7fELF" + bytes(32)])
def test_a_kernel_that_cannot_move_is_one_error(payload: bytes) -> None:
    """CONFIG_RELOCATABLE=n has no tables."""
    with pytest.raises(FormatError, match="no relocations"):
        parse_relocs(np.frombuffer(payload, np.uint8), "bzImage")


def test_a_kernel_is_moved_with_all_that_names_an_address() -> None:
    """Sections, symbols and the values in its code and data; per-CPU ones stay."""
    writer = ElfWriter(ET_EXEC)
    code = struct.pack("<IIQ", 0x81000010, 0x7F000000, TEXT + 0x20) + b"\x90" * 8
    text = writer.section(".text", code, flags=ALLOC | EXEC, address=TEXT)
    writer.section(".data..percpu", struct.pack("<Q", 1), address=0)
    percpu = len(writer.sections) - 1
    writer.symbol("startup_64", text, TEXT)
    writer.symbol("current_task", percpu, 4)
    relocs = Relocs(places(TEXT), places(TEXT + 4), places(TEXT + 8, TEXT + 0x1000))
    moved = slid(writer.program("vmlinux"), relocs, SLIDE)
    section = moved.section(".text")
    assert section is not None
    assert section.address == TEXT + SLIDE
    assert (
        section.data.tobytes()
        == struct.pack(
            "<IIQ", 0x81000010 + SLIDE, 0x7F000000 - SLIDE, TEXT + 0x20 + SLIDE
        )
        + b"\x90" * 8
    )
    assert moved.symbols.find("startup_64") == TEXT + SLIDE
    assert moved.symbols.find("current_task") == 4
    assert moved.read(0, 1).tobytes() == b"\x01"
