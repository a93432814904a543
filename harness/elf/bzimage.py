"""Bzimage: the bootable image, and the vmlinux that is packed in it.

Layout: Documentation/arch/x86/boot.rst (protocol 2.08 and later).
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.compression import Compression, decompress, recognise
from harness.elf.file import Bytes
from harness.errors import FormatError

SECTOR = 512
PAYLOAD_PROTOCOL = 0x0208  # the first that tells where the payload is


class BzImage(Struct, frozen=True):
    """What a bzImage holds.

    Attributes:
        vmlinux: the unpacked payload: an ELF file, relocations for KASLR after it.
        release: what ``uname -r`` would say.
        packing: name of the compression.
    """

    vmlinux: Bytes
    release: str
    packing: str


def is_bzimage(data: Bytes) -> bool:
    """Tell whether ``data`` starts like a bzImage."""
    return (
        data[0x1FE:0x200].tobytes() == b"\x55\xaa"
        and data[0x202:0x206].tobytes() == b"HdrS"
    )


def parse_bzimage(data: Bytes, name: str) -> BzImage:
    """Unpack the bzImage ``data``.

    Raises:
        FormatError: it is truncated, too old, or its payload is damaged.
        InfraError: the program that unpacks it is missing.
    """
    if data.size < 0x268:
        raise FormatError(f"{name}: truncated: {data.size} bytes of a bzImage")
    protocol = _number(data, 0x206, 2)
    if protocol < PAYLOAD_PROTOCOL:
        raise FormatError(
            f"{name}: boot protocol {protocol >> 8}.{protocol & 255:02}, expected "
            "2.08 or later (Linux 2.6.26)"
        )
    start = (1 + (_number(data, 0x1F1, 1) or 4)) * SECTOR + _number(data, 0x248, 4)
    end = start + _number(data, 0x24C, 4)
    if end > data.size or start >= end:
        raise FormatError(
            f"{name}: truncated: payload at {start:#x} to {end:#x}, "
            f"the file has {data.size:#x} bytes"
        )
    payload = data[start:end].tobytes()
    vmlinux, packing = _unpack(payload, name)
    return BzImage(np.frombuffer(vmlinux, dtype=np.uint8), _release(data), packing)


def _unpack(payload: bytes, name: str) -> tuple[bytes, str]:
    if payload.startswith(b"\x7fELF"):
        return payload, "uncompressed"
    if (compression := recognise(payload[:16])) is None:
        raise FormatError(
            f"{name}: unknown compression, payload starts with {payload[:6].hex(' ')}"
        )
    # All but gzip, which has it already, get the unpacked size appended
    # (scripts/Makefile.lib, size_append).
    packed = payload if compression is Compression.GZIP else payload[:-4]
    return decompress(packed, compression, name), compression.name.lower()


def _release(data: Bytes) -> str:
    if not (start := _number(data, 0x20E, 2)):
        return ""
    text = data[start + SECTOR : start + SECTOR + 256].tobytes()
    return text.partition(b"\0")[0].decode("latin-1").partition(" ")[0]


def _number(data: Bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size].tobytes(), "little")
