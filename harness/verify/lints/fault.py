"""Fault: whether what the exception table names can raise an exception at all.

An entry for another instruction protects nothing: the access that it was made for
kills whoever does it.
"""

from __future__ import annotations

import numpy as np

from harness.elf.column import among
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites, table_bytes
from harness.finding import Finding
from harness.text.insn import I64, U64, Insn, InsnKind
from harness.text.operand import parse_encoding
from harness.verify.columns import Columns, Part
from harness.verify.edges.doubt import Rule
from harness.verify.extent import holding
from harness.verify.successor import Bools
from harness.verify.window import excerpt

_CALM_KINDS = (InsnKind.NOP, InsnKind.JMP, InsnKind.JCC, InsnKind.ENDBR)
# Opcodes that fault on memory only: with a register as operand they never do.
_ALU = {first | low for first in range(0, 0x40, 8) for low in (0, 1, 2, 3)}
_OF_OPERAND = frozenset(
    _ALU
    | {0x63, 0x80, 0x81, 0x83, 0x84, 0x85, 0x88, 0x89, 0x8A, 0x8B, 0xC0, 0xC1}
    | {0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3}
)
# Those without an operand in memory: ALU of %al and %eax, tests, loads of constants.
_PLAIN = frozenset(
    {first | low for first in range(0, 0x40, 8) for low in (4, 5)}
    | {0x8D, 0x98, 0x99, 0xA8, 0xA9, *range(0xB0, 0xC0)}
)
# arch/x86/include/asm/extable_fixup_types.h (5.17): those whose macros put the fixup's
# label right behind the instruction, and what instruction some of them are for.
_BEHIND = (5, 6, 8, 9, 12, 13, 20)
_WRITES, _READS = (8, 10, 12), (9, 11, 13)
_WRMSR, _RDMSR, _WRMSRNS = 0x0F30, 0x0F32, 0x0F01
_TYPE, _TYPES = 0xFF, 32  # the type's bits, and how many there may be
_MESSAGE = "the exception table has an instruction that raises none"
_ELSEWHERE = "an exception of this type goes on right behind its instruction"
_NO_MSR = "the entry's type is for another instruction"
_NO_START = "the exception table has a place within an instruction"


def check_faults(columns: Columns) -> Part:
    """Check that each entry of __ex_table is for what may fault."""
    sites = parse_sites(columns.program, SiteTable.EX_TABLE)
    if sites is None or not len(columns.insns):
        return Part()
    rows = columns.index(sites.address)
    covering = columns.insns.covering(sites.address)
    lost = sites.address[(rows < 0) & (covering >= 0)]
    found = [_finding(columns, address, _NO_START) for address in lost.tolist()]
    outside = (rows >= 0) & ~_in_sites(columns, rows)
    types = _types(columns, len(rows))
    for at in np.flatnonzero(outside).tolist():
        insn = columns.insns.at(int(rows[at]))
        if message := _wrong(insn, int(types[at]), int(sites.target[at])):
            found.append(_finding(columns, insn.address, message))
    return Part(tuple(found))


def _types(columns: Columns, count: int) -> I64:
    """Return the type of each entry; -1 where the table has handlers (up to 5.16)."""
    none: I64 = np.full(count, -1)
    if (table := table_bytes(columns.program, SiteTable.EX_TABLE)) is None:
        return none
    place, data = table
    third = np.ascontiguousarray(data.reshape(-1, 12)[:, 8:]).view("<i4")
    field = third.reshape(-1).astype(np.int64)
    at = np.int64(place - (1 << 64) if place >> 63 else place) + 8
    handler = (field + at + 12 * np.arange(len(field))).view(np.uint64)
    if _names(columns.program, handler).all():
        return none
    types = field & _TYPE
    return types if len(types) == count and (types < _TYPES).all() else none


def _names(program: Program, addresses: U64) -> Bools:
    """Which of ``addresses`` have a name of their own, here or in another object."""
    return among(addresses, program.symbols.address)


def _wrong(insn: Insn, kind: int, fixup: int) -> str:
    """Say what is wrong with an entry of the type ``kind`` for ``insn``, if anything."""
    if is_calm(insn):
        return _MESSAGE
    opcode = parse_encoding(insn.code).opcode if kind in (*_WRITES, *_READS) else 0
    if kind in _WRITES and opcode not in (_WRMSR, _WRMSRNS):
        return _NO_MSR
    if kind in _READS and opcode != _RDMSR:
        return _NO_MSR
    return _ELSEWHERE if kind in _BEHIND and fixup != insn.end else ""


def is_calm(insn: Insn) -> bool:
    """Whether ``insn`` raises no exception, wherever it is executed."""
    if insn.kind is not InsnKind.OTHER:
        return insn.kind in _CALM_KINDS
    if insn.code[0] == 0x0F or insn.code[0] in (0xC4, 0xC5, 0x62):
        return False
    encoding = parse_encoding(insn.code)
    if encoding.opcode in _PLAIN:
        return True
    return encoding.opcode in _OF_OPERAND and encoding.mod == 3


def _in_sites(columns: Columns, rows: I64) -> Bools:
    """Which of ``rows`` lie in an alternative: another text may be the one that faults."""
    if (table := columns.alternatives) is None:
        return np.zeros(len(rows), bool)
    order = np.argsort(table.site_address)
    start = table.site_address[order]
    end = start + table.site_length[order].astype(np.uint64)
    return np.asarray(holding(start, end, columns.insns.address[rows]) >= 0)


def _finding(columns: Columns, address: int, message: str) -> Finding:
    return Finding(
        Rule.EX_TABLE.value,
        columns.program.location(address),
        message,
        window=excerpt(columns.program, columns.insns, address),
    )
