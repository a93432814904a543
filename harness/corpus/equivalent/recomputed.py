"""Recomputed: does %rsp matter where a change has moved it?

While the frame is counted from %rbp it does not, if %rsp is computed anew from %rbp
before anything pops, returns, or counts from it.
"""

from __future__ import annotations

import numpy as np

from harness.corpus.mutant import Change
from harness.elf.orc import OrcReg, unpack
from harness.elf.symbol import STT_FUNC
from harness.text.effect import WORD, Form, effect_of
from harness.text.insn import Insn, InsnKind
from harness.verify.columns import Columns
from harness.verify.transfer import is_defined, moves_sp

_MOST = 20_000  # instructions that are looked at before it is given up
_ANEW = (Form.LEAVE, Form.MOV_SP_BP, Form.LEA_SP_BP)
_LEAVES = (InsnKind.RET, InsnKind.JMP_INDIRECT, InsnKind.END)
_WRITE_BP = (Form.POP_BP, Form.MOV_BP_SP, Form.LOAD_BP, Form.SET_BP, Form.UNKNOWN)


def is_recomputed(clean: Columns, change: Change) -> bool:
    """Whether nothing depends on what the change did to %rsp.

    If %rsp is higher than before, locals are, too. They must not reach what the frame
    is made of: callee-saved registers that were pushed first lie in between.
    """
    mutant = change.columns
    moved = _moved(clean, mutant, change)
    if moved is None or moved > _pushed(mutant, change.address):
        return False
    first = int(mutant.insns.index(np.array([change.address], np.uint64))[0])
    return first >= 0 and _all_paths(mutant, first)


def _moved(clean: Columns, mutant: Columns, change: Change) -> int | None:
    """By how much %rsp is higher than before; None if that cannot be told."""
    old, new = (_changed(columns, change) for columns in (clean, mutant))
    moves = [moves_sp(insn) for insn in (*old, *new)]
    plain = all(i.kind.falls_through and not i.target for i in (*old, *new))
    frame = any(_form(insn) in _WRITE_BP for insn in (*old, *new))
    if not plain or frame or None in moves or not old or not new:
        return None
    if old[-1].end != new[-1].end:
        return None
    split = len(old)
    return sum(m or 0 for m in moves[split:]) - sum(m or 0 for m in moves[:split])


def _changed(columns: Columns, change: Change) -> list[Insn]:
    ends = np.array([change.address, change.address + change.size], np.uint64)
    low, high = np.searchsorted(columns.insns.address, ends).tolist()
    return [columns.insns.at(row) for row in range(low, high)]


def _form(insn: Insn) -> Form:
    return effect_of(insn.kind, insn.code)[0]


def _pushed(columns: Columns, before: int) -> int:
    """Bytes pushed right behind ``mov %rsp,%rbp``: all locals lie below them."""
    symbols, insns = columns.program.symbols, columns.insns
    starts = symbols.address[symbols.kind == STT_FUNC]
    starts = starts[starts <= np.uint64(before)]
    if not len(starts):
        return 0
    row = int(insns.index(starts.max()[np.newaxis])[0])
    if row < 0:
        return 0
    while int(insns.address[row]) < before:
        if _form(insns.at(row)) is Form.MOV_BP_SP:
            break
        row += 1
    else:
        return 0
    pushed = 0
    for at in range(row + 1, len(insns)):
        insn = insns.at(at)
        if insn.kind is not InsnKind.PUSH or insn.address >= before:
            break
        pushed += WORD
    return pushed


def _all_paths(columns: Columns, first: int) -> bool:
    """Whether %rsp is computed anew on all ways from ``first``, a row."""
    insns = columns.insns
    seen, todo = set[tuple[int, int]](), [(first, 0)]
    while todo:
        row, depth = at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if len(seen) > _MOST or row < 0 or row >= len(insns):
            return False
        insn, state = insns.at(row), int(columns.state[row])
        form = _form(insn)
        if not is_defined(state):  # behind a call that does not return
            if not _ends_before(columns, row):
                return False
            continue
        if unpack(state).sp_reg in (OrcReg.SP, OrcReg.SP_INDIRECT):
            return False
        if form in _ANEW:
            continue
        if insn.kind in _LEAVES or form in _WRITE_BP:
            return False
        if row != first and insn.kind in (InsnKind.POP, InsnKind.POPF) and not depth:
            return False
        todo += _next(
            columns, insn, row, depth if row == first else _deeper(insn, depth)
        )
    return True


def _deeper(insn: Insn, depth: int) -> int:
    """Words that were pushed since the change and not popped."""
    if insn.kind in (InsnKind.PUSH, InsnKind.PUSHF):
        return depth + 1
    return depth - (insn.kind in (InsnKind.POP, InsnKind.POPF))


def _ends_before(columns: Columns, row: int) -> bool:
    before = columns.insns.at(row - 1)
    ends = before.kind is InsnKind.CALL or not before.kind.falls_through
    return ends and before.end == int(columns.insns.address[row])


def _next(columns: Columns, insn: Insn, row: int, depth: int) -> list[tuple[int, int]]:
    ways = []
    if insn.kind in (InsnKind.JMP, InsnKind.JCC):
        goes = int(columns.index(np.array([insn.target], np.uint64))[0])
        ways.append((goes, depth))
    if insn.kind.falls_through:
        ways.append((row + 1, depth))
    return ways
