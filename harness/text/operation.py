"""Operation: what an instruction does, whatever its operands are, as one number.

Prefix, opcode, and ModRM where it is part of the opcode; registers, addresses and
immediates are left out. Numbers are equal exactly where mnemonics are, near enough:
they compare patterns of texts and nothing is printed of them.
Source: Intel SDM volume 2, chapter 2 and appendix A.
"""

from __future__ import annotations

import numpy as np

from harness.text.insn import I64, U8

_PREFIXES = 5  # the most that kernel code has
_SEGMENTS = np.isin(np.arange(256), list(b"\x26\x2e\x36\x3e\x64\x65\x67\xf0"))
_SIZES = np.isin(np.arange(256), list(b"\x66\xf2\xf3"))

# Opcodes whose ModRM.reg belongs to the opcode (groups 1 to 17), by map.
_GROUPS = np.zeros((4, 256), bool)
_GROUPS[0, [0x80, 0x81, 0x83, 0x8F, 0xC0, 0xC1, 0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3]] = 1
_GROUPS[0, [0xF6, 0xF7, 0xFE, 0xFF]] = 1
_GROUPS[1, [0x00, 0x01, 0x0D, 0x18, 0x71, 0x72, 0x73, 0xAE, 0xBA, 0xC7]] = 1
# Those of them where a register operand makes ModRM a third opcode byte.
_WHOLE = np.zeros((4, 256), bool)
_WHOLE[1, [0x01]] = 1
# A register in the opcode's low bits: push, pop, xchg, mov; bswap.
_SHORT = np.zeros((4, 256), bool)
_SHORT[0, 0x50:0x60] = _SHORT[0, 0x91:0x98] = _SHORT[0, 0xB0:0xC0] = 1
_SHORT[1, 0xC8:0xD0] = 1


def operation(code: U8) -> I64:
    """Return i64[n] for the instructions that start at each row of ``code`` u8[n, 16].

    Equal numbers are equal operations.
    """
    rows = np.arange(len(code))
    at = np.zeros(len(code), np.int64)
    prefix = np.zeros(len(code), np.int64)
    inside = np.ones(len(code), bool)
    for _ in range(_PREFIXES):
        byte = code[rows, at]
        size = inside & _SIZES[byte]
        prefix |= np.where(size, 1 << (byte.astype(np.int64) & 3), 0)
        inside = size | (inside & _SEGMENTS[byte])
        at += inside
    rex = code[rows, at] & 0xF0 == 0x40
    at += rex
    escape = code[rows, at] == 0x0F
    at += escape
    wider = escape & np.isin(code[rows, at], (0x38, 0x3A))
    number = np.where(wider, (code[rows, at] == 0x3A) + 2, escape).astype(np.int64)
    at += wider
    opcode = code[rows, at].astype(np.int64)
    modrm = code[rows, np.minimum(at + 1, code.shape[1] - 1)].astype(np.int64)
    group = _GROUPS[number, opcode]
    register = modrm >= 0xC0
    whole = _WHOLE[number, opcode] & register
    # lfence and xrstor differ in nothing else
    reg = (modrm >> 3 & 7) | (register & (number == 1)) << 3
    extra = np.where(whole, modrm, np.where(group, reg, 0))
    opcode = np.where(_SHORT[number, opcode], opcode & 0xF8, opcode)
    return np.asarray(prefix << 24 | number << 16 | opcode << 8 | extra)


def of_codes(*codes: str) -> list[int]:
    """Return the operation of the one instruction that each of ``codes``, in hex, is."""
    joined = b"".join(bytes.fromhex(code).ljust(16, b"\0") for code in codes)
    cells = np.frombuffer(joined, np.uint8).reshape(-1, 16)
    found: list[int] = operation(cells).tolist()
    return found
