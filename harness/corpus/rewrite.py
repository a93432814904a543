"""Rewrite: a program with some bytes changed, and its columns read anew.

Only what depends on the changed bytes is read again, so that a mutant costs
milliseconds where its kernel took a second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.elf.alternative import parse_alternatives
from harness.elf.file import Bytes
from harness.elf.orc import parse_orc
from harness.elf.program import Program
from harness.text.decode import decode_all
from harness.text.insn import CODE_BYTES, U64, Insns, join
from harness.text.patch import build_streams
from harness.verify.columns import Columns

_WINDOW = 64  # bytes behind a change in which the decoder finds its way again


def poke(program: Program, address: int, data: bytes) -> Program:
    """Return ``program`` with ``data`` at ``address``, within one section."""
    section = program.section_at(address)
    assert section is not None
    at = address - section.address
    fresh = section.data.copy()
    fresh[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return _with_data(program, section.index, section.address, fresh)


def _with_data(program: Program, index: int, address: int, data: Bytes) -> Program:
    """Give the section ``index`` at ``address`` other bytes, maybe more or fewer."""
    return replace(
        program,
        sections=tuple(
            replace(s, data=data, size=len(data))
            if s.index == index and s.address == address
            else s
            for s in program.sections
        ),
    )


def with_code(columns: Columns, address: int, code: bytes) -> Columns:
    """Return ``columns`` with other ``code`` at ``address``, decoded again there."""
    program = poke(columns.program, address, code)
    insns = _decoded(program, columns.insns, address, address + len(code))
    streams = columns.streams
    if columns.alternatives is not None and _concerns(columns, address, len(code)):
        streams = build_streams(program, columns.alternatives)
    return replace(columns, program=program, insns=insns, streams=streams)


def _decoded(program: Program, insns: Insns, first: int, last: int) -> Insns:
    """Decode [first, last) of ``program`` again, and on until the old rows fit."""
    row = int(insns.covering(np.array([first], np.uint64))[0])
    assert row >= 0
    start = int(insns.address[row])
    section = program.section_at(start)
    assert section is not None
    stop = min(last + _WINDOW, section.end)
    # what an instruction column says of the bytes behind it must be right too
    ahead = min(stop + CODE_BYTES, section.end)
    at = start - section.address
    piece = decode_all(section.data[at : ahead - section.address], start)
    fits = (piece.address >= last) & (insns.index(piece.address) >= 0)
    common = int(np.argmax(fits)) if fits.any() else len(piece)
    resume = int(piece.address[common]) if common < len(piece) else ahead
    rest = int(np.searchsorted(insns.address, np.uint64(resume)))
    return join(
        [
            insns.take(slice(0, row)),
            piece.take(slice(0, common)),
            insns.take(slice(rest, None)),
        ]
    )


def _concerns(columns: Columns, address: int, size: int) -> bool:
    """Whether bytes in [address, address + size) are of any text of any site."""
    table = columns.alternatives
    assert table is not None
    end = np.uint64(address + size)
    start = np.uint64(address)
    site_end = table.site_address + table.site_length.astype(np.uint64)
    text_end = table.replacement + table.replacementlen
    return bool(
        ((table.site_address < end) & (start < site_end)).any()
        or ((table.replacement < end) & (start < text_end)).any()
    )


def with_orc(columns: Columns, ip: U64, records: Bytes) -> Columns:
    """Return ``columns`` with another ORC table: addresses, and u8[n, 6] entries."""
    program = columns.program
    where, what = program.section(".orc_unwind_ip"), program.section(".orc_unwind")
    assert where is not None
    assert what is not None
    places = np.uint64(where.address) + np.arange(len(ip), dtype=np.uint64) * np.uint64(
        4
    )
    offsets = (ip - places).view(np.int64).astype("<i4").view(np.uint8)
    program = _with_data(program, where.index, where.address, offsets)
    program = _with_data(program, what.index, what.address, records.reshape(-1))
    table = parse_orc(program)
    assert table is not None
    return replace(columns, program=program, table=table)


def with_alternatives(columns: Columns, offset: int, data: bytes) -> Columns:
    """Return ``columns`` with ``data`` at ``offset`` of .altinstructions.

    Raises:
        FormatError: nobody can read the table any more.
    """
    section = columns.program.section(".altinstructions")
    assert section is not None
    program = poke(columns.program, section.address + offset, data)
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    streams = build_streams(program, alternatives)
    return replace(columns, program=program, alternatives=alternatives, streams=streams)


def with_bytes(columns: Columns, address: int, data: bytes) -> Columns:
    """Return ``columns`` with other ``data`` in a section that holds no code."""
    return replace(columns, program=poke(columns.program, address, data))
