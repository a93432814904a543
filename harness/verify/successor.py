"""Successor: the states that are true after instructions, as columns.

The same rules as :func:`harness.verify.transfer.step`, on packed states. An
instruction permits two states at most; ``first`` is the one that objtool writes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import pieces
from harness.elf.orc import OrcReg, OrcType
from harness.text.effect import WORD, Effects, Form
from harness.text.insn import I64

NOTHING = -1  # no state is known to be true

Bools = npt.NDArray[np.bool_]

_SP = OrcReg.SP
_BP = OrcReg.BP


def defined(states: I64) -> Bools:
    """Tell which states say where the frame is."""
    return np.asarray(states >> 40 & 15 > OrcType.END_OF_STACK)


def interrupted(states: I64) -> Bools:
    """Tell which states are of an interrupt's frame."""
    kind = states >> 40 & 15
    return np.asarray((kind == OrcType.REGS) | (kind == OrcType.REGS_PARTIAL))


class _Fields(Struct, frozen=True):
    """The fields of packed states that the rules look at; offsets are signed."""

    sp_offset: I64
    bp_offset: I64
    sp_reg: I64
    bp_reg: I64
    call: Bools


def _fields(states: I64) -> _Fields:
    return _Fields(
        states.astype(np.int16).astype(np.int64),
        (states >> 16).astype(np.int16).astype(np.int64),
        states >> 32 & 15,
        states >> 36 & 15,
        states >> 40 & 15 == OrcType.CALL,
    )


def _sp_offset(states: I64, offset: I64) -> I64:
    return np.asarray(states & ~0xFFFF | offset & 0xFFFF)


def _sp_reg(states: I64, register: int) -> I64:
    return np.asarray(states & ~(15 << 32) | register << 32)


def _bp_unsaved(states: I64) -> I64:
    return np.asarray(states & ~(15 << 36 | 0xFFFF << 16))


def successors(states: I64, effects: Effects) -> tuple[I64, I64]:
    """Return the permitted states after each of ``effects``, executed in ``states``.

    The second is NOTHING where one is permitted, both where the code does not tell.
    """
    first, second = np.empty(len(states), np.int64), np.empty(len(states), np.int64)
    for some in pieces(len(states)):
        first[some], second[some] = _successors(states[some], _cut(effects, some))
    return first, second


def _cut(effects: Effects, rows: I64 | slice) -> Effects:
    return Effects(*(getattr(effects, name)[rows] for name in _COLUMNS))


def _successors(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    moved = _moved(states, fields, effects.delta)
    first = np.where(effects.form == Form.MOVE, moved, NOTHING)
    second = np.full(len(states), NOTHING, np.int64)
    for form, rule in _RULES.items():
        at = np.flatnonzero(effects.form == form)
        if len(at):
            first[at], second[at] = rule(states[at], _cut(effects, at))
    blind = ~defined(states)
    first[blind] = states[blind]
    second[blind] = NOTHING
    return first, second


_COLUMNS = ("row", "form", "delta", "stacked")


def _moved(states: I64, fields: _Fields, delta: I64) -> I64:
    """%rsp moved by ``delta``: a CFA counted from it is that much nearer."""
    after = np.where(
        fields.sp_reg == _SP, _sp_offset(states, fields.sp_offset - delta), states
    )
    after[fields.sp_reg == OrcReg.SP_INDIRECT] = NOTHING
    return after


def _push_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    after = _moved(states, fields, effects.delta)
    saves = fields.call & (fields.sp_reg == _SP) & (fields.bp_reg == 0)
    slot = -(fields.sp_offset + WORD) & 0xFFFF
    saved = _bp_unsaved(after) | OrcReg.PREV_SP << 36 | slot << 16
    return np.where(saves, saved, after), np.where(saves, after, NOTHING)


def _pop_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    moved = _moved(states, fields, effects.delta)
    of_call = fields.call & (moved != NOTHING)
    first = np.where(of_call & (fields.bp_reg == 0), NOTHING, moved)
    top = of_call & (fields.bp_reg == OrcReg.PREV_SP) & (fields.sp_reg == _SP)
    top &= fields.bp_offset == -fields.sp_offset
    second = np.where(top, moved, NOTHING)
    first = np.where(top, _bp_unsaved(moved), first)
    # %rsp equals %rbp here, or the frame would be lost: leave, in two steps
    frame = fields.sp_reg == _BP
    left, _ = _leave(states, effects)
    return np.where(frame, left, first), np.where(frame, NOTHING, second)


def _pop_sp(states: I64, effects: Effects) -> tuple[I64, I64]:
    register = states >> 32 & 15
    back = register == OrcReg.SP_INDIRECT
    after = np.where(back, _sp_reg(states, _SP), states)
    after[register == _SP] = NOTHING
    return after, _nothing(states)


def _leave(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    after = _sp_reg(_sp_offset(states, fields.sp_offset - WORD), _SP)
    base = fields.bp_reg == OrcReg.PREV_SP
    base &= fields.bp_offset == -fields.sp_offset
    after = np.where(base, _bp_unsaved(after), after)
    return np.where(fields.sp_reg == _BP, after, NOTHING), _nothing(states)


def _set_sp(states: I64, effects: Effects) -> tuple[I64, I64]:
    """A CFA counted from another register stays true."""
    register = states >> 32 & 15
    on_stack = (register == _SP) | (register == OrcReg.SP_INDIRECT)
    after = np.where(on_stack, NOTHING, states)
    switched = (register == _SP) & effects.stacked
    after[switched] = _sp_reg(states, OrcReg.SP_INDIRECT)[switched]
    return after, _nothing(states)


def _mov_sp_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    after, _ = _set_sp(states, effects)
    frame = states >> 32 & 15 == _BP
    from_sp = _sp_reg(states, _SP)
    return np.where(frame, from_sp, after), np.where(frame, states, NOTHING)


def _lea_sp_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    after, _ = _set_sp(states, effects)
    fields = _fields(states)
    offset = fields.sp_offset - effects.delta
    from_sp = _sp_reg(_sp_offset(states, offset), _SP)
    return after, np.where(fields.sp_reg == _BP, from_sp, NOTHING)


def _set_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    lost = (fields.sp_reg == _BP) | (fields.sp_reg == OrcReg.BP_INDIRECT)
    lost |= fields.call & (fields.bp_reg == 0)
    return np.where(lost, NOTHING, states), _nothing(states)


def _mov_bp_sp(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    after, _ = _set_bp(states, effects)
    sets = (fields.sp_reg == _SP) & ~(fields.call & (fields.bp_reg == 0))
    return np.where(sets, _sp_reg(states, _BP), after), np.where(sets, states, NOTHING)


def _load_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    """From its own slot %rbp is restored, from elsewhere it is clobbered."""
    fields = _fields(states)
    after, _ = _set_bp(states, effects)
    slot = fields.call & (fields.sp_reg == _SP) & (fields.bp_reg == OrcReg.PREV_SP)
    slot &= effects.delta == fields.sp_offset + fields.bp_offset
    restored = np.where(slot, _bp_unsaved(states), after)
    return restored, np.where(slot, states, NOTHING)


def _store_bp(states: I64, effects: Effects) -> tuple[I64, I64]:
    fields = _fields(states)
    saves = fields.call & (fields.sp_reg == _SP) & (fields.bp_reg == 0)
    slot = effects.delta - fields.sp_offset & 0xFFFF
    saved = _bp_unsaved(states) | OrcReg.PREV_SP << 36 | slot << 16
    return states, np.where(saves, saved, NOTHING)


def _none(states: I64, effects: Effects) -> tuple[I64, I64]:
    return states, _nothing(states)


def _nothing(states: I64) -> I64:
    return np.full(len(states), NOTHING, np.int64)


_RULES = {
    Form.PUSH_BP: _push_bp,
    Form.POP_BP: _pop_bp,
    Form.POP_SP: _pop_sp,
    Form.LEAVE: _leave,
    Form.MOV_SP_BP: _mov_sp_bp,
    Form.LEA_SP_BP: _lea_sp_bp,
    Form.SET_SP: _set_sp,
    Form.MOV_BP_SP: _mov_bp_sp,
    Form.LOAD_BP: _load_bp,
    Form.SET_BP: _set_bp,
    Form.STORE_BP: _store_bp,
    Form.NONE: _none,
}
