"""What modules and kernels come packed in."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from harness import run
from harness.elf import compression
from harness.elf.compression import Compression, decompress, recognise
from harness.elf.file import read_file
from harness.errors import FormatError, InfraError

TEXT = b"an object file, or so " * 200
PACKED = {
    Compression.GZIP: gzip.compress(TEXT),
    Compression.XZ: lzma.compress(TEXT),
    Compression.LZMA: lzma.compress(TEXT, format=lzma.FORMAT_ALONE),
    Compression.BZIP2: bz2.compress(TEXT),
}
PROGRAMS = {"zstd": Compression.ZSTD, "lz4": Compression.LZ4}


@pytest.mark.parametrize("kind", sorted(PACKED, key=lambda c: c.name))
def test_formats_are_told_by_magic_and_undone(kind: Compression) -> None:
    """What Python can unpack comes back whole, whatever follows it."""
    assert recognise(PACKED[kind][:16]) is kind
    assert decompress(PACKED[kind] + b"tail", kind, "x.ko") == TEXT


@pytest.mark.parametrize("kind", sorted(PACKED, key=lambda c: c.name))
def test_truncated_data_is_an_error(kind: Compression) -> None:
    """Half a file never passes for a whole one."""
    with pytest.raises(FormatError, match=r"x\.ko: .*(ends early|damaged)"):
        decompress(PACKED[kind][:-20], kind, "x.ko")


def test_damaged_data_is_an_error() -> None:
    """A checksum that fails is reported with the format's name."""
    damaged = bytearray(PACKED[Compression.XZ])
    damaged[30] ^= 0xFF
    with pytest.raises(FormatError, match="damaged xz data"):
        decompress(bytes(damaged), Compression.XZ, "x.ko")


def test_a_bomb_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking stops at the limit."""
    monkeypatch.setattr(compression, "UNPACKED_LIMIT", 100)
    with pytest.raises(FormatError, match="larger than 100 bytes"):
        decompress(PACKED[Compression.GZIP], Compression.GZIP, "x.ko")


def test_plain_data_is_not_recognised() -> None:
    """An ELF file is not packed."""
    assert recognise(b"\x7fELF" + bytes(12)) is None


def test_a_missing_program_is_the_machines_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """zstd is not in Python 3.11: without the program the remedy is told."""
    monkeypatch.setattr(run, "which", lambda _: None)
    with pytest.raises(InfraError, match="packed with zstd") as caught:
        decompress(b"\x28\xb5\x2f\xfd", Compression.ZSTD, "x.ko")
    assert caught.value.hint == "apt-get install zstd"


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_unpack_what_python_cannot(program: str, tmp_path: Path) -> None:
    """A file packed by the program comes back; a damaged one is an error."""
    if run.which(program) is None:
        pytest.skip(f"needs {program}")
    plain, packed = tmp_path / "x.ko", tmp_path / "x.ko.packed"
    plain.write_bytes(TEXT)
    to = ["-o", str(packed)] if program == "zstd" else [str(packed)]
    run.check([program, "-q", str(plain), *to], timeout_s=10)
    assert read_file(packed).tobytes() == TEXT
    packed.write_bytes(packed.read_bytes()[:-8])
    with pytest.raises(FormatError, match=f"{program} cannot unpack it"):
        read_file(packed)
