"""Orc: the unwind table.

:mod:`~harness.elf.orc.entry` is one state, :mod:`~harness.elf.orc.format` how each
kernel writes it, and :mod:`~harness.elf.orc.table` reads all of a program's.
"""

from harness.elf.orc.entry import (
    ILLEGAL,
    SIGNAL,
    WITHOUT_OFFSET,
    OrcEntry,
    OrcReg,
    OrcType,
    describe,
    offset_ignored,
    pack,
    unpack,
)
from harness.elf.orc.format import (
    OrcFormat,
    canonical_registers,
    header_format,
    meanings,
)
from harness.elf.orc.table import ENTRY_SIZE, IP_SIZE, OrcTable, parse_orc

__all__ = [
    "ENTRY_SIZE",
    "ILLEGAL",
    "IP_SIZE",
    "SIGNAL",
    "WITHOUT_OFFSET",
    "OrcEntry",
    "OrcFormat",
    "OrcReg",
    "OrcTable",
    "OrcType",
    "canonical_registers",
    "describe",
    "header_format",
    "meanings",
    "offset_ignored",
    "pack",
    "parse_orc",
    "unpack",
]
