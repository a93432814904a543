"""Orc: mutants of the unwind table itself."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from harness.corpus.mutant import Change, Kind, MutantClass
from harness.corpus.rewrite import Rows
from harness.elf.column import among
from harness.elf.orc import ENTRY_SIZE, OrcFormat, OrcType, describe, pack, unpack
from harness.text.insn import I64
from harness.verify.columns import Columns
from harness.verify.extent import functions, holding

# Where each format keeps what its word of bit fields says.
_SP_REG, _BP_REG = 0x00F, 0x0F0
_OLD_TYPE, _NEW_TYPE = 0x300, 0x700
_NEW = (OrcFormat.V3, OrcFormat.V4)
_SIGNAL = {OrcFormat.V2: 1 << 10, OrcFormat.V3: 1 << 11, OrcFormat.V4: 1 << 11}
_END = {
    OrcFormat.V1B: 1 << 10,
    OrcFormat.V2: 1 << 11,
    OrcFormat.V3: OrcType.END_OF_STACK << 8,
    OrcFormat.V4: OrcType.END_OF_STACK << 8,
}
_UNDEFINED = bytes(ENTRY_SIZE)
_MOST = 256  # bytes of code that a change of an entry is said to concern

Fields = tuple[int, int, int]  # sp_offset, bp_offset and the word, as in the file
Entry = tuple[int, bytes]  # address, and the entry as in the file
Mutation = Callable[[Columns, int, np.random.Generator], Change | None]
# Returns the new fields and what they say, or None.
FieldEdit = Callable[
    [Columns, int, Fields, np.random.Generator], tuple[Fields, str] | None
]


def _entry(columns: Columns, row: int) -> Entry:
    section = columns.program.section(".orc_unwind")
    assert section is not None
    at = row * ENTRY_SIZE
    return int(columns.table.ip[row]), section.data[at : at + ENTRY_SIZE].tobytes()


def _said(columns: Columns, row: int) -> str:
    return describe(int(columns.table.state[row]))


def _replaced(
    columns: Columns, first: int, last: int, entries: tuple[Entry, ...], what: str
) -> Change:
    """Put ``entries`` in the place of rows [first, last)."""
    start = min([int(columns.table.ip[first]), *(ip for ip, _ in entries)])
    following = columns.table.ip[last : last + 1]
    end = int(following[0]) if len(following) else start
    size = max(1, min(end - start, _MOST))
    return Change(columns, (Rows(first, last, entries),), start, size, what)


# --- one field ---------------------------------------------------------------


def _field(
    name: str, candidates: Callable[[Columns], I64], edit: FieldEdit
) -> MutantClass:
    def mutate(
        columns: Columns, row: int, random: np.random.Generator
    ) -> Change | None:
        ip, record = _entry(columns, row)
        fields = struct.unpack("<hhH", record)
        if (edited := edit(columns, row, fields, random)) is None:
            return None
        after, says = edited
        if after == fields:
            return None
        entry = (ip, struct.pack("<hhH", *after))
        what = f"{_said(columns, row)} -> {says}"
        return _replaced(columns, row, row + 1, (entry,), what)

    return MutantClass(f"orc/{name}", Kind.STATE, candidates, mutate)


def _defined(columns: Columns) -> I64:
    return np.flatnonzero(columns.table.type > OrcType.END_OF_STACK)


def _with_bp(columns: Columns) -> I64:
    live = columns.table.type > OrcType.END_OF_STACK
    return np.flatnonzero(live & (columns.table.bp_reg != 0))


def _all(columns: Columns) -> I64:
    return np.arange(len(columns.table))


def _sp_offset(
    columns: Columns, row: int, fields: Fields, random: np.random.Generator
) -> tuple[Fields, str]:
    entry = unpack(int(columns.table.state[row]))
    offset = entry.sp_offset + (8 if random.integers(2) else -8)
    says = describe(pack(replace(entry, sp_offset=offset)))
    return (offset, fields[1], fields[2]), says


def _bp_offset(
    columns: Columns, row: int, fields: Fields, random: np.random.Generator
) -> tuple[Fields, str]:
    entry = unpack(int(columns.table.state[row]))
    offset = entry.bp_offset + (8 if random.integers(2) else -8)
    says = describe(pack(replace(entry, bp_offset=offset)))
    return (fields[0], offset, fields[2]), says


def _other(field: str) -> FieldEdit:
    """The field of another entry of the table, whichever has another value."""

    def edit(
        columns: Columns, row: int, fields: Fields, random: np.random.Generator
    ) -> tuple[Fields, str] | None:
        values = getattr(columns.table, field)
        _, first = np.unique(values, return_index=True)
        donors = first[values[first] != values[row]]
        if not len(donors):
            return None
        donor = int(random.choice(donors))
        bits = _bits(columns.table.format, field)
        word = fields[2] & ~bits | int(columns.table.raw[donor]) & bits
        entry = unpack(int(columns.table.state[row]))
        value = int(values[donor])
        other = {
            "sp_reg": replace(entry, sp_reg=value),
            "bp_reg": replace(entry, bp_reg=value),
            "type": replace(entry, type=value),
        }
        return (fields[0], fields[1], word), describe(pack(other[field]))

    return edit


def _bits(orc_format: OrcFormat, field: str) -> int:
    new = _NEW_TYPE if orc_format in _NEW else _OLD_TYPE
    return {"sp_reg": _SP_REG, "bp_reg": _BP_REG, "type": new}[field]


def _signal(
    columns: Columns, row: int, fields: Fields, random: np.random.Generator
) -> tuple[Fields, str] | None:
    if (bit := _SIGNAL.get(columns.table.format)) is None:
        return None
    entry = unpack(int(columns.table.state[row]))
    says = describe(pack(replace(entry, signal=not entry.signal)))
    return (fields[0], fields[1], fields[2] ^ bit), says


def _undefined(
    columns: Columns, row: int, fields: Fields, random: np.random.Generator
) -> tuple[Fields, str]:
    return (0, 0, 0), "(und)"


def _end(
    columns: Columns, row: int, fields: Fields, random: np.random.Generator
) -> tuple[Fields, str] | None:
    bits = _END.get(columns.table.format)
    return None if bits is None else ((0, 0, bits), "end")


# --- whole entries -----------------------------------------------------------


def _stated(columns: Columns) -> I64:
    """Rows at which a function begins that has a state somewhere."""
    table = columns.table
    start, end = functions(columns.program)
    at = holding(start, end, table.ip)
    has = np.unique(at[(at >= 0) & (table.type > OrcType.END_OF_STACK)])
    return np.flatnonzero(among(table.ip, start[has]))


def _lost(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    """A function, or what hardware enters, has no state any more; its neighbours do."""
    table, (start, end) = columns.table, functions(columns.program)
    ip = int(table.ip[row])
    behind = int(end[np.searchsorted(start, np.uint64(ip))])
    last = row + 1
    while last < len(table) and ip <= int(table.ip[last]) < behind:
        last += 1
    entries: tuple[Entry, ...] = ((ip, _UNDEFINED),)
    if last == len(table) or int(table.ip[last]) != behind:
        entries += ((behind, _entry(columns, last - 1)[1]),)
    return _replaced(columns, row, last, entries, "no state from its start to its end")


def _delete(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    return _replaced(columns, row, row + 1, (), f"{_said(columns, row)} deleted")


def _duplicate(
    columns: Columns, row: int, random: np.random.Generator
) -> Change | None:
    entry = _entry(columns, row)
    what = f"{_said(columns, row)} twice"
    return _replaced(columns, row, row + 1, (entry, entry), what)


def _next_insn(columns: Columns, row: int) -> int | None:
    """The instruction behind the one at which ``row`` begins, if it is still its."""
    table, insns = columns.table, columns.insns
    at = int(insns.index(table.ip[row : row + 1])[0])
    if at < 0 or row + 1 >= len(table):
        return None
    address = int(table.ip[row]) + int(insns.size[at])
    return address if address < int(table.ip[row + 1]) else None


def _repeat(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    if (address := _next_insn(columns, row)) is None:
        return None
    entry = _entry(columns, row)
    what = f"{_said(columns, row)} again at the next instruction"
    return _replaced(columns, row, row + 1, (entry, (address, entry[1])), what)


def _later(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    if (address := _next_insn(columns, row)) is None:
        return None
    what = f"{_said(columns, row)} one instruction later"
    moved = (address, _entry(columns, row)[1])
    return _replaced(columns, row, row + 1, (moved,), what)


def _earlier(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    table, insns = columns.table, columns.insns
    at = int(insns.index(table.ip[row : row + 1])[0])
    if at < 1 or row < 1:
        return None
    address = int(insns.address[at - 1])
    adjacent = address + int(insns.size[at - 1]) == int(table.ip[row])
    if not adjacent or address <= int(table.ip[row - 1]):
        return None
    what = f"{_said(columns, row)} one instruction earlier"
    moved = (address, _entry(columns, row)[1])
    return _replaced(columns, row, row + 1, (moved,), what)


def _swap(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    """Two neighbours' states change places, their addresses do not."""
    if row + 1 >= len(columns.table):
        return None
    (ip, record), (next_ip, next_record) = (
        _entry(columns, row),
        _entry(columns, row + 1),
    )
    if record == next_record:
        return None
    entries = ((ip, next_record), (next_ip, record))
    return _replaced(columns, row, row + 2, entries, "states of two entries swapped")


def _unsorted(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    """Two neighbours change places: whoever searches the table misses one."""
    last = row + 1 >= len(columns.table)
    if last or columns.program.relocatable:
        return None
    here, there = _entry(columns, row), _entry(columns, row + 1)
    if here[0] == there[0]:
        return None
    return _replaced(columns, row, row + 2, (there, here), "two entries out of order")


def _far(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    other = int(random.integers(len(columns.table)))
    if columns.program.relocatable or abs(other - row) < 2:
        return None
    here, there = _entry(columns, row), _entry(columns, other)
    edits = (Rows(row, row + 1, (there,)), Rows(other, other + 1, (here,)))
    return Change(columns, edits, here[0], 1, "two far entries out of order")


CLASSES = (
    _field("sp-offset", _defined, _sp_offset),
    _field("bp-offset", _with_bp, _bp_offset),
    _field("sp-reg", _defined, _other("sp_reg")),
    _field("bp-reg", _defined, _other("bp_reg")),
    _field("type", _defined, _other("type")),
    _field("signal", _defined, _signal),
    _field("undefined", _defined, _undefined),
    _field("end", _defined, _end),
    MutantClass("orc/lost", Kind.STATE, _stated, _lost),
    MutantClass("orc/delete", Kind.STATE, _all, _delete),
    MutantClass("orc/duplicate", Kind.STATE, _all, _duplicate),
    MutantClass("orc/repeat", Kind.STATE, _all, _repeat),
    MutantClass("orc/later", Kind.STATE, _all, _later),
    MutantClass("orc/earlier", Kind.STATE, _all, _earlier),
    MutantClass("orc/swap", Kind.STATE, _all, _swap),
    MutantClass("orc/unsorted", Kind.STATE, _all, _unsorted),
    MutantClass("orc/far", Kind.STATE, _all, _far),
)
