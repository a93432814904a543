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
from collections.abc import Callable

from msgspec.structs import replace

from harness.elf.orc import OrcEntry, OrcReg, OrcType, pack, unpack
from harness.text.effect import WORD, Form, effect_of, stores_sp
from harness.text.insn import Insn, InsnKind

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
    form, delta, source = effect_of(insn.kind, insn.code)
    stacked = source >= 0 and before is not None and stores_sp(before.code, source)
    return step_form(state, form, delta, stacked=stacked)


_NEUTRAL = frozenset(
    {
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
def step_form(
    state: int, form: Form, delta: int, *, stacked: bool = False
) -> tuple[int, ...]:
    """Return the states that are true after a write of %rsp or %rbp in ``state``.

    ``stacked``: the instruction before has stored %rsp where it now goes.
    """
    entry = unpack(state)
    if form in (Form.MOV_SP_BP, Form.LEA_SP_BP, Form.SET_SP):
        after = _write_sp(entry, form, delta, stacked=stacked)
    elif form in (Form.MOV_BP_SP, Form.LOAD_BP, Form.SET_BP):
        after = _write_bp(entry, form, delta)
    else:
        after = _RULES[form](entry, delta)
    return tuple(pack(each) for each in after)


def moves_sp(insn: Insn) -> int | None:
    """Return by how many bytes ``insn`` moves %rsp, None if the bytes do not tell.

    It counts what :func:`step` cannot show while the CFA is based on another
    register. A call counts 0: its callee returns.
    """
    if insn.kind in _NEUTRAL:
        return 0
    form, delta, _ = effect_of(insn.kind, insn.code)
    if form >= Form.MOV_BP_SP:
        return 0
    return delta if form in (Form.MOVE, Form.PUSH_BP, Form.POP_BP) else None


def _move(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    """%rsp moved by ``delta``: a CFA counted from it is that much nearer."""
    if entry.sp_reg == OrcReg.SP_INDIRECT:
        return []
    if entry.sp_reg != OrcReg.SP:
        return [entry]
    return [replace(entry, sp_offset=entry.sp_offset - delta)]


def _push_bp(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    after = _move(entry, delta)
    unsaved = entry.type == OrcType.CALL and not entry.bp_reg
    if not (unsaved and entry.sp_reg == OrcReg.SP):
        return after
    slot = -after[0].sp_offset
    saved = replace(after[0], bp_reg=OrcReg.PREV_SP, bp_offset=slot)
    return [saved, after[0]]


def _pop_sp(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    """The way back from another stack."""
    if entry.sp_reg == OrcReg.SP_INDIRECT:
        return [replace(entry, sp_reg=OrcReg.SP)]
    return [] if entry.sp_reg == OrcReg.SP else [entry]


def _pop_bp(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    if entry.sp_reg == OrcReg.BP:
        # %rsp equals %rbp here, or the frame would be lost: leave, in two steps
        return _leave(entry, delta)
    moved = _move(entry, delta)
    if not moved or entry.type != OrcType.CALL:
        return moved
    if entry.bp_reg == OrcReg.UNDEFINED:
        return []
    if entry.bp_reg == OrcReg.PREV_SP:
        restored = replace(moved[0], bp_reg=OrcReg.UNDEFINED, bp_offset=0)
        top = entry.sp_reg == OrcReg.SP and entry.bp_offset == -entry.sp_offset
        return [restored, moved[0]] if top else moved
    return moved


def _leave(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    if entry.sp_reg != OrcReg.BP:
        return []
    after = replace(entry, sp_reg=OrcReg.SP, sp_offset=entry.sp_offset - WORD)
    at_base = entry.bp_reg == OrcReg.PREV_SP and entry.bp_offset == -entry.sp_offset
    if at_base:
        return [replace(after, bp_reg=OrcReg.UNDEFINED, bp_offset=0)]
    return [after]


def _write_sp(
    entry: OrcEntry, form: Form, delta: int, *, stacked: bool
) -> list[OrcEntry]:
    if entry.sp_reg == OrcReg.BP:  # which %rsp does not touch
        if form is Form.MOV_SP_BP:
            return [replace(entry, sp_reg=OrcReg.SP), entry]
        if form is Form.LEA_SP_BP:
            offset = entry.sp_offset - delta
            return [entry, replace(entry, sp_reg=OrcReg.SP, sp_offset=offset)]
        return [entry]
    if entry.sp_reg == OrcReg.SP and stacked:
        return [replace(entry, sp_reg=OrcReg.SP_INDIRECT)]
    if entry.sp_reg in (OrcReg.SP, OrcReg.SP_INDIRECT):
        return []
    return [entry]


def _write_bp(entry: OrcEntry, form: Form, delta: int) -> list[OrcEntry]:
    if form is Form.MOV_BP_SP and entry.sp_reg == OrcReg.SP:
        if entry.type == OrcType.CALL and not entry.bp_reg:
            return []
        return [replace(entry, sp_reg=OrcReg.BP), entry]
    if entry.sp_reg in (OrcReg.BP, OrcReg.BP_INDIRECT):
        return []
    if entry.type != OrcType.CALL:
        return [entry]
    if entry.bp_reg == OrcReg.UNDEFINED:
        return []
    # from its own slot %rbp is restored, anything else clobbers what is saved
    in_slot = entry.sp_reg == OrcReg.SP and entry.bp_reg == OrcReg.PREV_SP
    if form is Form.LOAD_BP and in_slot and delta == entry.sp_offset + entry.bp_offset:
        return [replace(entry, bp_reg=OrcReg.UNDEFINED, bp_offset=0), entry]
    return [entry]


def _store_bp(entry: OrcEntry, delta: int) -> list[OrcEntry]:
    """A store in the frame saves %rbp there, if it still is the caller's."""
    unsaved = entry.type == OrcType.CALL and not entry.bp_reg
    if not unsaved or entry.sp_reg != OrcReg.SP:
        return [entry]
    slot = delta - entry.sp_offset
    return [entry, replace(entry, bp_reg=OrcReg.PREV_SP, bp_offset=slot)]


_RULES: dict[Form, Callable[[OrcEntry, int], list[OrcEntry]]] = {
    Form.UNKNOWN: lambda entry, delta: [],
    Form.NONE: lambda entry, delta: [entry],
    Form.MOVE: _move,
    Form.PUSH_BP: _push_bp,
    Form.POP_BP: _pop_bp,
    Form.POP_SP: _pop_sp,
    Form.LEAVE: _leave,
    Form.STORE_BP: _store_bp,
}
