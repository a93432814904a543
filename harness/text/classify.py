"""Classify: the kind and the branch target of each decoded instruction, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.text.insn import I64, U8, U64, InsnKind

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
    InsnKind.UD: ["UD0", "UD1", "UD2"],
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
_SPECIAL_IDS = 0xFFF0  # ids from here on are ours


def _word(text: str) -> int:
    return int.from_bytes(text.encode().ljust(4, b"\0")[:4], "little")


_SP = np.array([_word(t) for t in ("rsp,", "rsp", "esp,", "esp", "sp, ", "spl,")])
_BP = np.array([_word(t) for t in ("rbp,", "rbp", "ebp,", "ebp", "bp, ", "bpl,")])


class Ids:
    """The decoder's instruction ids as lookup tables."""

    def __init__(self, by_name: Mapping[str, int]) -> None:
        """Build the tables from ``by_name`` (``CALL`` to its id)."""
        size = max(by_name.values()) + 1
        self.kind: U8 = np.zeros(size, np.uint8)
        for kind, names in _BY_NAME.items():
            for name in names:
                if name in by_name:
                    self.kind[by_name[name]] = kind
        self.kind[0] = InsnKind.BAD
        self.reads: npt.NDArray[np.bool_] = np.zeros(size, bool)
        self.reads[[by_name[name] for name in _READERS if name in by_name]] = True
        self.xchg = by_name["XCHG"]
        self.clac = by_name["CLAC"]


_PREFIX: npt.NDArray[np.bool_] = np.isin(np.arange(256), list(_PREFIXES))


def classify(
    ids: Ids,
    ident: npt.NDArray[np.uint16],
    size: I64,
    operand: npt.NDArray[np.uint32],
    code: U8,
    address: U64,
) -> tuple[U8, U64]:
    """Return kind u8[n] and target u64[n].

    ``operand`` holds the first four characters of the printed operands, ``code``
    16 bytes from each start. Ids of 0xfff0 and above are gaps that were measured
    (OTHER, and UD for ud0 and ud1) or instructions cut short (BAD).
    """
    ours = ident >= _SPECIAL_IDS
    plain = np.where(ours, 0, ident)
    kind = ids.kind[plain]
    _stack_writers(ids, plain, operand, kind)
    _exchanges(np.flatnonzero(plain == ids.xchg), code, kind)
    _returns_from_user(np.flatnonzero(plain == ids.clac), code, size, kind)
    _measured(np.flatnonzero(ident == 0xFFFF), code, kind)
    target = np.zeros(len(kind), np.uint64)
    _branches(kind, code, size, address, target)
    return kind, target


def _stack_writers(
    ids: Ids,
    ident: npt.NDArray[np.uint16],
    operand: npt.NDArray[np.uint32],
    kind: U8,
) -> None:
    other = (kind == InsnKind.OTHER) & ~ids.reads[ident]
    kind[other & np.isin(operand, _SP)] = InsnKind.STACK
    kind[other & np.isin(operand, _BP)] = InsnKind.FRAME


def _opcode_at(code: U8) -> I64:
    """Return the offset of each row's opcode, behind its prefixes."""
    at = np.zeros(len(code), np.int64)
    rows = np.arange(len(code))
    for _ in range(5):
        at += _PREFIX[code[rows, at]]
    return at


def _exchanges(rows: I64, code: U8, kind: U8) -> None:
    """Mark those xchg whose register operand is the frame or stack pointer."""
    if not len(rows):
        return
    bytes_ = code[rows]
    at = _opcode_at(bytes_)
    n = np.arange(len(rows))
    opcode, modrm = bytes_[n, at], bytes_[n, at + 1]
    before = bytes_[n, np.maximum(at - 1, 0)]
    extended = (at > 0) & (before & 0xF4 == 0x44)  # REX.R
    plain = np.isin(opcode, (0x86, 0x87)) & ~extended
    frame = rows[plain & (modrm >> 3 & 7 == 5)]
    kind[frame[kind[frame] != InsnKind.STACK]] = InsnKind.FRAME
    kind[rows[plain & (modrm >> 3 & 7 == 4)]] = InsnKind.STACK


def _returns_from_user(rows: I64, code: U8, size: I64, kind: U8) -> None:
    """ERETU and ERETS (f3 and f2 0f 01 ca) decode as CLAC with a prefix."""
    long = rows[size[rows] == 4]
    kind[long[np.isin(code[long, 0], (0xF2, 0xF3))]] = InsnKind.END


def _measured(rows: I64, code: U8, kind: U8) -> None:
    kind[rows] = InsnKind.OTHER
    if not len(rows):
        return
    bytes_ = code[rows]
    at = _opcode_at(bytes_)
    second = bytes_[np.arange(len(rows)), at + 1]
    kind[rows[np.isin(second, (0xB9, 0xFF))]] = InsnKind.UD


def _branches(kind: U8, code: U8, size: I64, address: U64, target: U64) -> None:
    """Tell direct from indirect calls and jumps, and compute direct targets."""
    wanted = (InsnKind.CALL, InsnKind.JMP, InsnKind.JCC)
    rows = np.flatnonzero(np.isin(kind, wanted))
    if not len(rows):
        return
    bytes_ = code[rows]
    opcode = bytes_[np.arange(len(rows)), _opcode_at(bytes_)]
    length = size[rows]
    is_jcc = kind[rows] == InsnKind.JCC
    near = (opcode & 0xF0 == 0x70) | (opcode & 0xFC == 0xE0) | (opcode == 0xEB)
    direct = is_jcc | np.isin(opcode, (0xE8, 0xE9, 0xEB))
    indirect = rows[~direct]
    kind[indirect] = np.where(
        kind[indirect] == InsnKind.CALL, InsnKind.CALL_INDIRECT, InsnKind.JMP_INDIRECT
    )
    n = np.arange(len(rows))
    short = bytes_[n, length - 1].astype(np.int8).astype(np.int64)
    last4 = bytes_[n[:, None], np.maximum(length - 4, 0)[:, None] + np.arange(4)]
    wide = np.ascontiguousarray(last4).view("<i4").reshape(-1).astype(np.int64)
    relative = np.where(near, short, wide)
    goes = address[rows] + (length + relative).astype(np.uint64)
    target[rows[direct]] = goes[direct]
