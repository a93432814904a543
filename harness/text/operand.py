"""Operand: the fields of one instruction's encoding, as far as stack checks need.

Source: Intel SDM volume 2, chapter 2 (instruction format).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

SP, BP = 4, 5  # register numbers in encodings
_LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_REPEAT = frozenset(b"\xf2\xf3")
_ELSEWHERE = frozenset(b"\x64\x65\x67")


class Encoding(NamedTuple):
    """Prefixes, opcode and ModRM of an instruction; a tuple, for there are many.

    Attributes:
        opcode: one byte, 0x0fXX, 0x0f38XX or 0x0f3aXX.
        rex: the REX prefix, or 0.
        narrow: it has an operand size prefix (66).
        mod: ModRM's mod field; 3 is a register operand.
        reg: ModRM's reg field with REX.R.
        base: register of the r/m operand: itself, or the base of its address; -1
            where there is none (RIP-relative, absolute).
        indexed: the address has an index register.
        displacement: of the address, in bytes.
        immediate: offset of the first byte behind ModRM, SIB and displacement.
        repeat: the last f2 or f3 prefix, or 0.
        elsewhere: the address is counted from fs or gs, or is cut to 32 bits.
    """

    opcode: int
    rex: int
    narrow: bool
    mod: int = 0
    reg: int = 0
    base: int = -1
    indexed: bool = False
    displacement: int = 0
    immediate: int = 0
    repeat: int = 0
    elsewhere: bool = False

    @property
    def wide(self) -> bool:
        """Whether it has REX.W."""
        return bool(self.rex & 8)


@functools.lru_cache(1 << 14)  # the same few instructions are asked about
def parse_encoding(code: bytes) -> Encoding:
    """Return the fields of ``code``, which must be one legacy-encoded instruction.

    ModRM is read whether the opcode has one or not: the caller knows which do.
    """
    at = 0
    while at < len(code) and code[at] in _LEGACY:
        at += 1
    prefixes = code[:at]
    rex = code[at] if at < len(code) and code[at] & 0xF0 == 0x40 else 0
    narrow = 0x66 in prefixes
    repeat, elsewhere = 0, False
    for byte in prefixes:
        repeat = byte if byte in _REPEAT else repeat
        elsewhere |= byte in _ELSEWHERE
    at += rex != 0
    if at >= len(code):
        return Encoding(0, rex, narrow, repeat=repeat, elsewhere=elsewhere)
    opcode, at = _opcode(code, at)
    if at >= len(code):
        fields = Encoding(opcode, rex, narrow, immediate=at)
    else:
        fields = _modrm(code, at, opcode, rex, narrow)
    if repeat or elsewhere:
        return fields._replace(repeat=repeat, elsewhere=elsewhere)
    return fields


def _opcode(code: bytes, at: int) -> tuple[int, int]:
    """Return the opcode at ``at``, and the offset behind it."""
    opcode = code[at]
    if opcode != 0x0F or at + 1 >= len(code):
        return opcode, at + 1
    opcode = 0x0F00 | code[at + 1]
    if opcode not in (0x0F38, 0x0F3A) or at + 2 >= len(code):
        return opcode, at + 2
    return opcode << 8 | code[at + 2], at + 3


def _modrm(code: bytes, at: int, opcode: int, rex: int, narrow: bool) -> Encoding:
    mod, base = code[at] >> 6, code[at] & 7
    reg = code[at] >> 3 & 7 | (rex & 4) << 1
    after = at + 1
    indexed = False
    none = mod == 0 and base == 5
    if mod != 3 and base == 4 and after < len(code):
        sib = code[after]
        after += 1
        base = sib & 7
        indexed = (sib >> 3 & 7 | (rex & 2) << 2) != 4
        none = mod == 0 and base == 5
    size = 4 if none or mod == 2 else 1 if mod == 1 else 0
    displacement = int.from_bytes(code[after : after + size], "little", signed=True)
    number = -1 if none else base | (rex & 1) << 3
    return Encoding(
        opcode, rex, narrow, mod, reg, number, indexed, displacement, after + size
    )


def has_modrm(opcode: int) -> bool:
    """Whether a legacy opcode (one byte, or 0x0fXX) has a ModRM byte.

    Source: Intel SDM volume 2, appendix A, tables A-2 and A-3.
    """
    low = opcode & 0xFF
    if opcode > 0xFF:
        return low not in _TWO_BYTE_PLAIN
    if low < 0x40:
        return low & 7 < 4
    return 0x80 <= low <= 0x8F or low in _ONE_BYTE_MODRM


_ONE_BYTE_MODRM = frozenset(
    b"\x63\x69\x6b\xc0\xc1\xc6\xc7\xd0\xd1\xd2\xd3\xf6\xf7\xfe\xff"
) | frozenset(range(0xD8, 0xE0))
_TWO_BYTE_PLAIN = (
    frozenset(b"\x05\x06\x07\x08\x09\x0b\x0e\x77\xa0\xa1\xa2\xa8\xa9\xaa")
    | frozenset(range(0x30, 0x38))
    | frozenset(range(0x80, 0x90))
    | frozenset(range(0xC8, 0xD0))
)
