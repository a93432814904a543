"""Operand: the fields of one instruction's encoding, as far as stack checks need.

Source: Intel SDM volume 2, chapter 2 (instruction format).
"""

from __future__ import annotations

from dataclasses import dataclass

SP, BP = 4, 5  # register numbers in encodings
_LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


@dataclass(frozen=True, slots=True)
class Encoding:
    """Prefixes, opcode and ModRM of an instruction.

    Attributes:
        opcode: one byte, or 0x0fXX.
        rex: the REX prefix, or 0.
        narrow: it has an operand size prefix (66).
        mod: ModRM's mod field; 3 is a register operand.
        reg: ModRM's reg field with REX.R.
        base: register of the r/m operand: itself, or the base of its address; -1
            where there is none (RIP-relative, absolute).
        indexed: the address has an index register.
        displacement: of the address, in bytes.
        immediate: offset of the first byte behind ModRM, SIB and displacement.
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

    @property
    def wide(self) -> bool:
        """Whether it has REX.W."""
        return bool(self.rex & 8)


def parse_encoding(code: bytes) -> Encoding:
    """Return the fields of ``code``, which must be one legacy-encoded instruction.

    ModRM is read whether the opcode has one or not: the caller knows which do.
    """
    at, rex, narrow = 0, 0, False
    while at < len(code) and code[at] in _LEGACY:
        narrow |= code[at] == 0x66
        at += 1
    if at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    if at >= len(code):
        return Encoding(0, rex, narrow)
    opcode = code[at]
    if opcode == 0x0F and at + 1 < len(code):
        at += 1
        opcode = 0x0F00 | code[at]
    at += 1
    if at >= len(code):
        return Encoding(opcode, rex, narrow, immediate=at)
    return _modrm(code, at, opcode, rex, narrow)


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
