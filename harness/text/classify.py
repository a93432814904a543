"""Classify: kinds and branch targets of what capstone decoded, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.text.insn import I64, U8, U64, InsnKind
from harness.text.resync import UNKNOWN, Sweep

_JCC = [
    "JA",
    "JAE",
    "JB",
    "JBE",
    "JE",
    "JG",
    "JGE",
    "JL",
    "JLE",
    "JNE",
    "JNO",
    "JNP",
    "JNS",
    "JO",
    "JP",
    "JS",
    "JCXZ",
    "JECXZ",
    "JRCXZ",
    "LOOP",
    "LOOPE",
    "LOOPNE",
    "XBEGIN",
]
_BY_NAME: Final = {
    InsnKind.NOP: ["NOP"],
    InsnKind.CALL: ["CALL", "LCALL"],
    InsnKind.JMP: ["JMP", "LJMP"],
    InsnKind.JCC: _JCC,
    InsnKind.RET: ["RET", "RETF", "RETFQ"],
    InsnKind.PUSH: ["PUSH", "PUSHAW", "PUSHAL"],
    InsnKind.POP: ["POP", "POPAW", "POPAL"],
    InsnKind.PUSHF: ["PUSHF", "PUSHFD", "PUSHFQ"],
    InsnKind.POPF: ["POPF", "POPFD", "POPFQ"],
    InsnKind.LEAVE: ["LEAVE"],
    InsnKind.STACK: ["ENTER"],
    InsnKind.TRAP: ["INT3"],
    InsnKind.UD: ["UD2"],
    InsnKind.END: [
        "IRET",
        "IRETD",
        "IRETQ",
        "SYSRET",
        "SYSRETQ",
        "SYSEXIT",
        "SYSEXITQ",
    ],
    InsnKind.ENDBR: ["ENDBR32", "ENDBR64"],
}
# Intel syntax prints the destination first; these only read their first operand.
_READERS = [
    "CMP",
    "TEST",
    "BT",
    "MUL",
    "DIV",
    "IDIV",
    "VMWRITE",
    "INVEPT",
    "INVVPID",
    "INVPCID",
    "WRFSBASE",
    "WRGSBASE",
    "LLDT",
    "LTR",
    "LMSW",
    "VERR",
    "VERW",
    "PTWRITE",
]
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3") | frozenset(
    range(0x40, 0x50)
)
_PREFIX: npt.NDArray[np.bool_] = np.isin(np.arange(256), list(_PREFIXES))
_DIRECT: npt.NDArray[np.bool_] = np.zeros(256, bool)
_DIRECT[[InsnKind.CALL, InsnKind.JMP, InsnKind.JCC]] = True
_WIDE = 5  # bytes of a 32-bit displacement and of the opcode before it
_SP, _BP = (int.from_bytes(name, "little") for name in (b"sp", b"bp"))
_DIGITS = (ord("0"), ord("9"))


class Ids:
    """capstone's instruction ids as lookup tables."""

    def __init__(self, by_name: Mapping[str, int]) -> None:
        """Build the tables from ``by_name`` (``CALL`` to its id)."""
        size = max(by_name.values()) + 1
        self.kind: U8 = np.zeros(size, np.uint8)
        for kind, names in _BY_NAME.items():
            for name in names:
                if name in by_name:
                    self.kind[by_name[name]] = kind
        # UD0 and UD1 come without their ModRM byte, what is not known as id 0
        self.kind[[0, by_name["UD0"], by_name["UD1"]]] = UNKNOWN
        self.writes: npt.NDArray[np.bool_] = self.kind == InsnKind.OTHER
        self.writes[[by_name[name] for name in _READERS if name in by_name]] = False
        self.pairs: npt.NDArray[np.bool_] = np.zeros(size, bool)
        self.pairs[[by_name["XCHG"], by_name["XADD"], by_name["IMUL"]]] = True
        self.clac = by_name["CLAC"]
        self.ud2 = by_name["UD2"]


def classify(
    ids: Ids,
    ident: npt.NDArray[np.uint16],
    operand: npt.NDArray[np.uint32],
    offset: I64,
    data: U8,
) -> U8:
    """Return the kind, u8[n], of what capstone found at ``offset`` of ``data``.

    ``operand`` holds the first four characters of the printed operands. The kind is
    UNKNOWN for what capstone does not know, or knows wrongly.
    """
    kind = ids.kind[ident]
    _stack_writers(ids, ident, operand, kind)
    _indirect(operand, kind)
    _exchanges(np.flatnonzero(ids.pairs[ident]), offset, data, kind)
    # the prefix of Xen reads as ud2, eretu and erets as clac with a prefix
    ud2 = np.flatnonzero(ident == ids.ud2)
    after = np.minimum(offset[ud2] + 2, len(data) - 1)
    kind[ud2[data[after] == ord("x")]] = UNKNOWN
    clac = np.flatnonzero(ident == ids.clac)
    kind[clac[data[offset[clac]] != 0x0F]] = UNKNOWN
    return kind


def _stack_writers(
    ids: Ids, ident: npt.NDArray[np.uint16], operand: npt.NDArray[np.uint32], kind: U8
) -> None:
    """Tell those whose first operand is a register: rsp, esp, sp, spl; rbp..."""
    first, second = operand & 0xFFFF, operand >> 8 & 0xFFFF
    # without operands only the first character is written: a zero
    writes = ids.writes[ident] & (operand & 0xFF != 0)
    kind[writes & ((second == _SP) | (first == _SP))] = InsnKind.STACK
    kind[writes & ((second == _BP) | (first == _BP))] = InsnKind.FRAME


def _indirect(operand: npt.NDArray[np.uint32], kind: U8) -> None:
    """Tell direct from indirect calls and jumps: only an address is a number."""
    first = operand & 0xFF
    number = (first >= _DIGITS[0]) & (first <= _DIGITS[1])
    kind[(kind == InsnKind.CALL) & ~number] = InsnKind.CALL_INDIRECT
    kind[(kind == InsnKind.JMP) & ~number] = InsnKind.JMP_INDIRECT


def _exchanges(rows: I64, offset: I64, data: U8, kind: U8) -> None:
    """Mark those xchg and xadd whose register operand is the frame or stack pointer.

    An imul of one operand only reads it.
    """
    last = len(data) - 1
    begin = offset[rows]
    at = begin.copy()
    for _ in range(5):
        at += _PREFIX[data[np.minimum(at, last)]]
    rex = np.where((at > begin) & (data[at - 1] & 0xF0 == 0x40), data[at - 1], 0)
    at += data[at] == 0x0F
    opcode, modrm = data[at], data[np.minimum(at + 1, last)]
    kind[rows[np.isin(opcode, (0xF6, 0xF7))]] = InsnKind.OTHER
    swaps = np.isin(opcode, (0x86, 0x87, 0xC0, 0xC1)) & (rex & 4 == 0)
    swaps &= (opcode & 1 == 1) | (rex != 0)  # else it is %ah or %ch
    frame = rows[swaps & (modrm >> 3 & 7 == 5)]
    kind[frame[kind[frame] != InsnKind.STACK]] = InsnKind.FRAME
    kind[rows[swaps & (modrm >> 3 & 7 == 4)]] = InsnKind.STACK


def targets(sweep: Sweep, data: U8, address: int) -> U64:
    """Compute where direct branches go, from the displacement that ends them."""
    target = np.zeros(len(sweep), np.uint64)
    branch = np.flatnonzero(_DIRECT[sweep.kind])
    size = sweep.size[branch]
    end = sweep.offset[branch] + size
    relative = data[end - 1].view(np.int8).astype(np.int64)
    # a short branch of five bytes or more has a prefix there, a wide one its opcode
    wide = np.flatnonzero((size >= _WIDE) & ~_PREFIX[data[np.maximum(end - _WIDE, 0)]])
    last4 = data[end[wide, None] + np.arange(-4, 0)]
    relative[wide] = np.ascontiguousarray(last4).view("<i4").reshape(-1)
    target[branch] = np.uint64(address) + (end + relative).astype(np.uint64)
    return target
