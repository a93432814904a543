"""Corefile: dumps of memory made in memory."""

from __future__ import annotations

import struct
from collections.abc import Sequence

EHDR_BYTES, PHDR_BYTES = 64, 56


def corefile(
    segments: Sequence[tuple[int, int, bytes]],
    *,
    kind: int = 4,
    machine: int = 62,
    extended: bool = False,
) -> bytes:
    """A dump of (virtual, physical, bytes) segments, with a note before them.

    ``extended`` writes the number of segments as dumps with very many do.
    """
    count = len(segments) + 1
    first = EHDR_BYTES + count * PHDR_BYTES
    section = first + sum(len(data) for _, _, data in segments)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        kind,
        machine,
        1,
        0,
        EHDR_BYTES,
        section if extended else 0,
        0,
        EHDR_BYTES,
        PHDR_BYTES,
        0xFFFF if extended else count,
        64 if extended else 0,
        1 if extended else 0,
        0,
    )
    rows = [struct.pack("<IIQQQQQQ", 4, 0, first, 0, 0, 0, 0, 0)]
    body = b""
    for virtual, physical, data in segments:
        size = len(data)
        at = first + len(body)
        row = struct.pack("<IIQQQQQQ", 1, 0, at, virtual, physical, size, size, 0)
        rows.append(row)
        body += data
    tail = bytes(44) + struct.pack("<I", count) + bytes(16) if extended else b""
    return header + b"".join(rows) + body + tail
