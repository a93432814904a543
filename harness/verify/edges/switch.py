"""Switch: where an indirect jump can go, by the table that it reads.

Compilers make such tables of a switch, and of a computed goto. They hold addresses,
or in code that may lie anywhere (-fPIE) distances from the table. A table has no
length: it ends where an entry is no place within the function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from msgspec import Struct

from harness.elf.column import distinct
from harness.elf.file import Bytes
from harness.errors import FormatError
from harness.text.insn import I64, U64, Insn, InsnKind
from harness.text.operand import Encoding, parse_encoding
from harness.text.writes import writes
from harness.verify.edges.scope import Scope
from harness.verify.edges.thunk import Thunks
from harness.verify.transfer import ENTRY

LOOKED_BACK = 8  # instructions between the load of an address and the jump
LONGEST = 1024  # entries
_WORD_SCALE = 3  # an index times 8
_HALF_SCALE = 2
_ADD_TO_RM, _ADD_TO_REG = 0x01, 0x03


class Table(Struct, frozen=True):
    """Where a table begins, and what an entry is.

    Attributes:
        relative: entries are i32, counted from the table; else u64 addresses.
    """

    address: int
    relative: bool = False

    @property
    def width(self) -> int:
        """Bytes of an entry."""
        return 4 if self.relative else 8

    def targets(self, data: Bytes) -> U64:
        """Return the addresses that the entries in ``data`` mean."""
        if not self.relative:
            return np.asarray(data.view("<u8"))
        far = data.view("<i4").astype(np.int64).astype(np.uint64)
        return np.asarray(far + np.uint64(self.address))


class Switches(Struct, frozen=True):
    """The tables found.

    Attributes:
        targets: row of the jump -> the addresses that it can go to.
        mentioned: u64[m], all that the tables name up to where the next one starts:
            clang leaves entries that are no place, for what cannot be (x & 5), and
            goes on behind them.
    """

    targets: Mapping[int, U64]
    mentioned: U64


def find_switches(scope: Scope, jumps: Iterable[int], thunks: Thunks) -> Switches:
    """Find the tables of the indirect ``jumps``, rows of jumps and uses of thunks."""
    tables = {}
    for row in jumps:
        if (table := _table(scope, row, thunks)) is not None:
            tables[row] = table
    starts = distinct(np.array([t.address for t in tables.values()], np.uint64))
    targets = {}
    mentioned = [np.zeros(0, np.uint64)]
    for row, table in tables.items():
        here = np.uint64(table.address)
        after = starts[np.searchsorted(starts, here, side="right") :]
        stop = table.address + table.width * LONGEST
        words = _read(scope, table, min([stop, *after[:1].tolist()]))
        mentioned.append(words)
        if len(found := _cases(scope, row, words)):
            targets[row] = found
    return Switches(targets, distinct(np.concatenate(mentioned)))


def _table(scope: Scope, row: int, thunks: Thunks) -> Table | None:
    insn = scope.columns.insns.at(row)
    if insn.kind is InsnKind.JMP_INDIRECT:
        if (table := _indexed(insn)) is not None:
            return table
        encoding = parse_encoding(insn.code)
        registers = [encoding.base] if encoding.mod == 3 else []
    else:
        known = thunks.register(insn.target)
        # another object's thunk does not say which: that which was loaded from a table
        registers = [*range(16)] if known < 0 else [known]
    before = _before(scope, row)
    if len(registers) > 1:
        before = [*before]
    tables = (_loaded(iter(before), register) for register in registers)
    return next((table for table in tables if table is not None), None)


def _before(scope: Scope, row: int) -> Iterable[Insn]:
    """The instructions before ``row`` that lead there straight."""
    insns = scope.columns.insns
    for at in range(row - 1, max(row - LOOKED_BACK, 0) - 1, -1):
        insn = insns.at(at)
        if insn.end != int(insns.address[at + 1]) or not scope.falls[at]:
            return
        yield insn


def _loaded(before: Iterator[Insn], register: int) -> Table | None:
    """``mov table(,%index,8),%register``, the table's address perhaps in a base."""
    for insn in before:
        encoding = parse_encoding(insn.code)
        if (added := _added(encoding, register)) is not None:
            return _distance(before, {register, added})
        loads = encoding.opcode == 0x8B and encoding.wide and encoding.mod != 3
        if loads and encoding.reg == register:
            if encoding.base >= 0 and _scale(insn, encoding) == _WORD_SCALE:
                start = _address(before, encoding.base)
                return None if start is None else Table(start + encoding.displacement)
            return _indexed(insn)
    return None


def _added(encoding: Encoding, register: int) -> int | None:
    """Return the register that ``add`` adds to ``register``, None if it is no such."""
    if encoding.mod != 3 or not encoding.wide:
        return None
    if encoding.opcode == _ADD_TO_RM and encoding.base == register:
        return encoding.reg
    if encoding.opcode == _ADD_TO_REG and encoding.reg == register:
        return encoding.base
    return None


def _distance(before: Iterator[Insn], pair: set[int]) -> Table | None:
    """``movslq (%base,%index,4),%far``, where ``pair`` is the base and what is loaded."""
    for insn in before:
        encoding = parse_encoding(insn.code)
        loads = encoding.opcode == 0x63 and encoding.wide and encoding.mod != 3
        if loads and encoding.reg in pair:
            indexed = (
                _scale(insn, encoding) == _HALF_SCALE and not encoding.displacement
            )
            if not indexed or {encoding.base} != pair - {encoding.reg}:
                return None
            start = _address(before, encoding.base)
            return None if start is None else Table(start, relative=True)
        if any(writes(insn.code).registers >> register & 1 for register in pair):
            return None
    return None


def _address(before: Iterator[Insn], register: int) -> int | None:
    """``lea table(%rip),%register``, which nothing overwrites behind it."""
    for insn in before:
        encoding = parse_encoding(insn.code)
        relative = encoding.mod == 0 and encoding.base < 0 and not encoding.indexed
        if encoding.opcode == 0x8D and encoding.reg == register and relative:
            return insn.end + encoding.displacement
        if writes(insn.code).registers >> register & 1:
            return None
    return None


def _indexed(insn: Insn) -> Table | None:
    """Return the table of an operand ``table(,%index,8)``."""
    encoding = parse_encoding(insn.code)
    if encoding.mod or encoding.base >= 0 or _scale(insn, encoding) != _WORD_SCALE:
        return None
    return Table(encoding.displacement % (1 << 64))


def _scale(insn: Insn, encoding: Encoding) -> int:
    """Return by how much the index is shifted, -1 if there is none."""
    if not encoding.indexed:
        return -1
    wide = encoding.mod == 2 or encoding.base < 0
    size = 4 if wide else encoding.mod  # of the displacement, in bytes
    return insn.code[encoding.immediate - size - 1] >> 6


def _read(scope: Scope, table: Table, stop: int) -> U64:
    """Return what the entries of ``table`` mean, up to the address ``stop``."""
    program = scope.columns.program
    section = program.section_at(table.address)
    if section is None or section.executable:
        return np.zeros(0, np.uint64)
    size = min(stop, section.end) - table.address
    try:
        data = program.read(table.address, size // table.width * table.width)
    except FormatError:
        return np.zeros(0, np.uint64)
    return table.targets(data) if len(data) else np.zeros(0, np.uint64)


def _cases(scope: Scope, row: int, words: U64) -> U64:
    """Return the places in the jump's function that ``words`` begin with."""
    wrong = np.flatnonzero(scope.columns.index(words) < 0)
    words = words[: wrong[0] if len(wrong) else len(words)]
    # a function's own entry is a pointer's target, not a case's
    entries = scope.is_function(words) & (scope.at(words) == ENTRY)
    wrong = np.flatnonzero(entries | ~_near(scope, row, words))
    return distinct(words[: wrong[0] if len(wrong) else len(words)])


def _near(scope: Scope, row: int, addresses: U64) -> I64:
    """Places in the same function as ``row``, or in a fragment of one."""
    symbols = scope.columns.program.symbols
    here = int(scope.columns.insns.address[row])
    own = symbols.index(here)
    if own < 0 or not int(symbols.size[own]):
        return np.ones(len(addresses), bool)
    first = symbols.address[own]
    inside = (addresses >= first) & (addresses - first < symbols.size[own])
    place = np.searchsorted(symbols.address, addresses, side="right") - 1
    start = symbols.address[np.maximum(place, 0)]
    return np.asarray(inside | (scope.at(start) != ENTRY))
