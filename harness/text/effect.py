"""Effect: what instructions do to %rsp and %rbp, as columns.

:func:`effect_of` reads it off one instruction's encoding. Nearly all instructions
of a kernel have one of a few encodings, which are recognised on whole columns; the
rest is read one by one, each encoding once.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.text.insn import I64, U8, U64, InsnKind, Insns
from harness.text.operand import BP, SP, Encoding, parse_encoding

WORD = 8


class Form(enum.IntEnum):
    """What is written, and with what; ``delta`` is a column of Effects."""

    UNKNOWN = 0  # a push or pop that is not 64 bits wide
    MOVE = 1  # rsp += delta
    PUSH_BP = 2
    POP_BP = 3
    POP_SP = 4
    LEAVE = 5
    MOV_SP_BP = 6  # rsp = rbp
    LEA_SP_BP = 7  # rsp = rbp + delta
    SET_SP = 8  # rsp = anything else
    MOV_BP_SP = 9  # rbp = rsp
    LOAD_BP = 10  # rbp = the word at rsp + delta
    SET_BP = 11  # rbp = anything else
    STORE_BP = 12  # the word at rsp + delta = rbp
    NONE = 13  # neither is written, nor rbp stored in the frame


class Effects(Struct, frozen=True):
    """The instructions that write %rsp or %rbp, or store %rbp in the frame.

    Attributes:
        row: i64[k], ascending rows of the instructions.
        form: u8[k], a Form each.
        delta: i64[k] bytes.
        stacked: bool[k], the instruction before has stored %rsp at the place that
            this one moves it to: the way to another stack.
    """

    row: I64
    form: U8
    delta: I64
    stacked: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


_ACTIVE = (
    InsnKind.PUSH,
    InsnKind.POP,
    InsnKind.PUSHF,
    InsnKind.POPF,
    InsnKind.LEAVE,
    InsnKind.STACK,
    InsnKind.FRAME,
)


def effects_of(insns: Insns, stores: I64 | None = None) -> Effects:
    """Return the effects of all of ``insns`` that have one.

    Stores of %rbp are few among very many others: only those of the rows ``stores``
    are looked for.
    """
    row, form, delta = _told(insns)
    if stores is not None and len(stores):
        before = np.searchsorted(row, stores)
        forms, deltas = _common(insns.kind[stores], insns.code.words(stores))
        row = np.asarray(np.insert(row, before, stores))
        form = np.asarray(np.insert(form, before, forms))
        delta = np.asarray(np.insert(delta, before, deltas))
    kind = insns.kind[row]
    stacked = np.zeros(len(row), bool)
    known: dict[tuple[int, bytes], tuple[Form, int, int]] = {}
    for at in np.flatnonzero(form == _RARE).tolist():
        here = int(row[at])
        key = int(kind[at]), insns.code.one(here, int(insns.size[here]))
        if key not in known:
            known[key] = effect_of(InsnKind(key[0]), key[1])
        form[at], delta[at], source = known[key]
        if source >= 0 and here:
            stacked[at] = _stores_sp(insns, here, source)
    return Effects(row, form, delta, stacked)


_RARE = 0xFF


def _told(insns: Insns) -> tuple[I64, U8, I64]:
    """Return rows, forms and deltas, as an engine told them or by the bytes."""
    if insns.acts is not None:
        return insns.acts.row, insns.acts.form.copy(), insns.acts.delta.copy()
    row = np.flatnonzero(insns.of_kind(*_ACTIVE))
    return row, *_common(insns.kind[row], insns.code.words(row))


def _common(kind: U8, code: U64) -> tuple[U8, I64]:
    """Recognise the usual encodings; the rest has the form _RARE."""
    first = (code & np.uint64(0xFF)).astype(np.uint8)
    rex = first & 0xF0 == 0x40
    opcode = np.where(rex, code >> np.uint64(8), code).astype(np.uint8)
    base = first * rex & 1  # REX.B: one of r8 to r15
    form = np.full(len(kind), _RARE, np.uint8)
    delta = np.zeros(len(kind), np.int64)
    push = (opcode & 0xF8 == 0x50) | (opcode & 0xFD == 0x68) | (opcode == 0xFF)
    push &= kind == InsnKind.PUSH
    push |= (kind == InsnKind.PUSHF) & (opcode == 0x9C)
    form[push], delta[push] = Form.MOVE, -WORD
    form[(kind == InsnKind.PUSH) & (opcode == 0x55) & (base == 0)] = Form.PUSH_BP
    pop = (kind == InsnKind.POP) & (opcode & 0xF8 == 0x58)
    pop |= (kind == InsnKind.POPF) & (opcode == 0x9D)
    form[pop], delta[pop] = Form.MOVE, WORD
    pop &= (kind == InsnKind.POP) & (base == 0)
    form[pop & (opcode == 0x5D)] = Form.POP_BP
    form[pop & (opcode == 0x5C)] = Form.POP_SP
    form[(kind == InsnKind.LEAVE) & (opcode == 0xC9)] = Form.LEAVE
    _adjusts(kind, code, form, delta)
    _frames(kind, code, form, delta)
    _stores(kind, code, form, delta)
    return form, delta


def _adjusts(kind: U8, code: U64, form: U8, delta: I64) -> None:
    """``add``, ``sub`` and ``and`` of a constant, and the end of a frame."""
    rows = np.flatnonzero(kind == InsnKind.STACK)
    word = code[rows]
    head = word & np.uint64(0xFFFFFF)
    byte = (word >> np.uint64(24)).astype(np.int8).astype(np.int64)
    long = (word >> np.uint64(24)).astype(np.int32).astype(np.int64)
    for opcode, value in ((0x83, byte), (0x81, long)):
        for modrm, sign in ((0xC4, 1), (0xEC, -1)):
            here = head == np.uint64(0x48 | opcode << 8 | modrm << 16)
            form[rows[here]] = Form.MOVE
            delta[rows[here]] = sign * value[here]
    form[rows[head == np.uint64(0xE48348)]] = Form.SET_SP  # and
    here = head == np.uint64(0x658D48)  # lea n(%rbp),%rsp
    form[rows[here]], delta[rows[here]] = Form.LEA_SP_BP, byte[here]


def _frames(kind: U8, code: U64, form: U8, delta: I64) -> None:
    """Writes of %rbp: nearly all have nothing to do with a frame."""
    rows = np.flatnonzero(kind == InsnKind.FRAME)
    word = code[rows]
    first, opcode, modrm = (
        (word >> np.uint64(shift)).astype(np.uint8) for shift in (0, 8, 16)
    )
    rex = first & 0xF0 == 0x40
    prefixed = np.isin(first, (0x26, 0x2E, 0x36, 0x3E)) | (first & 0xFC == 0x64)
    prefixed |= np.isin(first, (0xF0, 0xF2, 0xF3))
    moves = rex & (opcode & 0xFD == 0x89)
    near = (modrm >= 0xC0) | (modrm & 7 == SP)
    # from a register, but for %rsp
    plain = rex & (opcode == 0x89) & (modrm >= 0xC0)
    plain &= (modrm >> 3 & 7 != SP) | (first & 4 != 0)
    plain |= ~prefixed & ~(moves & near)
    form[rows[plain]] = Form.SET_BP
    form[rows[word & np.uint64(0xFFFFFF) == np.uint64(0xE58948)]] = Form.MOV_BP_SP
    head = word & np.uint64(0xFFFFFFFF)
    byte = (word >> np.uint64(32)).astype(np.int8).astype(np.int64)
    long = (word >> np.uint64(32)).astype(np.int32).astype(np.int64)
    for bytes_, value in ((0x246C8B48, byte), (0x24AC8B48, long)):
        here = head == np.uint64(bytes_)
        form[rows[here]] = Form.LOAD_BP
        delta[rows[here]] = value[here]


def _stores(kind: U8, code: U64, form: U8, delta: I64) -> None:
    """Stores of %rbp in the frame, the way of compilers that do not push it."""
    rows = np.flatnonzero(kind == InsnKind.OTHER)
    word = code[rows]
    head = word & np.uint64(0xFFFFFFFF)
    byte = (word >> np.uint64(32)).astype(np.int8).astype(np.int64)
    long = (word >> np.uint64(32)).astype(np.int32).astype(np.int64)
    for bytes_, value in ((0x246C8948, byte), (0x24AC8948, long)):
        here = head == np.uint64(bytes_)
        form[rows[here]] = Form.STORE_BP
        delta[rows[here]] = value[here]


def _stores_sp(insns: Insns, row: int, register: int) -> bool:
    """Whether the instruction before ``row`` is ``mov %rsp,(%register)``."""
    before = insns.at(row - 1)
    return before.end == int(insns.address[row]) and stores_sp(before.code, register)


def stores_sp(code: bytes, register: int) -> bool:
    """Whether ``code`` is ``mov %rsp,(%register)``."""
    store = parse_encoding(code)
    return (
        store.opcode == 0x89
        and store.wide
        and store.reg == SP
        and store.mod != 3
        and store.base == register
        and not store.indexed
        and store.displacement == 0
    )


def effect_of(kind: InsnKind, code: bytes) -> tuple[Form, int, int]:
    """Return form and delta of one instruction, and the register that %rsp is set to.

    That register is -1 but for ``mov %register,%rsp``.
    """
    encoding = parse_encoding(code)
    match kind:
        case InsnKind.PUSH | InsnKind.PUSHF:
            return _push(kind, encoding), -WORD, -1
        case InsnKind.POP | InsnKind.POPF:
            return _pop(kind, encoding), WORD, -1
        case InsnKind.LEAVE:
            return Form.LEAVE, 0, -1
        case InsnKind.STACK:
            return _write_sp(code, encoding)
        case InsnKind.FRAME:
            return _write_bp(encoding)
        case InsnKind.OTHER if _stores_bp(encoding):
            return Form.STORE_BP, encoding.displacement, -1
        case _:
            return Form.NONE, 0, -1


def _stores_bp(encoding: Encoding) -> bool:
    in_frame = encoding.mod != 3 and encoding.base == SP and not encoding.indexed
    stores = encoding.opcode == 0x89 and encoding.wide and encoding.reg == BP
    return stores and in_frame


def _push(kind: InsnKind, encoding: Encoding) -> Form:
    if encoding.narrow:
        return Form.UNKNOWN
    of_bp = encoding.opcode == 0x50 | BP and not encoding.rex & 1
    return Form.PUSH_BP if kind is InsnKind.PUSH and of_bp else Form.MOVE


def _pop(kind: InsnKind, encoding: Encoding) -> Form:
    if encoding.narrow:
        return Form.UNKNOWN
    register = popped(encoding) if kind is InsnKind.POP else -1
    return {SP: Form.POP_SP, BP: Form.POP_BP}.get(register, Form.MOVE)


def popped(encoding: Encoding) -> int:
    """Return the register that a pop writes, -1 if it writes memory or a segment."""
    if encoding.opcode & 0xF8 == 0x58:
        return encoding.opcode & 7 | (encoding.rex & 1) << 3
    if encoding.opcode == 0x8F and encoding.mod == 3:
        return encoding.base
    return -1


def _write_sp(code: bytes, encoding: Encoding) -> tuple[Form, int, int]:
    if (delta := sp_delta(code, encoding)) is not None:
        return Form.MOVE, delta, -1
    if (move := moved(encoding)) is not None:
        return (Form.MOV_SP_BP if move == (BP, SP) else Form.SET_SP), 0, move[0]
    plain = encoding.mod != 3 and encoding.base == BP and not encoding.indexed
    if encoding.opcode == 0x8D and encoding.wide and plain:
        return Form.LEA_SP_BP, encoding.displacement, -1
    return Form.SET_SP, 0, -1


def _write_bp(encoding: Encoding) -> tuple[Form, int, int]:
    if moved(encoding) == (SP, BP):
        return Form.MOV_BP_SP, 0, -1
    plain = encoding.mod != 3 and encoding.base == SP and not encoding.indexed
    if encoding.opcode == 0x8B and encoding.wide and plain:
        return Form.LOAD_BP, encoding.displacement, -1
    return Form.SET_BP, 0, -1


def sp_delta(code: bytes, encoding: Encoding) -> int | None:
    """Return n of ``add $n,%rsp``, ``sub $-n,%rsp`` and ``lea n(%rsp),%rsp``."""
    if not encoding.wide:
        return None
    if encoding.opcode in (0x81, 0x83) and encoding.mod == 3 and encoding.base == SP:
        size = 1 if encoding.opcode == 0x83 else 4
        at = encoding.immediate
        value = int.from_bytes(code[at : at + size], "little", signed=True)
        return {0: value, 5: -value}.get(encoding.reg)
    plain = encoding.mod != 3 and encoding.base == SP and not encoding.indexed
    if encoding.opcode == 0x8D and encoding.reg == SP and plain:
        return encoding.displacement
    return None


def moved(encoding: Encoding) -> tuple[int, int] | None:
    """Return (from, to) registers of ``mov %from,%to``, 64 bits wide."""
    if encoding.mod != 3 or not encoding.wide:
        return None
    if encoding.opcode == 0x89:
        return encoding.reg, encoding.base
    if encoding.opcode == 0x8B:
        return encoding.base, encoding.reg
    return None
