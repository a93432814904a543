"""Table: a kernel's ORC table as the columns that the plugin reads."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from harness.boot.kernel_text import KernelText
from harness.elf.orc import OrcTable, meanings
from harness.elf.program import Program

MAGIC = b"orc-tab2"
_COLUMNS = (
    ("ip", "<u8"),
    ("sp_offset", "<i2"),
    ("bp_offset", "<i2"),
    ("sp_reg", "u1"),
    ("bp_reg", "u1"),
    ("type", "u1"),
)


def columns(table: OrcTable, text: KernelText, starts: npt.NDArray[np.uint64]) -> bytes:
    """Return the file that ``plugin/table.c`` reads.

    A header (magic; u64 rows, ranges, starts), the ranges of text that the table is
    about, where functions start, then the table, column by column, and what each word
    of an entry means, for modules. ``table`` must be sorted, and so must ``starts``.
    """
    head = MAGIC + struct.pack("<3Q", len(table), len(text.ranges), len(starts))
    ranges = np.array(text.ranges, dtype="<u8")
    parts = [head, ranges.tobytes(), starts.astype("<u8").tobytes()]
    parts += [getattr(table, name).astype(kind).tobytes() for name, kind in _COLUMNS]
    parts += [column.tobytes() for column in meanings(table.format)]
    return b"".join(parts)


def starts(program: Program) -> npt.NDArray[np.uint64]:
    """Return where code of ``program`` has a name: a call in between is intra."""
    symbols = program.symbols
    named = program.in_code(symbols.address) & ~symbols.name.unsaid
    return np.unique(symbols.address[named])
