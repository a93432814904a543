"""Relocation: an instruction whose operand counts from where it stands, moved."""

from __future__ import annotations

from dataclasses import replace

from harness.text.insn import Insn
from harness.text.operand import parse_encoding

_ONE_BYTE_MODRM = frozenset(
    b"\x63\x69\x6b\xc0\xc1\xc6\xc7\xd0\xd1\xd2\xd3\xf6\xf7\xfe\xff"
) | frozenset(range(0xD8, 0xE0))
_TWO_BYTE_PLAIN = (
    frozenset(b"\x05\x06\x07\x08\x09\x0b\x0e\x77\xa0\xa1\xa2\xa8\xa9\xaa")
    | frozenset(range(0x30, 0x38))
    | frozenset(range(0x80, 0x90))
    | frozenset(range(0xC8, 0xD0))
)


def relocated(insn: Insn, home: int, end: int, moved: int) -> Insn:
    """Put the %rip-relative operand of ``insn`` right, unless it lies in the text."""
    encoding = parse_encoding(insn.code)
    has_address = encoding.mod == 0 and encoding.base == -1
    if insn.target or not has_address or not _has_modrm(encoding.opcode):
        return insn
    at = encoding.immediate - 4
    value = int.from_bytes(insn.code[at : at + 4], "little", signed=True)
    if home <= insn.end + value <= end:
        return insn
    operand = (value - moved).to_bytes(4, "little", signed=True)
    return replace(insn, code=insn.code[:at] + operand + insn.code[at + 4 :])


def _has_modrm(opcode: int) -> bool:
    """Whether a legacy opcode (one byte, or 0x0fXX) has a ModRM byte.

    Source: Intel SDM volume 2, appendix A, tables A-2 and A-3.
    """
    low = opcode & 0xFF
    if opcode > 0xFF:
        return low not in _TWO_BYTE_PLAIN
    if low < 0x40:
        return low & 7 < 4
    return 0x80 <= low <= 0x8F or low in _ONE_BYTE_MODRM
