"""Debug_frame: what the compiler says about its own frames, as columns of rows.

``.debug_frame`` (DWARF 5, section 6.4) has an FDE per function, which points to a CIE
with the initial rules. An FDE is a program: it advances through the code and changes
rules as it goes. All programs are run together: their instructions are found in
lockstep, and each rule is the one that was last set.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.elf.file import (
    ET_REL,
    SHF_COMPRESSED,
    Bytes,
    ElfFile,
    parse_elf,
    read_file,
)
from harness.errors import FormatError

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

RBP, RSP = 6, 7  # DWARF's numbers
NO_REGISTER = 255  # the CFA is an expression, or nothing is known
SAME = 1  # %rbp is unchanged; any other rule value is an offset from the CFA
UNTOLD = 2  # %rbp is told by an expression or by another register
CIE_ID = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class FrameRows:
    """Rows by address; each holds up to the next one.

    Attributes:
        address: u64[n].
        cfa_register: u8[n], DWARF's number, or NO_REGISTER.
        cfa_offset: i64[n], bytes from it to the CFA.
        rbp: i64[n], offset from the CFA at which the caller's %rbp is; SAME, UNTOLD.
        covered: bool[n], false behind a function's end.
    """

    address: U64
    cfa_register: npt.NDArray[np.uint8]
    cfa_offset: I64
    rbp: I64
    covered: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.address)


def read_debug_frame(path: Path) -> FrameRows | None:
    """Read the linked file ``path``; None if it has no .debug_frame.

    Raises:
        FormatError: it is damaged.
    """
    elf = parse_elf(read_file(path), path.name)
    if elf.type == ET_REL or ".debug_frame" not in elf.names:
        return None
    return parse_debug_frame(_contents(elf, elf.names.index(".debug_frame")))


def _contents(elf: ElfFile, index: int) -> Bytes:
    data = elf.contents(index)
    if not int(elf.headers[index]["flags"]) & SHF_COMPRESSED:
        return data
    kind, _, size, _ = struct.unpack_from("<IIQQ", data[:24].tobytes())
    if kind != 1:  # ELFCOMPRESS_ZLIB
        raise FormatError(f"{elf.name}: .debug_frame has compression {kind}")
    try:
        unpacked = zlib.decompress(data[24:].tobytes(), bufsize=size)
    except zlib.error as exc:
        raise FormatError(f"{elf.name}: damaged .debug_frame: {exc}") from exc
    return np.frombuffer(unpacked, np.uint8)


class _Op(enum.IntEnum):
    """DW_CFA_* whose operands are in the low bits too get the high two bits' number."""

    NOP = 0x00
    SET_LOC = 0x01
    ADVANCE1 = 0x02
    ADVANCE2 = 0x03
    ADVANCE4 = 0x04
    OFFSET_EXTENDED = 0x05
    RESTORE_EXTENDED = 0x06
    UNDEFINED = 0x07
    SAME_VALUE = 0x08
    REGISTER = 0x09
    REMEMBER = 0x0A
    RESTORE_STATE = 0x0B
    DEF_CFA = 0x0C
    DEF_CFA_REGISTER = 0x0D
    DEF_CFA_OFFSET = 0x0E
    DEF_CFA_EXPRESSION = 0x0F
    EXPRESSION = 0x10
    OFFSET_EXTENDED_SF = 0x11
    DEF_CFA_SF = 0x12
    DEF_CFA_OFFSET_SF = 0x13
    VAL_OFFSET = 0x14
    VAL_OFFSET_SF = 0x15
    VAL_EXPRESSION = 0x16
    GNU_ARGS_SIZE = 0x2E
    ADVANCE = 0x40
    OFFSET = 0x80
    RESTORE = 0xC0
    START = 0x100  # ours: the rules of the CIE, at the beginning of an FDE


@dataclass(frozen=True, slots=True)
class _Cie:
    code_align: int
    data_align: int
    register: int
    offset: int
    rbp: int


@dataclass(frozen=True, slots=True)
class _Fdes:
    start: U64
    size: U64
    first: I64  # offset of the program
    last: I64
    cie: I64  # index into the list


def parse_debug_frame(data: Bytes) -> FrameRows:
    """Run the programs of ``data``, which is a whole section.

    Raises:
        FormatError: an entry or an instruction makes no sense.
    """
    fdes, cies = _entries(data)
    ops = _instructions(data, fdes)
    return _rows(fdes, cies, ops)


def _entries(data: Bytes) -> tuple[_Fdes, list[_Cie]]:
    whole = data.tobytes()
    cies: list[_Cie] = []
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
        _Fdes(
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


def _cie(whole: bytes, at: int, end: int) -> _Cie:
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
        if op == _Op.DEF_CFA:
            register, at = _uleb(whole, at)
            offset, at = _uleb(whole, at)
        elif op == _Op.DEF_CFA_OFFSET:
            offset, at = _uleb(whole, at)
        elif op & 0xC0 == _Op.OFFSET:  # of the return address, which never moves
            _, at = _uleb(whole, at)
        elif op != _Op.NOP:
            raise FormatError(f".debug_frame: {op:#x} in a CIE")
    return _Cie(code_align, data_align, register, offset, SAME)


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


# How many LEB128 numbers follow; a block follows where -1 is at the end.
_LEBS: dict[int, tuple[int, bool]] = {
    _Op.OFFSET_EXTENDED: (2, False),
    _Op.RESTORE_EXTENDED: (1, False),
    _Op.UNDEFINED: (1, False),
    _Op.SAME_VALUE: (1, False),
    _Op.REGISTER: (2, False),
    _Op.DEF_CFA: (2, False),
    _Op.DEF_CFA_REGISTER: (1, False),
    _Op.DEF_CFA_OFFSET: (1, False),
    _Op.DEF_CFA_EXPRESSION: (1, True),
    _Op.EXPRESSION: (2, True),
    _Op.OFFSET_EXTENDED_SF: (2, False),
    _Op.DEF_CFA_SF: (2, False),
    _Op.DEF_CFA_OFFSET_SF: (1, False),
    _Op.VAL_OFFSET: (2, False),
    _Op.VAL_OFFSET_SF: (2, False),
    _Op.VAL_EXPRESSION: (2, True),
    _Op.GNU_ARGS_SIZE: (1, False),
    _Op.OFFSET: (1, False),
}
_FIXED = {_Op.SET_LOC: 8, _Op.ADVANCE1: 1, _Op.ADVANCE2: 2, _Op.ADVANCE4: 4}
_LEB_COUNT = np.zeros(256, np.int64)
_BLOCK = np.zeros(256, bool)
_FIXED_SIZE = np.zeros(256, np.int64)
_KNOWN = np.zeros(256, bool)
_NUMBERS = frozenset(int(_op) for _op in _Op)
for _code in range(256):
    _name = _code & 0xC0 or _code
    _LEB_COUNT[_code], _BLOCK[_code] = _LEBS.get(_name, (0, False))
    _FIXED_SIZE[_code] = _FIXED.get(_name, 0)  # type: ignore[call-overload]
    _KNOWN[_code] = _name in _NUMBERS


@dataclass(frozen=True, slots=True)
class _Ops:
    """Instructions in the order of FDEs and of each program."""

    fde: I64
    code: I64  # _Op
    low: I64  # the low six bits, where the opcode has two
    first: I64  # first operand, as ULEB128 or fixed
    second: I64
    signed: I64  # the last LEB operand, read as SLEB128


def _instructions(data: Bytes, fdes: _Fdes) -> _Ops:
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
    return _Ops(fde[order], code, low, first, second, signed)


def _decode(data: Bytes, at: I64) -> tuple[tuple[I64, I64, I64, I64, I64], I64]:
    """Decode the instruction at each of ``at``; return columns and what is behind."""
    byte = data[at]
    if not _KNOWN[byte].all():
        bad = int(at[np.flatnonzero(~_KNOWN[byte])[0]])
        raise FormatError(
            f".debug_frame: unknown instruction {data[bad]:#x} at {bad:#x}"
        )
    high = (byte & 0xC0).astype(np.int64)
    code = np.where(high > 0, high, byte)
    low = np.where(high > 0, byte & 0x3F, 0).astype(np.int64)
    after = at + 1
    first, second, signed = (np.zeros(len(at), np.int64) for _ in range(3))
    for size in (1, 2, 4, 8):
        rows = np.flatnonzero(_FIXED_SIZE[byte] == size)
        if len(rows):
            cells = data[after[rows, None] + np.arange(size)]
            first[rows] = np.ascontiguousarray(cells).view(f"<u{size}").reshape(-1)
            after[rows] += size
    for number, into in ((1, first), (2, second)):
        rows = np.flatnonzero(_LEB_COUNT[byte] >= number)
        if len(rows):
            into[rows], signed[rows], after[rows] = _lebs(data, after[rows])
    block = np.flatnonzero(_BLOCK[byte])
    after[block] += np.where(_LEB_COUNT[byte[block]] == 2, second[block], first[block])
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


def _rows(fdes: _Fdes, cies: list[_Cie], ops: _Ops) -> FrameRows:
    """Give each place between advances its rules."""
    count = len(fdes.start)
    begin = np.arange(count)
    fde = np.concatenate([begin, ops.fde])
    order = np.argsort(fde, kind="stable")  # each FDE's START in front of its own

    def column(start: I64, rest: I64) -> I64:
        return np.concatenate([start, rest])[order]

    zero = np.zeros(count, np.int64)
    code = column(zero + _Op.START, ops.code)
    low, first = column(zero, ops.low), column(zero, ops.first)
    second, signed = column(zero, ops.second), column(zero, ops.signed)
    fde = fde[order]
    table = np.array(
        [[c.code_align, c.data_align, c.register, c.offset, c.rbp] for c in cies]
    )
    cie = table.reshape(-1, 5)[fdes.cie[fde]]
    location = _locations(fdes, fde, code, low, first, cie[:, 0])
    back = _restored(fde, code)
    register = _filled(*_registers(code, first, cie), back)
    offset = _filled(*_offsets(code, first, second, signed, cie), back)
    rbp = _filled(*_rbps(code, low, first, second, signed, cie), back)
    moves = np.isin(code, _ADVANCES)
    last = np.append(moves[1:] | (fde[1:] != fde[:-1]), True)
    ends = fdes.start + fdes.size
    address = np.concatenate([location[last], ends])
    covered = np.concatenate([np.ones(int(last.sum()), bool), np.zeros(count, bool)])
    # an end goes in front of the function that begins there; empty rows lose
    by_address = np.lexsort((covered, address))
    none = np.zeros(count, np.int64)
    return FrameRows(
        address=address[by_address],
        cfa_register=np.append(register[last], none)[by_address].astype(np.uint8),
        cfa_offset=np.append(offset[last], none)[by_address],
        rbp=np.append(rbp[last], none)[by_address],
        covered=covered[by_address],
    )


_ADVANCES = (_Op.ADVANCE, _Op.ADVANCE1, _Op.ADVANCE2, _Op.ADVANCE4, _Op.SET_LOC)
_Rule = tuple[npt.NDArray[np.bool_], I64]  # which instructions set it, and to what


def _locations(
    fdes: _Fdes, fde: I64, code: I64, low: I64, first: I64, align: I64
) -> U64:
    if (code == _Op.SET_LOC).any():
        raise FormatError(
            ".debug_frame: DW_CFA_set_loc, which no compiler of kernels uses"
        )
    step = np.where(code == _Op.ADVANCE, low, 0)
    fixed = np.isin(code, _ADVANCES[1:4])
    step[fixed] = first[fixed]
    moved = np.cumsum(step * align)
    head = np.flatnonzero(code == _Op.START)
    within = moved - np.repeat(moved[head], np.diff(np.append(head, len(fde))))
    return fdes.start[fde] + within.astype(np.uint64)


def _registers(code: I64, first: I64, cie: I64) -> _Rule:
    value = np.where(
        np.isin(code, (_Op.DEF_CFA, _Op.DEF_CFA_SF, _Op.DEF_CFA_REGISTER)), first, 0
    )
    value[code == _Op.START] = cie[code == _Op.START, 2]
    value[code == _Op.DEF_CFA_EXPRESSION] = NO_REGISTER
    sets = np.isin(
        code,
        (
            _Op.START,
            _Op.DEF_CFA,
            _Op.DEF_CFA_SF,
            _Op.DEF_CFA_REGISTER,
            _Op.DEF_CFA_EXPRESSION,
        ),
    )
    return sets, value


def _offsets(code: I64, first: I64, second: I64, signed: I64, cie: I64) -> _Rule:
    value = np.zeros(len(code), np.int64)
    sets = np.zeros(len(code), bool)
    for op, column in (
        (_Op.START, cie[:, 3]),
        (_Op.DEF_CFA, second),
        (_Op.DEF_CFA_OFFSET, first),
        (_Op.DEF_CFA_SF, signed * cie[:, 1]),
        (_Op.DEF_CFA_OFFSET_SF, signed * cie[:, 1]),
    ):
        rows = code == op
        value[rows] = column[rows]
        sets |= rows
    return sets, value


def _rbps(code: I64, low: I64, first: I64, second: I64, signed: I64, cie: I64) -> _Rule:
    value = np.zeros(len(code), np.int64)
    sets = np.zeros(len(code), bool)
    align = cie[:, 1]
    for op, register, column in (
        (_Op.START, None, cie[:, 4]),
        (_Op.OFFSET, low, first * align),
        (_Op.OFFSET_EXTENDED, first, second * align),
        (_Op.OFFSET_EXTENDED_SF, first, signed * align),
        (_Op.RESTORE, low, cie[:, 4]),
        (_Op.RESTORE_EXTENDED, first, cie[:, 4]),
        (_Op.SAME_VALUE, first, np.full(len(code), SAME)),
        (_Op.UNDEFINED, first, np.full(len(code), UNTOLD)),
        (_Op.REGISTER, first, np.full(len(code), UNTOLD)),
        (_Op.EXPRESSION, first, np.full(len(code), UNTOLD)),
        (_Op.VAL_EXPRESSION, first, np.full(len(code), UNTOLD)),
        (_Op.VAL_OFFSET, first, np.full(len(code), UNTOLD)),
    ):
        rows = code == op
        if register is not None:
            rows &= register == RBP
        value[rows] = column[rows]
        sets |= rows
    return sets, value


def _restored(fde: I64, code: I64) -> I64:
    """Return for each DW_CFA_restore_state the instruction it goes back to, else -1."""
    back = np.full(len(code), -1, np.int64)
    stack: list[int] = []
    current = -1
    rows = np.flatnonzero((code == _Op.REMEMBER) | (code == _Op.RESTORE_STATE))
    keeps = (code[rows] == _Op.REMEMBER).tolist()
    for row, owner, keep in zip(rows.tolist(), fde[rows].tolist(), keeps, strict=True):
        if owner != current:
            current, stack = owner, []
        if keep:
            stack.append(row)
        elif stack:
            back[row] = stack.pop()
        else:
            raise FormatError(".debug_frame: a state is restored that was not kept")
    return back


def _filled(sets: npt.NDArray[np.bool_], value: I64, back: I64) -> I64:
    """Return the value that each instruction leaves: the one that was last set."""
    rows = np.arange(len(sets))
    source = np.maximum.accumulate(np.where(sets | (back >= 0), rows, 0))
    while True:
        restores = back[source] >= 0
        if not restores.any():
            return value[source]
        source[restores] = source[back[source[restores]]]
