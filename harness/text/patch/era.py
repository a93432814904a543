"""Era: which kind of patching an object's kernel does, told from what it holds."""

from __future__ import annotations

from harness.elf.alternative import Alternatives
from harness.elf.orc import OrcFormat, header_format
from harness.elf.program import Program
from harness.text.patch.kind import Era, NopTable
from harness.text.patch.nops import K8_NOPS, NOPS

_EIGHT = b"".join(NOPS[:9])
_ELEVEN = b"".join(NOPS)
_K8 = b"".join(code for codes in K8_NOPS for code in codes)


def sniff_era(program: Program, alternatives: Alternatives) -> Era:
    """Tell the era from what the image holds, never from a version number.

    Entry size tells E1 and E2. Of the later ones the kernel's own table of NOPs tells
    E3, the function that swallows jumps E4; E6 has pv_ops_lock (7.0) or the ORC format
    of 7.1. What tells neither (a module of 6.5 to 7.0) is E5: E4 differs from it in
    bytes that no jump leads to, E6 in that it does less.
    """
    if alternatives.entry_size == 13:
        return Era.E1
    if alternatives.entry_size == 12:
        return Era.E2
    symbols = program.symbols
    if symbols.find_index("pv_ops_lock") is not None or _is_7_1(program):
        return Era.E6
    if _holds(program, _EIGHT) and not _holds(program, _ELEVEN):
        return Era.E3
    if symbols.find_index("optimize_nops_inplace") is not None:
        return Era.E4
    return Era.E5


def nop_tables(program: Program, era: Era) -> tuple[NopTable, ...]:
    """Return the tables that the kernel may choose from at boot, the usual one first.

    5.10's stable kernels write the NOPs of E1 with the entries of E2.
    """
    if era is Era.E1 or (era is Era.E2 and _holds(program, _K8)):
        return (NopTable.P6, NopTable.K8)
    return (NopTable.P6,)


def _is_7_1(program: Program) -> bool:
    return header_format(program) is OrcFormat.V4


def _holds(program: Program, table: bytes) -> bool:
    """Whether the kernel holds a table of NOPs, one length after the other."""
    section = None if program.relocatable else program.section(".rodata")
    return section is not None and table in section.data.tobytes()
