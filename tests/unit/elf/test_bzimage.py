"""The payload of a bootable image."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from harness.elf.load import parse
from harness.errors import FormatError
from tests.builders.elfwriter import ET_EXEC, ElfWriter, add_orc, call

TEXT = 0xFFFF_FFFF_8100_0000


def _vmlinux() -> bytes:
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", b"\x90" * 64, flags=6, address=TEXT)
    add_orc(writer, text, [(0, call())], address=TEXT + 0x1000)
    return writer.build(symbols=False)


def _bzimage(payload: bytes, protocol: int = 0x20F, length: int | None = None) -> bytes:
    setup = bytearray(512 * 3)
    setup[0x1F1] = 2
    setup[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x200)
    size = len(payload) if length is None else length
    struct.pack_into("<II", setup, 0x248, 32, size)
    setup[0x400:0x41E] = b"6.12.7-test (me@here) #1 SMP \0"
    return bytes(setup) + bytes(32) + payload + b"checksum"


def _sized(packed: bytes) -> bytes:
    return packed + struct.pack("<I", len(_vmlinux()))


@pytest.mark.parametrize(
    ("payload", "packing"),
    [
        (gzip.compress(_vmlinux()), "gzip"),
        (_sized(lzma.compress(_vmlinux())), "xz"),
        (_sized(lzma.compress(_vmlinux(), format=lzma.FORMAT_ALONE)), "lzma"),
        (_vmlinux() + b"relocations", "uncompressed"),
    ],
)
def test_the_kernel_in_it_is_read(payload: bytes, packing: str) -> None:
    """Every packing gives the same kernel; the release is the header's."""
    program = parse(_bzimage(payload), "bzImage", Path("bzImage"))
    assert program.release == "6.12.7-test"
    assert program.notes == (
        f"unpacked from a bzImage ({packing} payload)",
        "no symbols: places are named by section",
    )
    text = program.section(".text")
    assert text is not None
    assert (text.address, text.data.tobytes()) == (TEXT, b"\x90" * 64)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (_bzimage(b"")[:0x210], "truncated: 528 bytes"),
        (_bzimage(b"", protocol=0x207), r"boot protocol 2\.07, expected 2\.08"),
        (_bzimage(b"abc", length=4096), "truncated: payload at 0x620"),
        (_bzimage(b""), "truncated: payload"),
        (_bzimage(b"whatever"), "unknown compression, payload starts with 77 68"),
        (_bzimage(gzip.compress(b"no kernel")), "not an ELF file"),
        (_bzimage(gzip.compress(_vmlinux())[:-30]), "gzip"),
    ],
)
def test_damaged_images_are_refused(image: bytes, message: str) -> None:
    """The message says what was seen."""
    with pytest.raises(FormatError, match=message):
        parse(image, "bzImage", Path("bzImage"))
