"""Relocation: an instruction whose operand counts from where it stands, moved."""

from __future__ import annotations

from harness.text.insn import Insn
from harness.text.operand import has_modrm, parse_encoding


def relocated(insn: Insn, home: int, end: int, moved: int) -> Insn:
    """Put the %rip-relative operand of ``insn`` right, unless it lies in the text."""
    encoding = parse_encoding(insn.code)
    has_address = encoding.mod == 0 and encoding.base == -1
    if insn.target or not has_address or not has_modrm(encoding.opcode):
        return insn
    at = encoding.immediate - 4
    value = int.from_bytes(insn.code[at : at + 4], "little", signed=True)
    if home <= insn.end + value <= end:
        return insn
    operand = (value - moved).to_bytes(4, "little", signed=True)
    return insn._replace(code=insn.code[:at] + operand + insn.code[at + 4 :])
