"""Opcode: DW_CFA_*, and what operands each has."""

from __future__ import annotations

import enum

import numpy as np


class Op(enum.IntEnum):
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


# How many LEB128 numbers follow, and whether the last one is a block's length.
_LEBS: dict[int, tuple[int, bool]] = {
    Op.OFFSET_EXTENDED: (2, False),
    Op.RESTORE_EXTENDED: (1, False),
    Op.UNDEFINED: (1, False),
    Op.SAME_VALUE: (1, False),
    Op.REGISTER: (2, False),
    Op.DEF_CFA: (2, False),
    Op.DEF_CFA_REGISTER: (1, False),
    Op.DEF_CFA_OFFSET: (1, False),
    Op.DEF_CFA_EXPRESSION: (1, True),
    Op.EXPRESSION: (2, True),
    Op.OFFSET_EXTENDED_SF: (2, False),
    Op.DEF_CFA_SF: (2, False),
    Op.DEF_CFA_OFFSET_SF: (1, False),
    Op.VAL_OFFSET: (2, False),
    Op.VAL_OFFSET_SF: (2, False),
    Op.VAL_EXPRESSION: (2, True),
    Op.GNU_ARGS_SIZE: (1, False),
    Op.OFFSET: (1, False),
}
_FIXED = {Op.SET_LOC: 8, Op.ADVANCE1: 1, Op.ADVANCE2: 2, Op.ADVANCE4: 4}

# By the byte that an operation begins with: LEB128 numbers, whether a block follows the
# last one, bytes of a fixed operand, and whether it is one.
LEB_COUNT = np.zeros(256, np.int64)
BLOCK = np.zeros(256, bool)
FIXED_SIZE = np.zeros(256, np.int64)
KNOWN = np.zeros(256, bool)
_NUMBERS = frozenset(int(_op) for _op in Op)
for _code in range(256):
    _name = _code & 0xC0 or _code
    LEB_COUNT[_code], BLOCK[_code] = _LEBS.get(_name, (0, False))
    FIXED_SIZE[_code] = _FIXED.get(_name, 0)  # type: ignore[call-overload]
    KNOWN[_code] = _name in _NUMBERS
