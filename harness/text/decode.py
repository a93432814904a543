"""Decode: machine code into :class:`harness.text.insn.Insns`; the door to capstone.

capstone's ``cs_disasm`` is called over big pieces and its result array is viewed
as a numpy structured array, so that no Python object is made per instruction. It
releases the GIL: pieces are decoded by threads. Branch targets and stack effects
come from the bytes, not from the printed operands.

A linear sweep loses its way at bytes that are no code and at instructions that
capstone does not know. It is put right where that shows: at each place that the
caller says an instruction starts (function symbols), and after each gap.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import capstone
import numpy as np
import numpy.typing as npt
from capstone import x86_const as x86

from harness.elf.program import Program
from harness.errors import InfraError
from harness.text.classify import Ids, classify
from harness.text.fill import FILL, stretches
from harness.text.insn import CODE_BYTES, I64, U8, U64, Insns, join
from harness.text.length import XEN_PREFIX, gap_length

PIECE_BYTES = 256 << 10  # what one thread takes at a time
CHUNK_BYTES = 64 << 10  # what one cs_disasm call takes: 16 MB of its structures
_LONGEST = 16
_WINDOW = 64
_ROUNDS = 1000

_STRUCT = capstone._cs_insn
_VIEW = np.dtype(
    {
        "names": ["id", "address", "size", "operand"],
        "formats": ["<u4", "<u8", "<u2", "<u4"],
        "offsets": [
            _STRUCT.id.offset,
            _STRUCT.address.offset,
            _STRUCT.size.offset,
            _STRUCT.op_str.offset,
        ],
        "itemsize": ctypes.sizeof(_STRUCT),
    }
)
_IDS = Ids(
    {
        name.removeprefix("X86_INS_"): value
        for name, value in vars(x86).items()
        if name.startswith("X86_INS_")
    }
)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Rows of one sweep: ``offset`` i64, ``size`` i64, ``id`` u16, ``operand`` u4."""

    offset: I64
    size: I64
    id: npt.NDArray[np.uint16]
    operand: npt.NDArray[np.uint32]

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> _Sweep:
        return _Sweep(
            self.offset[mask], self.size[mask], self.id[mask], self.operand[mask]
        )


def decode(data: U8, address: int, starts: U64 | None = None) -> Insns:
    """Decode ``data``, which is mapped at ``address``, by linear sweep.

    ``starts`` are addresses at which an instruction is known to start; the sweep
    is resynchronised there. Fill runs (int3, nop, zero) of 64 bytes or more are
    left out. What is no instruction has kind BAD, one byte each.
    """
    return _decode(data, address, starts, stretches(data))


def decode_all(data: U8, address: int, starts: U64 | None = None) -> Insns:
    """Decode like :func:`decode`, long fill runs included."""
    return _decode(data, address, starts, [(0, len(data))] if len(data) else [])


def _decode(
    data: U8, address: int, starts: U64 | None, parts: list[tuple[int, int]]
) -> Insns:
    known = np.zeros(0, np.int64)
    if starts is not None:
        base = np.uint64(address)
        inside = starts[(starts >= base) & (starts - base < len(data))]
        known = np.unique((inside - base).astype(np.int64))
    sweep = _repair(data, _sweep(data, parts), known)
    return _columns(data, address, sweep)


def decode_pieces(
    pieces: list[tuple[U8, int, U64]], threads: int | None = None
) -> Insns:
    """Decode ``(data, address, starts)`` of each piece, in address order.

    Pieces must begin and end at instruction boundaries.
    """
    workers = threads or min(2, os.cpu_count() or 1)
    if workers == 1 or len(pieces) < 2:
        return join([decode(*piece) for piece in pieces])
    with ThreadPoolExecutor(workers) as pool:
        return join(list(pool.map(lambda piece: decode(*piece), pieces)))


def decode_program(program: Program, threads: int | None = None) -> Insns:
    """Decode all code of ``program``; instructions start at each function symbol."""
    pieces = []
    symbols = program.symbols
    functions = symbols.functions
    for section in program.executable:
        starts = symbols.address[functions & (symbols.section == section.index)]
        cuts = _cuts(section.address, section.end, starts)
        for first, last in itertools.pairwise(cuts):
            at = first - section.address
            data = section.data[at : last - section.address]
            known = starts[(starts >= first) & (starts < last)]
            pieces.append((data, first, known))
    return decode_pieces(pieces, threads)


def _cuts(first: int, last: int, starts: U64) -> list[int]:
    """Cut [first, last) at function starts into pieces of about PIECE_BYTES."""
    wanted = np.arange(first + PIECE_BYTES, last, PIECE_BYTES, dtype=np.uint64)
    at = np.searchsorted(starts, wanted)
    cuts = {int(starts[i]) for i in at.tolist() if i < len(starts)}
    return sorted({first, last} | cuts)


def format_insn(code: bytes, address: int) -> str:
    """Return ``code``'s first instruction as AT&T text, ``(bad)`` if it is none."""
    if code.startswith(XEN_PREFIX):
        return "xen-emulate-prefix"
    for _, size, mnemonic, operands in _printer().disasm_lite(code, address, 1):
        if size != len(code) and gap_length(code) == len(code):
            break
        return f"{mnemonic} {operands}".strip()
    return f"({code.hex(' ')})" if gap_length(code) else "(bad)"


@functools.cache
def _printer() -> capstone.Cs:
    engine = _engine()
    engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    return engine


def _engine() -> capstone.Cs:
    try:
        return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    except capstone.CsError as exc:
        raise InfraError(
            f"capstone does not start: {exc}",
            hint="reinstall the capstone package for this machine",
        ) from exc


def _sweep(data: U8, where: list[tuple[int, int]]) -> _Sweep:
    engine = _engine()
    engine.skipdata = True
    flat = np.ascontiguousarray(data)
    parts = [
        part for first, last in where for part in _stretch(engine, flat, first, last)
    ]
    return _Sweep(
        np.concatenate([p.offset for p in parts] or [np.zeros(0, np.int64)]),
        np.concatenate([p.size for p in parts] or [np.zeros(0, np.int64)]),
        np.concatenate([p.id for p in parts] or [np.zeros(0, np.uint16)]),
        np.concatenate([p.operand for p in parts] or [np.zeros(0, np.uint32)]),
    )


def _stretch(engine: capstone.Cs, data: U8, first: int, last: int) -> list[_Sweep]:
    parts = []
    at = first
    while at < last:
        ahead = min(at + CHUNK_BYTES + _LONGEST, last)
        part = _disassemble(engine, data, at, ahead)
        if ahead < last:
            part = part.where(part.offset < at + CHUNK_BYTES)
        if not len(part.offset):  # skipdata always yields: our own mistake
            raise InfraError(f"capstone decoded nothing at offset {at:#x}")
        at = int(part.offset[-1] + part.size[-1])
        parts.append(part)
    return parts


def _disassemble(engine: capstone.Cs, data: U8, first: int, last: int) -> _Sweep:
    result = ctypes.POINTER(_STRUCT)()
    count = capstone._cs.cs_disasm(
        engine.csh,
        ctypes.cast(data.ctypes.data + first, ctypes.c_char_p),
        last - first,
        first,
        0,
        ctypes.byref(result),
    )
    if not count:
        empty = np.zeros(0, np.int64)
        return _Sweep(empty, empty, empty.astype(np.uint16), empty.astype(np.uint32))
    try:
        size = count * _VIEW.itemsize
        raw = (ctypes.c_char * size).from_address(ctypes.addressof(result.contents))
        rows = np.frombuffer(raw, _VIEW, count)
        return _Sweep(
            rows["address"].astype(np.int64),
            rows["size"].astype(np.int64),
            rows["id"].astype(np.uint16),
            rows["operand"].copy(),
        )
    finally:
        capstone._cs.cs_free(result, count)


def _repair(data: U8, sweep: _Sweep, known: I64) -> _Sweep:
    """Resynchronise ``sweep`` at ``known`` offsets and after gaps, until none is left."""
    padded = np.concatenate([data, np.full(_WINDOW + _LONGEST, 0x90, np.uint8)])
    for _ in range(_ROUNDS):
        sweep, after = _measure_gaps(data, sweep)
        wanted = np.union1d(known, after)
        wanted = wanted[wanted < len(data)]
        lost = wanted[~_member(wanted, sweep.offset)]
        # a start inside skipped fill needs no instruction there
        lost = lost[~_in_fill(lost, sweep, data)]
        if not len(lost):
            return sweep
        sweep, reached = _splice(sweep, *_windows(padded, lost, len(data)))
        known = np.union1d(known, reached)
    return sweep


def _member(wanted: I64, have: I64) -> npt.NDArray[np.bool_]:
    if not len(have):
        return np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    return np.asarray(have[at] == wanted)


def _in_fill(lost: I64, sweep: _Sweep, data: U8) -> npt.NDArray[np.bool_]:
    if not len(sweep.offset):
        return np.ones(len(lost), bool)
    at = np.maximum(np.searchsorted(sweep.offset, lost, side="right") - 1, 0)
    outside = lost >= sweep.offset[at] + sweep.size[at]
    return np.asarray(outside & np.isin(data[lost], FILL))


_GAP = np.zeros(1 << 16, bool)
_GAP[[0, x86.X86_INS_UD0, x86.X86_INS_UD1, x86.X86_INS_UD2]] = True
KNOWN_GAP = 0xFFFF  # the id of a row whose length we found ourselves


def _measure_gaps(data: U8, sweep: _Sweep) -> tuple[_Sweep, I64]:
    """Give each gap its true length; return also the offsets where they end."""
    rows = np.flatnonzero(_GAP[sweep.id])
    size, ids = sweep.size.copy(), sweep.id.copy()
    inside = np.zeros(len(size), bool)
    after = []
    for row in rows.tolist():
        offset = int(sweep.offset[row])
        code = data[offset : offset + _LONGEST].tobytes()
        if sweep.id[row] == x86.X86_INS_UD2 and not code.startswith(XEN_PREFIX):
            continue
        length = gap_length(code)
        if length and length <= len(code) and not inside[row]:
            size[row], ids[row] = length, KNOWN_GAP
            after.append(offset + length)
            behind = np.searchsorted(sweep.offset, offset + length)
            inside[row + 1 : behind] = True
    if not after:
        return sweep, np.zeros(0, np.int64)
    measured = _Sweep(sweep.offset, size, ids, sweep.operand).where(~inside)
    return measured, np.unique(np.array(after, np.int64))


def _windows(padded: U8, lost: I64, length: int) -> tuple[_Sweep, I64]:
    """Decode a window at each of ``lost``, all in one go; return rows and windows."""
    stride = _WINDOW + _LONGEST
    cells = np.full((len(lost), stride), 0x90, np.uint8)
    cells[:, :_WINDOW] = padded[lost[:, None] + np.arange(_WINDOW)]
    engine = _engine()
    engine.skipdata = True
    flat = cells.reshape(-1)
    parts = _stretch(engine, flat, 0, len(flat))
    offset = np.concatenate([p.offset for p in parts])
    size = np.concatenate([p.size for p in parts])
    window, within = np.divmod(offset, stride)
    keep = (within + size <= _WINDOW) & (lost[window] + within < length)
    rows = _Sweep(
        (lost[window] + within)[keep],
        size[keep],
        np.concatenate([p.id for p in parts])[keep],
        np.concatenate([p.operand for p in parts])[keep],
    )
    return rows, window[keep]


def _splice(sweep: _Sweep, fresh: _Sweep, window: I64) -> tuple[_Sweep, I64]:
    """Put ``fresh`` rows in place of what they contradict, up to where both agree.

    Returns also the offsets at which a window ended before it agreed.
    """
    agrees = _member(fresh.offset, sweep.offset)
    count = int(window.max()) + 1 if len(window) else 0
    # rows of a window before its first row that the sweep has too
    first_agree = np.full(count, len(fresh.offset), np.int64)
    rows = np.arange(len(fresh.offset), dtype=np.int64)
    np.minimum.at(first_agree, window[agrees], rows[agrees])
    keep = rows < first_agree[window]
    begin = np.full(count, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(begin, window, fresh.offset)
    end = np.zeros(count, np.int64)
    np.maximum.at(end, window[keep], (fresh.offset + fresh.size)[keep])
    used = end > 0
    begin, end = begin[used], end[used]
    reach = np.maximum.accumulate(end)
    at = np.searchsorted(begin, sweep.offset, side="right") - 1
    killed = (at >= 0) & (sweep.offset < reach[np.maximum(at, 0)])
    old = sweep.where(~killed)
    new = fresh.where(keep)
    offset = np.concatenate([old.offset, new.offset])
    order = np.unique(offset, return_index=True)[1]
    merged = _Sweep(
        offset,
        np.concatenate([old.size, new.size]),
        np.concatenate([old.id, new.id]),
        np.concatenate([old.operand, new.operand]),
    ).where(order)
    return _clip(merged), np.unique(end)


def _clip(sweep: _Sweep) -> _Sweep:
    """Make no row reach over the next: what was cut short is no instruction."""
    size, ids = sweep.size.copy(), sweep.id.copy()
    over = np.flatnonzero(sweep.offset[:-1] + size[:-1] > sweep.offset[1:])
    size[over] = sweep.offset[over + 1] - sweep.offset[over]
    ids[over] = CUT
    return _Sweep(sweep.offset, size, ids, sweep.operand)


CUT = 0xFFFE  # the id of a row that ran into the start of a function


def _columns(data: U8, address: int, sweep: _Sweep) -> Insns:
    padded = np.concatenate([data, np.zeros(CODE_BYTES, np.uint8)])
    cells = np.lib.stride_tricks.sliding_window_view(padded, CODE_BYTES)
    code = cells[sweep.offset]
    start = sweep.offset.astype(np.uint64) + np.uint64(address)
    kind, target = classify(_IDS, sweep.id, sweep.size, sweep.operand, code, start)
    return Insns(start, sweep.size.astype(np.uint8), kind, target, code)
