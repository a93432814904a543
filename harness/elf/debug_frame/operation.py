"""Operation: the instructions of all FDEs' programs, as columns."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.debug_frame.entry import Fdes
from harness.elf.debug_frame.opcode import BLOCK, FIXED_SIZE, KNOWN, LEB_COUNT
from harness.elf.debug_frame.rows import I64
from harness.elf.file import Bytes
from harness.errors import FormatError


class Ops(Struct, frozen=True):
    """Instructions in the order of FDEs and of each program."""

    fde: I64
    code: I64  # Op
    low: I64  # the low six bits, where the opcode has two
    first: I64  # first operand, as ULEB128 or fixed
    second: I64
    signed: I64  # the last LEB operand, read as SLEB128


def operations(data: Bytes, fdes: Fdes) -> Ops:
    """Decode all programs, one instruction of each at a time."""
    padded = np.concatenate([data, np.zeros(32, np.uint8)])
    columns: list[tuple[I64, ...]] = []
    fde = np.arange(len(fdes.first))
    at = fdes.first.copy()
    steps = 0
    while len(fde):
        live = at < fdes.last[fde]
        fde, at = fde[live], at[live]
        decoded, at = _decode(padded, at)
        columns.append((fde, np.full(len(fde), steps), *decoded))
        steps += 1
    fde, step, *operands = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    order = np.lexsort((step, fde))
    code, low, first, second, signed = (operand[order] for operand in operands)
    return Ops(fde[order], code, low, first, second, signed)


def _decode(data: Bytes, at: I64) -> tuple[tuple[I64, I64, I64, I64, I64], I64]:
    """Decode the instruction at each of ``at``; return columns and what is behind."""
    byte = data[at]
    if not KNOWN[byte].all():
        bad = int(at[np.flatnonzero(~KNOWN[byte])[0]])
        raise FormatError(
            f".debug_frame: unknown instruction {data[bad]:#x} at {bad:#x}"
        )
    high = (byte & 0xC0).astype(np.int64)
    code = np.where(high > 0, high, byte)
    low = np.where(high > 0, byte & 0x3F, 0).astype(np.int64)
    after = at + 1
    first, second, signed = (np.zeros(len(at), np.int64) for _ in range(3))
    for size in (1, 2, 4, 8):
        rows = np.flatnonzero(FIXED_SIZE[byte] == size)
        if len(rows):
            cells = data[after[rows, None] + np.arange(size)]
            first[rows] = np.ascontiguousarray(cells).view(f"<u{size}").reshape(-1)
            after[rows] += size
    for number, into in ((1, first), (2, second)):
        rows = np.flatnonzero(LEB_COUNT[byte] >= number)
        if len(rows):
            into[rows], signed[rows], after[rows] = _lebs(data, after[rows])
    block = np.flatnonzero(BLOCK[byte])
    after[block] += np.where(LEB_COUNT[byte[block]] == 2, second[block], first[block])
    return (code, low, first, second, signed), after


def _lebs(data: Bytes, at: I64) -> tuple[I64, I64, I64]:
    """Return the LEB128 at each of ``at``, unsigned and signed, and what is behind."""
    value = np.zeros(len(at), np.int64)
    signed = np.zeros(len(at), np.int64)
    going = np.arange(len(at))
    after = at.copy()
    for shift in range(0, 63, 7):
        byte = data[after[going]].astype(np.int64)
        after[going] += 1
        value[going] |= (byte & 0x7F) << shift
        ends = byte < 0x80
        done = going[ends]
        minus = (byte[ends] & 0x40) != 0
        signed[done] = value[done] - np.where(minus, 1 << shift + 7, 0)
        going = going[~ends]
        if not len(going):
            return value, signed, after
    raise FormatError(".debug_frame: a number of more than nine bytes")
