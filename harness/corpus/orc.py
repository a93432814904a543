"""Orc: mutants of the unwind table itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.corpus.mutant import Change, Kind, MutantClass
from harness.corpus.rewrite import with_orc
from harness.elf.file import Bytes
from harness.elf.orc import OrcFormat, OrcType, describe
from harness.text.insn import I64, U64
from harness.verify.columns import Columns

# Where each format keeps what its word of bit fields says.
_TYPE_MASK = {OrcFormat.V3: 0x700, OrcFormat.V4: 0x700}
_SIGNAL = {OrcFormat.V2: 1 << 10, OrcFormat.V3: 1 << 11, OrcFormat.V4: 1 << 11}
_END = {
    OrcFormat.V1B: 1 << 10,
    OrcFormat.V2: 1 << 11,
    OrcFormat.V3: OrcType.END_OF_STACK << 8,
    OrcFormat.V4: OrcType.END_OF_STACK << 8,
}
_SP_REG, _BP_REG = 0x00F, 0x0F0

Edit = Callable[[Columns, int, np.ndarray, np.random.Generator], bool]


def _records(columns: Columns) -> Bytes:
    section = columns.program.section(".orc_unwind")
    assert section is not None
    return section.data.reshape(-1, 6).copy()


def _change(columns: Columns, row: int, ip: U64, records: Bytes, what: str) -> Change:
    """Say what became of entry ``row``, from where it holds to where the next does."""
    table = columns.table
    first = int(table.ip[row])
    last = int(table.ip[row + 1]) if row + 1 < len(table) else first
    return Change(
        with_orc(columns, ip, records), first, max(1, min(last - first, 256)), what
    )


def _field(name: str, candidates: Callable[[Columns], I64], edit: Edit) -> MutantClass:
    """A class that changes one entry's fields; ``edit`` works on (s16, s16, u16)."""

    def mutate(
        columns: Columns, row: int, random: np.random.Generator
    ) -> Change | None:
        records = _records(columns)
        fields = records[row].view("<u2")
        before = describe(int(columns.table.state[row]))
        if not edit(columns, row, fields, random):
            return None
        change = _change(columns, row, columns.table.ip, records, "")
        after = describe(int(change.columns.table.state[row]))
        if after == before:
            return None
        return Change(
            change.columns, change.address, change.size, f"{before} -> {after}"
        )

    return MutantClass(f"orc/{name}", Kind.STATE, candidates, mutate)


def _defined(columns: Columns) -> I64:
    return np.flatnonzero(columns.table.type > OrcType.END_OF_STACK)


def _with_bp(columns: Columns) -> I64:
    return np.flatnonzero(
        (columns.table.type > OrcType.END_OF_STACK) & (columns.table.bp_reg != 0)
    )


def _all(columns: Columns) -> I64:
    return np.arange(len(columns.table))


def _shift(place: int) -> Edit:
    def edit(
        columns: Columns, row: int, fields: np.ndarray, random: np.random.Generator
    ) -> bool:
        step = 8 if random.integers(2) else -8
        fields[place] = (int(fields[place]) + step) & 0xFFFF
        return True

    return edit


def _other(mask: Callable[[Columns], int]) -> Edit:
    """Put another code that the table knows into the bits ``mask``."""

    def edit(
        columns: Columns, row: int, fields: np.ndarray, random: np.random.Generator
    ) -> bool:
        bits = mask(columns)
        codes = np.unique(columns.table.raw & bits)
        codes = codes[codes != int(fields[2]) & bits]
        if not len(codes):
            return False
        fields[2] = int(fields[2]) & ~bits & 0xFFFF | int(random.choice(codes))
        return True

    return edit


def _signal(
    columns: Columns, row: int, fields: np.ndarray, random: np.random.Generator
) -> bool:
    bit = _SIGNAL.get(columns.table.format, 0)
    fields[2] ^= bit
    return bool(bit)


def _undefined(
    columns: Columns, row: int, fields: np.ndarray, random: np.random.Generator
) -> bool:
    fields[:] = 0
    return True


def _end(
    columns: Columns, row: int, fields: np.ndarray, random: np.random.Generator
) -> bool:
    fields[:] = 0
    fields[2] = _END.get(columns.table.format, 0)
    return columns.table.format in _END


def _delete(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    what = f"{describe(int(columns.table.state[row]))} deleted"
    ip = np.delete(columns.table.ip, row)
    return _change(columns, row, ip, np.delete(_records(columns), row, axis=0), what)


def _duplicate(
    columns: Columns, row: int, random: np.random.Generator
) -> Change | None:
    what = f"{describe(int(columns.table.state[row]))} twice"
    ip = np.insert(columns.table.ip, row, columns.table.ip[row])
    records = _records(columns)
    return _change(
        columns, row, ip, np.insert(records, row, records[row], axis=0), what
    )


def _next_insn(columns: Columns, address: int) -> int:
    row = int(columns.insns.index(np.array([address], np.uint64))[0])
    return address + int(columns.insns.size[row]) if row >= 0 else 0


def _repeat(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    """The entry once more, at the next instruction."""
    table = columns.table
    if row + 1 >= len(table):
        return None
    address = _next_insn(columns, int(table.ip[row]))
    if not address or address >= int(table.ip[row + 1]):
        return None
    what = f"{describe(int(table.state[row]))} again at the next instruction"
    ip = np.insert(table.ip, row + 1, np.uint64(address))
    records = _records(columns)
    return _change(
        columns, row, ip, np.insert(records, row + 1, records[row], axis=0), what
    )


def _later(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    table = columns.table
    if row + 1 >= len(table):
        return None
    address = _next_insn(columns, int(table.ip[row]))
    if not address or address >= int(table.ip[row + 1]):
        return None
    return _moved(columns, row, address, "later")


def _earlier(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    table, insns = columns.table, columns.insns
    at = int(insns.index(table.ip[row : row + 1])[0])
    if at < 1 or row < 1:
        return None
    address = int(insns.address[at - 1])
    adjacent = address + int(insns.size[at - 1]) == int(table.ip[row])
    if not adjacent or address <= int(table.ip[row - 1]):
        return None
    return _moved(columns, row, address, "earlier")


def _moved(columns: Columns, row: int, address: int, how: str) -> Change:
    ip = columns.table.ip.copy()
    first = min(address, int(ip[row]))
    size = max(address, int(ip[row])) - first
    ip[row] = address
    what = f"{describe(int(columns.table.state[row]))} one instruction {how}"
    return Change(with_orc(columns, ip, _records(columns)), first, size, what)


def _swap_states(
    columns: Columns, row: int, random: np.random.Generator
) -> Change | None:
    if row + 1 >= len(columns.table):
        return None
    records = _records(columns)
    records[[row, row + 1]] = records[[row + 1, row]]
    if (records[row] == records[row + 1]).all():
        return None
    return _change(
        columns, row, columns.table.ip, records, "states of two entries swapped"
    )


def _unsorted(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    """Two neighbours change places: whoever searches the table misses one."""
    if row + 1 >= len(columns.table) or columns.program.relocatable:
        return None
    order = np.arange(len(columns.table))
    order[[row, row + 1]] = [row + 1, row]
    return _reordered(columns, row, order)


def _far(columns: Columns, row: int, random: np.random.Generator) -> Change | None:
    if columns.program.relocatable:
        return None
    order = np.arange(len(columns.table))
    other = int(random.integers(len(order)))
    order[[row, other]] = [other, row]
    return _reordered(columns, row, order)


def _reordered(columns: Columns, row: int, order: I64) -> Change | None:
    ip = columns.table.ip[order]
    if (ip == columns.table.ip).all():
        return None
    return _change(columns, row, ip, _records(columns)[order], "out of order")


CLASSES = (
    _field("sp-offset", _defined, _shift(0)),
    _field("bp-offset", _with_bp, _shift(1)),
    _field("sp-reg", _defined, _other(lambda columns: _SP_REG)),
    _field("bp-reg", _defined, _other(lambda columns: _BP_REG)),
    _field(
        "type",
        _defined,
        _other(lambda columns: _TYPE_MASK.get(columns.table.format, 0x300)),
    ),
    _field("signal", _defined, _signal),
    _field("undefined", _defined, _undefined),
    _field("end", _defined, _end),
    MutantClass("orc/delete", Kind.STATE, _all, _delete),
    MutantClass("orc/duplicate", Kind.STATE, _all, _duplicate),
    MutantClass("orc/repeat", Kind.STATE, _all, _repeat),
    MutantClass("orc/later", Kind.STATE, _all, _later),
    MutantClass("orc/earlier", Kind.STATE, _all, _earlier),
    MutantClass("orc/swap", Kind.STATE, _all, _swap_states),
    MutantClass("orc/unsorted", Kind.STATE, _all, _unsorted),
    MutantClass("orc/far", Kind.STATE, _all, _far),
)
