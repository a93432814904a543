"""Transfer: which unwind states are true after an instruction.

A state is what one ORC entry says (:func:`harness.elf.orc.pack`). ``step`` answers
for one instruction from its bytes alone; checking a table means to ask, at each
instruction, whether the entry behind it is among the answers.

Several answers can be true at once: after ``mov %rsp,%rbp`` the CFA may be counted
from either register. No answer means that the bytes do not tell (``mov %rax,%rsp``).
The rules are those of objtool's update_cfi_state() (tools/objtool/check.c), stated
for one step and without its memory.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from harness.elf.orc import OrcEntry, OrcReg, OrcType, pack, unpack
from harness.text.insn import Insn, InsnKind
from harness.text.operand import BP, SP, Encoding, parse_encoding

WORD = 8

ENTRY = pack(OrcEntry(8, 0, OrcReg.SP, OrcReg.UNDEFINED, OrcType.CALL, False))
UNDEFINED = pack(OrcEntry(0, 0, 0, 0, OrcType.UNDEFINED, False))

_UNKNOWN: tuple[int, ...] = ()


def is_defined(state: int) -> bool:
    """Whether ``state`` says where the frame is."""
    return state >> 40 & 15 not in (OrcType.UNDEFINED, OrcType.END_OF_STACK)


def step(state: int, insn: Insn, before: Insn | None = None) -> tuple[int, ...]:
    """Return the states that are true after ``insn`` executed in ``state``.

    The first is the one that objtool would write. ``before`` is the instruction
    executed before it, which tells a stack switch from any other write of %rsp.
    A state without a frame (undefined, end of stack) stays as it is.
    """
    if not is_defined(state) or insn.kind in _NEUTRAL:
        return (state,)
    return _step(state, insn.kind, insn.code, before.code if before else b"")


_NEUTRAL = frozenset(
    {
        InsnKind.OTHER,
        InsnKind.NOP,
        InsnKind.CALL,
        InsnKind.CALL_INDIRECT,
        InsnKind.JMP,
        InsnKind.JMP_INDIRECT,
        InsnKind.JCC,
        InsnKind.RET,
        InsnKind.TRAP,
        InsnKind.UD,
        InsnKind.END,
        InsnKind.ENDBR,
    }
)


@functools.lru_cache(maxsize=1 << 16)
def _step(state: int, kind: InsnKind, code: bytes, before: bytes) -> tuple[int, ...]:
    entry = unpack(state)
    encoding = parse_encoding(code)
    match kind:
        case InsnKind.PUSH | InsnKind.PUSHF:
            after = _push(entry, kind, encoding)
        case InsnKind.POP | InsnKind.POPF:
            after = _pop(entry, kind, encoding)
        case InsnKind.LEAVE:
            after = _leave(entry)
        case InsnKind.STACK:
            after = _write_sp(entry, code, encoding, before)
        case InsnKind.FRAME:
            after = _write_bp(entry, encoding)
        case _:
            after = []
    return tuple(pack(each) for each in after)


def moves_sp(insn: Insn) -> int | None:
    """Return by how many bytes ``insn`` moves %rsp, None if the bytes do not tell.

    It counts what :func:`step` cannot show while the CFA is based on another
    register. A call counts 0: its callee returns.
    """
    match insn.kind:
        case InsnKind.PUSH | InsnKind.PUSHF:
            return None if parse_encoding(insn.code).narrow else -WORD
        case InsnKind.POP | InsnKind.POPF:
            encoding = parse_encoding(insn.code)
            loads_sp = insn.kind is InsnKind.POP and _popped(encoding) == SP
            return None if encoding.narrow or loads_sp else WORD
        case InsnKind.STACK:
            return _sp_delta(insn.code, parse_encoding(insn.code))
        case InsnKind.LEAVE:
            return None
        case _:
            return 0


def _move(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    """%rsp moved by ``delta``: a CFA counted from it is that much nearer."""
    if entry.sp_reg == OrcReg.SP_INDIRECT:
        return []
    if entry.sp_reg != OrcReg.SP:
        return [entry]
    return [replace(entry, sp_offset=entry.sp_offset - delta)]


def _push(entry: OrcEntry, kind: InsnKind, encoding: Encoding) -> list[OrcEntry]:
    if encoding.narrow:
        return []
    after = _move(entry, -WORD)
    pushes_bp = (
        kind is InsnKind.PUSH and encoding.opcode == 0x50 | BP and not encoding.rex & 1
    )
    saves = pushes_bp and entry.type == OrcType.CALL
    if not (saves and after and entry.sp_reg == OrcReg.SP and not entry.bp_reg):
        return after
    slot = -after[0].sp_offset
    saved = replace(after[0], bp_reg=OrcReg.PREV_SP, bp_offset=slot)
    return [saved, after[0]]


def _popped(encoding: Encoding) -> int:
    """Return the register that a pop writes, -1 if it writes memory or a segment."""
    if encoding.opcode & 0xF8 == 0x58:
        return encoding.opcode & 7 | (encoding.rex & 1) << 3
    if encoding.opcode == 0x8F and encoding.mod == 3:
        return encoding.base
    return -1


def _pop(entry: OrcEntry, kind: InsnKind, encoding: Encoding) -> list[OrcEntry]:
    if encoding.narrow:
        return []
    register = _popped(encoding) if kind is InsnKind.POP else -1
    if register == SP:  # the way back from another stack
        if entry.sp_reg == OrcReg.SP_INDIRECT:
            return [replace(entry, sp_reg=OrcReg.SP)]
        return [] if entry.sp_reg == OrcReg.SP else [entry]
    if register == BP:
        return _pop_bp(entry)
    return _move(entry, WORD)


def _pop_bp(entry: OrcEntry) -> list[OrcEntry]:
    if entry.sp_reg == OrcReg.BP:
        # %rsp equals %rbp here, or the frame would be lost: leave, in two steps
        return _leave(entry)
    moved = _move(entry, WORD)
    if not moved or entry.type != OrcType.CALL:
        return moved
    if entry.bp_reg == OrcReg.UNDEFINED:
        return []
    if entry.bp_reg == OrcReg.PREV_SP:
        restored = replace(moved[0], bp_reg=OrcReg.UNDEFINED, bp_offset=0)
        top = entry.sp_reg == OrcReg.SP and entry.bp_offset == -entry.sp_offset
        return [restored, moved[0]] if top else moved
    return moved


def _leave(entry: OrcEntry) -> list[OrcEntry]:
    if entry.sp_reg != OrcReg.BP:
        return []
    after = replace(entry, sp_reg=OrcReg.SP, sp_offset=entry.sp_offset - WORD)
    at_base = entry.bp_reg == OrcReg.PREV_SP and entry.bp_offset == -entry.sp_offset
    if at_base:
        return [replace(after, bp_reg=OrcReg.UNDEFINED, bp_offset=0)]
    return [after]


def _sp_delta(code: bytes, encoding: Encoding) -> int | None:
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


def _write_sp(
    entry: OrcEntry, code: bytes, encoding: Encoding, before: bytes
) -> list[OrcEntry]:
    if (delta := _sp_delta(code, encoding)) is not None:
        return _move(entry, delta)
    if entry.sp_reg == OrcReg.BP:
        return _from_frame(entry, encoding)
    if entry.sp_reg == OrcReg.SP and _switches_stack(encoding, before):
        return [replace(entry, sp_reg=OrcReg.SP_INDIRECT)]
    if entry.sp_reg in (OrcReg.SP, OrcReg.SP_INDIRECT):
        return []
    return [entry]


def _source(encoding: Encoding) -> tuple[int, int] | None:
    """Return (from, to) registers of ``mov %from,%to``, 64 bits wide."""
    if encoding.mod != 3 or not encoding.wide:
        return None
    if encoding.opcode == 0x89:
        return encoding.reg, encoding.base
    if encoding.opcode == 0x8B:
        return encoding.base, encoding.reg
    return None


def _from_frame(entry: OrcEntry, encoding: Encoding) -> list[OrcEntry]:
    """%rsp is computed while the CFA is counted from %rbp, which keeps it true."""
    if _source(encoding) == (BP, SP):
        return [replace(entry, sp_reg=OrcReg.SP), entry]
    plain = encoding.mod != 3 and encoding.base == BP and not encoding.indexed
    if encoding.opcode == 0x8D and encoding.wide and plain:
        offset = entry.sp_offset - encoding.displacement
        return [entry, replace(entry, sp_reg=OrcReg.SP, sp_offset=offset)]
    return [entry]


def _switches_stack(encoding: Encoding, before: bytes) -> bool:
    """``mov %rsp,(%reg); mov %reg,%rsp``: the old %rsp is on top of the new stack."""
    move = _source(encoding)
    if move is None or not before:
        return False
    store = parse_encoding(before)
    return (
        store.opcode == 0x89
        and store.wide
        and store.reg == SP
        and store.mod != 3
        and store.base == move[0]
        and not store.indexed
        and store.displacement == 0
    )


def _write_bp(entry: OrcEntry, encoding: Encoding) -> list[OrcEntry]:
    if _source(encoding) == (SP, BP) and entry.sp_reg == OrcReg.SP:
        if entry.type == OrcType.CALL and not entry.bp_reg:
            return []
        return [replace(entry, sp_reg=OrcReg.BP), entry]
    if entry.sp_reg in (OrcReg.BP, OrcReg.BP_INDIRECT):
        return []
    if entry.type != OrcType.CALL:
        return [entry]
    return _reload_bp(entry, encoding)


def _reload_bp(entry: OrcEntry, encoding: Encoding) -> list[OrcEntry]:
    """``mov n(%rsp),%rbp`` from the slot restores it; anything else clobbers it."""
    if entry.bp_reg == OrcReg.UNDEFINED:
        return []
    plain = encoding.mod != 3 and encoding.base == SP and not encoding.indexed
    loads = encoding.opcode == 0x8B and encoding.wide and plain
    slot = entry.sp_offset + entry.bp_offset
    in_slot = entry.sp_reg == OrcReg.SP and entry.bp_reg == OrcReg.PREV_SP
    if loads and in_slot and encoding.displacement == slot:
        return [replace(entry, bp_reg=OrcReg.UNDEFINED, bp_offset=0), entry]
    return [entry]
