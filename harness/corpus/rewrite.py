"""Rewrite: a program with some bytes changed, and its columns read anew.

Only what depends on the changed bytes is read again, so that a mutant costs
milliseconds where its kernel took a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.file import Bytes
from harness.elf.orc import ENTRY_SIZE, IP_SIZE, parse_orc
from harness.elf.program import Program
from harness.text.code import CODE_BYTES
from harness.text.decode import decode_all
from harness.text.insn import Insns, join
from harness.text.patch import build_streams
from harness.verify.columns import Columns

_WINDOW = 64  # bytes behind a change in which the decoder finds its way again


class Poke(Struct, frozen=True):
    """Other ``data`` at ``address``, within one section."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + len(self.data)


class Rows(Struct, frozen=True):
    """Other entries, (ip, six bytes) each, for rows [first, last) of the ORC table."""

    first: int
    last: int
    entries: tuple[tuple[int, bytes], ...]


Edit = Poke | Rows


def apply(columns: Columns, edits: Sequence[Edit]) -> Columns:
    """Return ``columns`` of the program with ``edits`` made, which do not overlap.

    Raises:
        FormatError: nobody can read one of its tables any more.
    """
    pokes = sorted((e for e in edits if isinstance(e, Poke)), key=lambda e: e.address)
    program = _poked(columns.program, pokes)
    mutant = replace(columns, program=program)
    code = [poke for poke in pokes if _is_code(program, poke)]
    if code:
        mutant = replace(mutant, insns=_decoded(program, columns.insns, code))
    mutant = _sites(columns, mutant, pokes, code)
    rows = [edit for edit in edits if isinstance(edit, Rows)]
    return _with_orc(mutant, rows) if rows else mutant


def _poked(program: Program, pokes: Iterable[Poke]) -> Program:
    sections = list(program.sections)
    fresh: dict[int, Bytes] = {}
    for poke in pokes:
        at = int(program.sections_at(np.array([poke.address], np.uint64))[0])
        assert at >= 0
        section = sections[at]
        data = fresh.setdefault(at, section.data.copy())
        first = poke.address - section.address
        data[first : first + len(poke.data)] = np.frombuffer(poke.data, np.uint8)
    for at, data in fresh.items():
        sections[at] = replace(sections[at], data=data)
    return replace(program, sections=tuple(sections))


def _is_code(program: Program, poke: Poke) -> bool:
    section = program.section_at(poke.address)
    return section is not None and section.executable


def _decoded(program: Program, insns: Insns, pokes: Sequence[Poke]) -> Insns:
    """Decode what the pokes change again, and on until the old rows fit."""
    parts, row = [], 0
    for poke in pokes:
        first = int(insns.covering(np.array([poke.address], np.uint64))[0])
        assert first >= 0
        if first < row:  # the piece before reaches into this one
            first = row
        piece, rest = _piece(program, insns, int(insns.address[first]), poke.end)
        parts += [insns.take(slice(row, first)), piece]
        row = rest
    return join([*parts, insns.take(slice(row, None))])


def _piece(program: Program, insns: Insns, start: int, last: int) -> tuple[Insns, int]:
    """Decode from ``start`` beyond ``last``; return it and the old row that follows."""
    section = program.section_at(start)
    assert section is not None
    # what a column holds of the bytes behind an instruction must be right too
    ahead = min(last + _WINDOW + CODE_BYTES, section.end)
    at = start - section.address
    piece = decode_all(section.data[at : ahead - section.address], start)
    fits = (piece.address >= last) & (insns.index(piece.address) >= 0)
    common = int(np.argmax(fits)) if fits.any() else len(piece)
    resume = int(piece.address[common]) if common < len(piece) else ahead
    rest = int(np.searchsorted(insns.address, np.uint64(resume)))
    return piece.take(slice(0, common)), rest


def _sites(
    columns: Columns, mutant: Columns, pokes: Sequence[Poke], code: Sequence[Poke]
) -> Columns:
    """Read alternatives and their texts again if their bytes changed."""
    table = mutant.alternatives
    section = mutant.program.section(".altinstructions")
    if table is None or section is None:
        return mutant
    if any(section.address <= poke.address < section.end for poke in pokes):
        table = parse_alternatives(mutant.program)
        assert table is not None
    elif not any(_concerns(table, poke) for poke in code):
        return mutant
    streams = build_streams(mutant.program, table)
    return replace(mutant, alternatives=table, streams=streams)


def _concerns(table: Alternatives, poke: Poke) -> bool:
    """Whether the poke changes any text of any site."""
    start, end = np.uint64(poke.address), np.uint64(poke.end)
    site_end = table.site_address + table.site_length.astype(np.uint64)
    text_end = table.replacement + table.replacementlen
    return bool(
        ((table.site_address < end) & (start < site_end)).any()
        or ((table.replacement < end) & (start < text_end)).any()
    )


def _with_orc(columns: Columns, edits: Sequence[Rows]) -> Columns:
    where = columns.program.section(".orc_unwind_ip")
    what = columns.program.section(".orc_unwind")
    assert where is not None
    assert what is not None
    records = what.data.reshape(-1, ENTRY_SIZE)
    ips, bodies, row = [], [], 0
    for edit in sorted(edits, key=lambda e: e.first):
        ips += [columns.table.ip[row : edit.first]]
        bodies += [records[row : edit.first]]
        ips += [np.array([ip for ip, _ in edit.entries], np.uint64)]
        body = b"".join(record for _, record in edit.entries)
        bodies += [np.frombuffer(body, np.uint8).reshape(-1, ENTRY_SIZE)]
        row = edit.last
    ip = np.concatenate([*ips, columns.table.ip[row:]])
    data = np.concatenate([*bodies, records[row:]]).reshape(-1)
    place = np.arange(len(ip), dtype=np.uint64) * np.uint64(IP_SIZE)
    offset = (ip - (np.uint64(where.address) + place)).view(np.int64).astype("<i4")
    fresh = {where.index: offset.view(np.uint8), what.index: data}
    sections = tuple(
        replace(s, data=fresh[s.index], size=len(fresh[s.index]))
        if s.index in fresh
        else s
        for s in columns.program.sections
    )
    program = replace(columns.program, sections=sections)
    table = parse_orc(program)
    assert table is not None
    return replace(columns, program=program, table=table)
