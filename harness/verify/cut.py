"""Cut: a part of a program as a program of its own.

A part is a set of intervals of code. It keeps their bytes and symbols at their
addresses, and of every table the rows that are about that code; what it calls
outside of itself is external.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.assemble import Name, Piece
from harness.elf.column import distinct
from harness.elf.hint import parse_hints
from harness.elf.orc import OrcTable
from harness.elf.paravirt import STRIDE
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import I64, U64, InsnKind
from harness.verify.columns import Columns
from harness.verify.transfer import ENTRY

Interval = tuple[int, int]  # [first, last) addresses

UNSIZED_BYTES = 4096  # of a symbol without a size and without a successor
JUMP_TABLE_BYTES = 1024
POINTER_BYTES = 8


def extent_of(program: Program, address: int) -> Interval:
    """Return the function that ``address`` lies in; one byte where no symbol tells."""
    symbols = program.symbols
    index = symbols.index(address)
    section = program.section_at(address)
    if index < 0 or section is None or symbols.section[index] != section.index:
        return address, address + 1
    first, size = int(symbols.address[index]), int(symbols.size[index])
    if address < first + size:
        return first, first + size
    after = symbols.address[symbols.address > np.uint64(address)]
    end = int(after[0]) if len(after) else section.end
    return first, min(end, section.end, address + UNSIZED_BYTES)


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return ``intervals`` in order, those that touch joined."""
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def leads_to(columns: Columns, kept: Sequence[Interval]) -> list[int]:
    """Return the targets of direct branches out of ``kept``, with its replacements."""
    whole = _with_replacements(columns, kept)
    target = columns.insns.target[_rows(columns, whole)]
    outside = distinct(target[(target != 0) & ~_inside(target, whole)])
    return [int(address) for address in outside]


def comes_from(columns: Columns, kept: Sequence[Interval]) -> list[int]:
    """Return from where control comes into ``kept`` with a frame that others made.

    By a jump, or from the instruction in front.
    """
    insns, whole = columns.insns, merge(kept)
    branches = columns.branches
    jumps = branches[insns.kind[branches] != InsnKind.CALL]
    into = insns.target[jumps]
    first = np.array([first for first, _ in whole], np.uint64)
    rows = insns.index(first)
    front = (rows > 0) & (columns.lookup.at(first) != ENTRY)
    live = _inside(into, whole) & (columns.lookup.at(into) != ENTRY)
    sources = insns.address[np.concatenate([jumps[live], rows[front] - 1])]
    return [int(address) for address in sources[~_inside(sources, whole)]]


class Cut(Struct, frozen=True):
    """The sections and symbols of a part."""

    pieces: tuple[Piece, ...]
    names: tuple[Name, ...]


def cut(columns: Columns, kept: Sequence[Interval]) -> Cut:
    """Return the part of ``columns`` that the intervals ``kept`` of code make."""
    program = columns.program
    whole = _with_replacements(columns, kept)
    data = merge(_data(columns, whole))
    pieces = [*_pieces(program, whole), *_pieces(program, data)]
    names = list(_names(program, pieces))
    for address in leads_to(columns, kept):
        label = str(program.location(address))
        names.append(Name(label, address, 0, 0, 1, -1))
    tables = [*_orc(columns, whole), *_tables(columns, whole)]
    return Cut((*pieces, *tables), tuple(names))


def _with_replacements(columns: Columns, kept: Sequence[Interval]) -> list[Interval]:
    alternatives = columns.alternatives
    if alternatives is None:
        return merge(kept)
    rows = _inside(alternatives.address, kept) & (alternatives.replacementlen > 0)
    first = alternatives.replacement[rows]
    last = first + alternatives.replacementlen[rows]
    return merge([*kept, *zip(first.tolist(), last.tolist(), strict=True)])


def _inside(addresses: U64, kept: Sequence[Interval]) -> npt.NDArray[np.bool_]:
    starts = np.array([first for first, _ in kept], np.uint64)
    ends = np.array([last for _, last in kept], np.uint64)
    at = np.searchsorted(starts, addresses, side="right").astype(np.int64) - 1
    return np.asarray((at >= 0) & (addresses < ends[np.maximum(at, 0)]))


def _rows(columns: Columns, kept: Sequence[Interval]) -> I64:
    return np.flatnonzero(_inside(columns.insns.address, kept)).astype(np.int64)


def _pieces(program: Program, kept: Iterable[Interval]) -> Iterator[Piece]:
    for first, last in kept:
        at = first
        while at < last and (section := program.section_at(at)) is not None:
            end = min(last, section.end)
            data = program.read(at, end - at).tobytes()
            yield Piece(section.name, at, data, section.executable)
            at = end


def _data(columns: Columns, kept: Sequence[Interval]) -> Iterator[Interval]:
    """Yield what indirect jumps and calls in ``kept`` read their targets from."""
    insns, program = columns.insns, columns.program
    sizes = {
        int(InsnKind.JMP_INDIRECT): JUMP_TABLE_BYTES,
        int(InsnKind.CALL_INDIRECT): POINTER_BYTES,
    }
    for row in _rows(columns, kept).tolist():
        size = sizes.get(int(insns.kind[row]))
        insn = insns.at(row)
        if size is None or insn.size < 6:
            continue
        field = int.from_bytes(insn.code[-4:], "little", signed=True)
        for address in (field % (1 << 64), (insn.end + field) % (1 << 64)):
            section = program.section_at(address)
            if section is not None and section.alloc and not section.executable:
                yield address, min(address + size, section.end)


def _names(program: Program, pieces: Sequence[Piece]) -> Iterator[Name]:
    symbols = program.symbols
    for place, piece in enumerate(pieces):
        if not piece.executable:
            continue
        ends = np.uint64(piece.address), np.uint64(piece.address + len(piece.data))
        first, last = np.searchsorted(symbols.address, np.array(ends)).tolist()
        for row in range(first, last):
            if symbols.section[row] >= 0:
                yield Name(
                    symbols.name[row],
                    int(symbols.address[row]),
                    int(symbols.size[row]),
                    int(symbols.kind[row]),
                    int(symbols.binding[row]),
                    place,
                )


def _orc(columns: Columns, kept: Sequence[Interval]) -> Iterator[Piece]:
    program, table = columns.program, columns.table.sorted()
    ips, entries = program.section(".orc_unwind_ip"), program.section(".orc_unwind")
    if ips is None or entries is None:
        return
    rows = [row for interval in kept for row in _orc_rows(table, interval)]
    ends = {last for _, last in kept}
    # of one address a terminator comes first, unless another interval goes on there
    rows.sort(key=lambda row: (row[0], row[0] not in ends or any(row[1])))
    places = np.array([ip for ip, _ in rows], np.uint64)
    own = np.uint64(ips.address) + np.arange(0, 4 * len(rows), 4, dtype=np.uint64)
    offsets = (places - own).view(np.int64).astype("<i4").tobytes()
    words = np.array([row for _, row in rows]).astype("<u2").tobytes()
    yield Piece(".orc_unwind_ip", ips.address, offsets)
    yield Piece(".orc_unwind", entries.address, words)
    if (header := program.section(".orc_header")) is not None:
        yield Piece(".orc_header", header.address, header.data.tobytes())


_Row = tuple[int, tuple[int, int, int]]  # ip; the three fields of struct orc_entry


def _orc_rows(table: OrcTable, interval: Interval) -> Iterator[_Row]:
    """Yield the rows that hold in ``interval``, and an end behind it."""
    first, last = interval
    start, stop = np.searchsorted(table.ip, np.array(interval, np.uint64)).tolist()
    if start and (start == len(table) or int(table.ip[start]) != first):
        yield first, _fields(table, start - 1)
    for row in range(start, stop):
        yield int(table.ip[row]), _fields(table, row)
    yield last, (0, 0, 0)


def _fields(table: OrcTable, row: int) -> tuple[int, int, int]:
    word = int(table.raw[row])
    return int(table.sp_offset[row]), int(table.bp_offset[row]), word


class _Layout(Struct, frozen=True):
    """Where a table's rows have fields that count from their own address.

    ``relative`` holds (offset, bytes) by entry size; a size that is not there has
    absolute addresses, 8 bytes at offset 0.
    """

    section: str
    relative: Mapping[int, tuple[tuple[int, int], ...]]
    start: str = ""
    stop: str = ""


_PLACE = ((0, 4),)
_PAIR = ((0, 4), (4, 4))
_PLACES = {4: _PLACE}
_LAYOUTS = {
    SiteTable.RETPOLINE_SITES: _Layout(".retpoline_sites", _PLACES),
    SiteTable.RETURN_SITES: _Layout(".return_sites", _PLACES),
    SiteTable.CALL_SITES: _Layout(".call_sites", _PLACES),
    SiteTable.IBT_ENDBR_SEAL: _Layout(".ibt_endbr_seal", _PLACES),
    SiteTable.CFI_SITES: _Layout(".cfi_sites", _PLACES),
    SiteTable.SMP_LOCKS: _Layout(".smp_locks", _PLACES),
    SiteTable.STATIC_CALL_SITES: _Layout(
        ".static_call_sites",
        {8: _PAIR},
        "__start_static_call_sites",
        "__stop_static_call_sites",
    ),
    SiteTable.JUMP_TABLE: _Layout(
        "__jump_table",
        {16: (*_PAIR, (8, 8))},
        "__start___jump_table",
        "__stop___jump_table",
    ),
    SiteTable.EX_TABLE: _Layout("__ex_table", {12: _PAIR}),
    SiteTable.BUG_TABLE: _Layout(
        "__bug_table", {8: _PLACE, 12: _PAIR, 16: (*_PAIR, (8, 4))}
    ),
}
_ALTINSTRUCTIONS = _Layout(".altinstructions", dict.fromkeys((12, 13, 14), _PAIR))
_PARAINSTRUCTIONS = _Layout(".parainstructions", {})
_HINTS = _Layout(".discard.unwind_hints", {8: _PLACE, 12: _PLACE})


def _tables(columns: Columns, kept: Sequence[Interval]) -> Iterator[Piece]:
    program = columns.program
    for table, layout in _LAYOUTS.items():
        if (sites := parse_sites(program, table)) is not None:
            yield from _table(program, layout, sites.entry_size, kept)
    if columns.alternatives is not None:
        size = columns.alternatives.entry_size
        yield from _table(program, _ALTINSTRUCTIONS, size, kept)
    yield from _table(program, _PARAINSTRUCTIONS, STRIDE, kept)
    hints, section = (
        parse_hints(program, columns.table),
        program.section(_HINTS.section),
    )
    if hints is not None and section is not None:
        yield from _table(program, _HINTS, section.size // len(hints), kept)


def _table(
    program: Program, layout: _Layout, size: int, kept: Sequence[Interval]
) -> Iterator[Piece]:
    """Yield the rows of a table about code in ``kept``, moved to its start."""
    if (found := _bytes(program, layout)) is None:
        return
    base, data, entsize = found
    count = len(data) // size
    rows = data[: count * size].reshape(count, size).copy()
    relative = layout.relative.get(size)
    places = np.uint64(base) + np.arange(count, dtype=np.uint64) * np.uint64(size)
    if relative is None:
        address = rows[:, :8].copy().view("<u8").reshape(-1)
    else:
        offset = rows[:, :4].copy().view("<i4").reshape(-1).astype(np.int64)
        address = places + offset.view(np.uint64)
    old = np.flatnonzero(_inside(address, kept))
    rows = rows[old]
    moved = (old - np.arange(len(old))) * size
    for at, width in relative or ():
        field = rows[:, at : at + width].copy().view(f"<i{width}").reshape(-1)
        fixed = (field.astype(np.int64) + moved).astype(f"<i{width}")
        rows[:, at : at + width] = fixed.view(np.uint8).reshape(-1, width)
    if len(rows):
        yield Piece(layout.section, base, rows.tobytes(), entsize=entsize)


def _bytes(
    program: Program, layout: _Layout
) -> tuple[int, npt.NDArray[np.uint8], int] | None:
    if (section := program.section(layout.section)) is not None:
        return section.address, section.data, section.entsize
    if not layout.start:
        return None
    start, stop = program.symbols.find(layout.start), program.symbols.find(layout.stop)
    if start is None or stop is None:
        return None
    return start, program.read(start, stop - start), 0
