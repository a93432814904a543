"""Debug_frame: what the compiler says about its own frames, as columns of rows.

``.debug_frame`` (DWARF 5, section 6.4) has an FDE per function, which points to a CIE
with the initial rules. An FDE is a program: it advances through the code and changes
rules as it goes. All programs are run together: their instructions are found in
lockstep, and each rule is the one that was last set.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from harness.elf.debug_frame.entry import entries
from harness.elf.debug_frame.operation import operations
from harness.elf.debug_frame.rows import NO_REGISTER, RBP, RSP, SAME, UNTOLD, FrameRows
from harness.elf.debug_frame.rule import rows_of
from harness.elf.file import (
    ET_REL,
    SHF_COMPRESSED,
    Bytes,
    ElfFile,
    parse_elf,
    read_file,
)
from harness.errors import FormatError

__all__ = [
    "NO_REGISTER",
    "RBP",
    "RSP",
    "SAME",
    "UNTOLD",
    "FrameRows",
    "parse_debug_frame",
    "read_debug_frame",
]


def read_debug_frame(path: Path) -> FrameRows | None:
    """Read the linked file ``path``; None if it has no .debug_frame.

    Raises:
        FormatError: it is damaged.
    """
    elf = parse_elf(read_file(path), path.name)
    if elf.type == ET_REL or ".debug_frame" not in elf.names:
        return None
    return parse_debug_frame(_contents(elf, elf.names.index(".debug_frame")))


def _contents(elf: ElfFile, index: int) -> Bytes:
    data = elf.contents(index)
    if not int(elf.headers[index]["flags"]) & SHF_COMPRESSED:
        return data
    kind, _, size, _ = struct.unpack_from("<IIQQ", data[:24].tobytes())
    if kind != 1:  # ELFCOMPRESS_ZLIB
        raise FormatError(f"{elf.name}: .debug_frame has compression {kind}")
    try:
        unpacked = zlib.decompress(data[24:].tobytes(), bufsize=size)
    except zlib.error as exc:
        raise FormatError(f"{elf.name}: damaged .debug_frame: {exc}") from exc
    return np.frombuffer(unpacked, np.uint8)


def parse_debug_frame(data: Bytes) -> FrameRows:
    """Run the programs of ``data``, which is a whole section.

    Raises:
        FormatError: an entry or an instruction makes no sense.
    """
    fdes, cies = entries(data)
    ops = operations(data, fdes)
    return rows_of(fdes, cies, ops)
