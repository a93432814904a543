"""Entry: the FDEs of .debug_frame, one per function, and the CIEs they share."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from harness.elf.debug_frame.opcode import Op
from harness.elf.debug_frame.rows import I64, NO_REGISTER, SAME, U64
from harness.elf.file import Bytes
from harness.errors import FormatError

CIE_ID = 0xFFFF_FFFF


class Cie(Struct, frozen=True):
    """What the functions of one object share: alignments, and the rules at entry."""

    code_align: int
    data_align: int
    register: int
    offset: int
    rbp: int


class Fdes(Struct, frozen=True):
    """One function per row: its code, and the program that tells of its frame."""

    start: U64
    size: U64
    first: I64  # offset of the program
    last: I64
    cie: I64  # index into the list


def entries(data: Bytes) -> tuple[Fdes, list[Cie]]:
    """Read the entries of ``data``.

    Raises:
        FormatError: one makes no sense.
    """
    whole = data.tobytes()
    cies: list[Cie] = []
    known: dict[int, int] = {}
    columns: list[tuple[int, int, int, int, int]] = []
    for at, end in _lengths(whole):
        (pointer,) = struct.unpack_from("<I", whole, at)
        if pointer == CIE_ID:
            known[at - 4] = len(cies)
            cies.append(_cie(whole, at + 4, end))
            continue
        if pointer not in known or at + 20 > end:
            raise FormatError(f".debug_frame: the entry at {at - 4:#x} has no CIE")
        start, size = struct.unpack_from("<QQ", whole, at + 4)
        columns.append((start, size, at + 20, end, known[pointer]))
    start, size, first, last, cie = zip(*columns, strict=True) if columns else ((),) * 5
    return (
        Fdes(
            np.array(start, np.uint64),
            np.array(size, np.uint64),
            np.array(first, np.int64),
            np.array(last, np.int64),
            np.array(cie, np.int64),
        ),
        cies,
    )


def _lengths(whole: bytes) -> Iterator[tuple[int, int]]:
    """Yield the place behind the length of each entry, and its end."""
    at = 0
    while at + 8 <= len(whole):
        (length,) = struct.unpack_from("<I", whole, at)
        end = at + 4 + length
        if length >= 0xFFFF_FFF0 or end > len(whole) or length < 4:
            raise FormatError(f".debug_frame: {length:#x} bytes long entry at {at:#x}")
        yield at + 4, end
        at = end


def _cie(whole: bytes, at: int, end: int) -> Cie:
    version, zero = whole[at], whole.find(b"\0", at + 1, end)
    if version not in (1, 3, 4) or zero != at + 1:
        raise FormatError(
            f".debug_frame: CIE of version {version}, augmentation "
            f"{whole[at + 1 : zero]!r}, expected 1, 3 or 4 and none"
        )
    at = zero + 1 + (2 if version == 4 else 0)
    code_align, at = _uleb(whole, at)
    data_align, at = _sleb(whole, at)
    at = at + 1 if version == 1 else _uleb(whole, at)[1]
    register, offset = NO_REGISTER, 0
    while at < end:
        op = whole[at]
        at += 1
        if op == Op.DEF_CFA:
            register, at = _uleb(whole, at)
            offset, at = _uleb(whole, at)
        elif op == Op.DEF_CFA_OFFSET:
            offset, at = _uleb(whole, at)
        elif op & 0xC0 == Op.OFFSET:  # of the return address, which never moves
            _, at = _uleb(whole, at)
        elif op != Op.NOP:
            raise FormatError(f".debug_frame: {op:#x} in a CIE")
    return Cie(code_align, data_align, register, offset, SAME)


def _uleb(whole: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = whole[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _sleb(whole: bytes, at: int) -> tuple[int, int]:
    value, after = _uleb(whole, at)
    bits = 7 * (after - at)
    return value - (1 << bits if whole[after - 1] & 0x40 else 0), after
