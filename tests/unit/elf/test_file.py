"""Headers of ELF files, and files that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from harness.elf import file
from harness.elf.file import c_strings, parse_elf, read_file, relocation_name
from harness.errors import FormatError
from tests.builders.elfwriter import EM_AARCH64, ElfWriter


def _small() -> bytes:
    writer = ElfWriter()
    writer.section(".text", b"\xc3" * 8, flags=6)
    return writer.build()


def _patched(offset: int, data: bytes) -> bytes:
    whole = bytearray(_small())
    whole[offset : offset + len(data)] = data
    return bytes(whole)


def _parse(data: bytes) -> file.ElfFile:
    return parse_elf(np.frombuffer(data, dtype=np.uint8), "x.o")


def test_sections_have_names_and_contents() -> None:
    """A section is found by name and gives its bytes."""
    elf = _parse(_small())
    assert elf.names[1] == ".text"
    assert elf.contents(1).tobytes() == b"\xc3" * 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with nothing"),
        (b"hello, world", "not an ELF file: starts with 68 65 6c 6c"),
        (_small()[:40], "truncated: 40 bytes"),
        (_small()[:-70], "truncated: section headers end"),
        (_patched(4, b"\x01"), "expected a 64-bit little-endian file"),
        (_patched(5, b"\x02"), "expected a 64-bit little-endian file"),
        (ElfWriter(machine=EM_AARCH64).build(), "made for EM_AARCH64"),
        (_patched(18, b"\x34\x12"), "made for type 4660"),
        (_patched(16, b"\x04\x00"), "ET_CORE file"),
        (_patched(40, bytes(8)), "no section headers"),
        (_patched(58, b"\x28\x00"), "section headers of 40 bytes"),
        (_patched(62, b"\x63\x00"), "names of sections are in section 99"),
    ],
)
def test_what_is_no_x86_64_elf_file_is_refused(data: bytes, message: str) -> None:
    """Each kind of foreign file gets a message that says what was seen."""
    with pytest.raises(FormatError, match=message):
        _parse(data)


def test_contents_beyond_the_file_are_refused() -> None:
    """A section that claims more bytes than there are is named."""
    whole = bytearray(_small())
    (shoff,) = struct.unpack_from("<Q", whole, 40)
    struct.pack_into("<Q", whole, shoff + 64 + 32, 1 << 40)
    with pytest.raises(FormatError, match=r"truncated: section \.text ends"):
        _parse(bytes(whole)).contents(1)


def test_records_need_a_whole_number() -> None:
    """Half a record is an error, not silently dropped."""
    with pytest.raises(FormatError, match="8 bytes, expected a multiple of 24"):
        _parse(_small()).records(1, file.RELA)


def test_more_than_65280_sections_are_counted_by_the_first_header() -> None:
    """The count and the string section move into section 0 when they overflow."""
    whole = bytearray(_small())
    (shoff,) = struct.unpack_from("<Q", whole, 40)
    count, names = struct.unpack_from("<HH", whole, 60)
    struct.pack_into("<HH", whole, 60, 0, 0xFFFF)
    struct.pack_into("<QI", whole, shoff + 32, count, names)
    assert _parse(bytes(whole)).names == _parse(_small()).names


def test_strings_end_at_zero_or_at_the_end() -> None:
    """An offset beyond the table is an empty string, a missing NUL is the end."""
    table = np.frombuffer(b"\0abc\0de", dtype=np.uint8)
    offsets = np.array([0, 1, 2, 5, 7, 900])
    assert c_strings(table, offsets) == ("", "abc", "bc", "de", "", "")


def test_relocations_have_names() -> None:
    """Names are the psABI's; unknown numbers are shown."""
    assert relocation_name(4) == "R_X86_64_PLT32"
    assert relocation_name(777) == "type 777"


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(FormatError, match=r"cannot read .*nothing"):
        read_file(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError, match="empty is empty"):
        read_file(tmp_path / "empty")
    with pytest.raises(FormatError, match="cannot read"):
        read_file(tmp_path)


def test_large_files_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped bytes are the same bytes, and nobody can write them."""
    monkeypatch.setattr(file, "MAPPED_FROM", 16)
    (tmp_path / "x.o").write_bytes(_small())
    data = read_file(tmp_path / "x.o")
    assert data.tobytes() == _small()
    assert not data.flags.writeable
