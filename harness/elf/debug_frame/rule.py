"""Rule: what each operation says of CFA and %rbp, and what that comes to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.debug_frame.entry import Cie, Fdes
from harness.elf.debug_frame.opcode import Op
from harness.elf.debug_frame.operation import Ops
from harness.elf.debug_frame.rows import (
    I64,
    NO_REGISTER,
    RBP,
    SAME,
    U64,
    UNTOLD,
    FrameRows,
)
from harness.errors import FormatError


def rows_of(fdes: Fdes, cies: list[Cie], ops: Ops) -> FrameRows:
    """Give each place between advances its rules."""
    count = len(fdes.start)
    begin = np.arange(count)
    fde = np.concatenate([begin, ops.fde])
    order = np.argsort(fde, kind="stable")  # each FDE's START in front of its own

    def column(start: I64, rest: I64) -> I64:
        return np.concatenate([start, rest])[order]

    zero = np.zeros(count, np.int64)
    code = column(zero + Op.START, ops.code)
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


_ADVANCES = (Op.ADVANCE, Op.ADVANCE1, Op.ADVANCE2, Op.ADVANCE4, Op.SET_LOC)
_Rule = tuple[npt.NDArray[np.bool_], I64]  # which instructions set it, and to what


def _locations(
    fdes: Fdes, fde: I64, code: I64, low: I64, first: I64, align: I64
) -> U64:
    if (code == Op.SET_LOC).any():
        raise FormatError(
            ".debug_frame: DW_CFA_set_loc, which no compiler of kernels uses"
        )
    step = np.where(code == Op.ADVANCE, low, 0)
    fixed = np.isin(code, _ADVANCES[1:4])
    step[fixed] = first[fixed]
    moved = np.cumsum(step * align)
    head = np.flatnonzero(code == Op.START)
    within = moved - np.repeat(moved[head], np.diff(np.append(head, len(fde))))
    return fdes.start[fde] + within.astype(np.uint64)


def _registers(code: I64, first: I64, cie: I64) -> _Rule:
    value = np.where(
        np.isin(code, (Op.DEF_CFA, Op.DEF_CFA_SF, Op.DEF_CFA_REGISTER)), first, 0
    )
    value[code == Op.START] = cie[code == Op.START, 2]
    value[code == Op.DEF_CFA_EXPRESSION] = NO_REGISTER
    sets = np.isin(
        code,
        (
            Op.START,
            Op.DEF_CFA,
            Op.DEF_CFA_SF,
            Op.DEF_CFA_REGISTER,
            Op.DEF_CFA_EXPRESSION,
        ),
    )
    return sets, value


def _offsets(code: I64, first: I64, second: I64, signed: I64, cie: I64) -> _Rule:
    value = np.zeros(len(code), np.int64)
    sets = np.zeros(len(code), bool)
    for op, column in (
        (Op.START, cie[:, 3]),
        (Op.DEF_CFA, second),
        (Op.DEF_CFA_OFFSET, first),
        (Op.DEF_CFA_SF, signed * cie[:, 1]),
        (Op.DEF_CFA_OFFSET_SF, signed * cie[:, 1]),
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
        (Op.START, None, cie[:, 4]),
        (Op.OFFSET, low, first * align),
        (Op.OFFSET_EXTENDED, first, second * align),
        (Op.OFFSET_EXTENDED_SF, first, signed * align),
        (Op.RESTORE, low, cie[:, 4]),
        (Op.RESTORE_EXTENDED, first, cie[:, 4]),
        (Op.SAME_VALUE, first, np.full(len(code), SAME)),
        (Op.UNDEFINED, first, np.full(len(code), UNTOLD)),
        (Op.REGISTER, first, np.full(len(code), UNTOLD)),
        (Op.EXPRESSION, first, np.full(len(code), UNTOLD)),
        (Op.VAL_EXPRESSION, first, np.full(len(code), UNTOLD)),
        (Op.VAL_OFFSET, first, np.full(len(code), UNTOLD)),
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
    rows = np.flatnonzero((code == Op.REMEMBER) | (code == Op.RESTORE_STATE))
    keeps = (code[rows] == Op.REMEMBER).tolist()
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
