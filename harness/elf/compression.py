"""Compression: the formats that modules and kernel images come packed in.

A format is told by its magic, never by a file name. gzip, xz, lzma and bzip2 are
undone here; zstd, lz4 and lzo by their own programs, because Python has none. What a
format takes is imported for that format alone.
"""

from __future__ import annotations

import enum
import zlib
from pathlib import Path
from typing import Protocol

from harness.errors import FormatError, InfraError

UNPACKED_LIMIT = 2 << 30  # bytes; no kernel is larger, so it is a bomb
PROGRAM_TIMEOUT_S = 120.0


class Compression(enum.Enum):
    """A format and the bytes that it starts with.

    lz4 has two magics: the kernel's own build uses the legacy one.
    """

    GZIP = b"\x1f\x8b"
    XZ = b"\xfd7zXZ\x00"
    LZMA = b"\x5d\x00\x00"
    BZIP2 = b"BZh"
    ZSTD = b"\x28\xb5\x2f\xfd"
    LZ4 = b"\x04\x22\x4d\x18"
    LZ4_LEGACY = b"\x02\x21\x4c\x18"
    LZO = b"\x89LZO\x00\r\n\x1a\n"


def recognise(data: bytes) -> Compression | None:
    """Return the format that ``data`` (its first 16 bytes will do) starts with."""
    return next((c for c in Compression if data.startswith(c.value)), None)


def decompress(data: bytes, compression: Compression, name: str) -> bytes:
    """Undo ``compression``; what follows the compressed stream is ignored.

    Raises:
        FormatError: it is damaged, or grows beyond :data:`UNPACKED_LIMIT`.
        InfraError: the program that this format needs is missing.
    """
    if program := _PROGRAMS.get(compression):
        return _by_program(data, program, name)
    label = compression.name.lower()
    unpacker, damaged = _unpacker(compression)
    try:
        unpacked = unpacker.decompress(data, UNPACKED_LIMIT)
    except (damaged, OSError, EOFError, ValueError) as exc:
        raise FormatError(f"{name}: damaged {label} data: {exc}") from exc
    if not unpacker.eof and len(unpacked) >= UNPACKED_LIMIT:
        raise FormatError(f"{name}: unpacked it is larger than {UNPACKED_LIMIT} bytes")
    if not unpacker.eof:
        seen = f"{len(unpacked)} bytes" if unpacked else "no bytes"
        raise FormatError(f"{name}: {label} data ends early, after {seen}")
    return unpacked


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _unpacker(compression: Compression) -> tuple[_Unpacker, type[Exception]]:
    """Return what undoes ``compression``, and what it raises on damaged data."""
    if compression is Compression.GZIP:
        return zlib.decompressobj(wbits=31), zlib.error
    if compression is Compression.BZIP2:
        import bz2

        return bz2.BZ2Decompressor(), OSError
    import lzma

    alone = compression is Compression.LZMA
    layout = lzma.FORMAT_ALONE if alone else lzma.FORMAT_XZ
    return lzma.LZMADecompressor(layout), lzma.LZMAError


_PROGRAMS = {
    Compression.ZSTD: "zstd",
    Compression.LZ4: "lz4",
    Compression.LZ4_LEGACY: "lz4",
    Compression.LZO: "lzop",
}


def _by_program(data: bytes, program: str, name: str) -> bytes:
    import tempfile

    from harness import run

    if run.which(program) is None:
        raise InfraError(
            f"{name} is packed with {program}, which this machine does not have",
            hint=f"apt-get install {program}",
        )
    with tempfile.TemporaryDirectory(prefix="orc-harness-") as scratch:
        packed, unpacked = Path(scratch, "packed"), Path(scratch, "unpacked")
        packed.write_bytes(data)
        # lz4 wants input and output in this order and has no long option for
        # the output; zstd and lzop write where -o says.
        to = [] if program == "lz4" else ["-o"]
        done = run.run(
            [program, "-d", "-q", "-f", str(packed), *to, str(unpacked)],
            timeout_s=PROGRAM_TIMEOUT_S,
        )
        if done.returncode or not unpacked.exists():
            raise FormatError(f"{name}: {program} cannot unpack it: {done.tail}")
        return unpacked.read_bytes()
