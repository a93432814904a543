"""Blind: functions of which the table says nothing.

Where the state is undefined, or the end of the stack, an unwind stops, and no rule has
anything to compare: a table that loses a whole function is consistent. So each function
without a state is reported, the entries of assembly (SYM_CODE_START) among them, and
those that are meant to have none live in the reviewed baseline: it is the ratchet. An
object before the link explains them itself (STACK_FRAME_NON_STANDARD); a stack may end
in what begins by loading another.
"""

from __future__ import annotations

import numpy as np

from harness.elf.column import among
from harness.elf.orc import OrcType, describe
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.effect import Form, effect_of
from harness.text.insn import InsnKind
from harness.verify.columns import Columns, Part
from harness.verify.extent import functions, holding, named
from harness.verify.successor import defined
from harness.verify.transfer import UNDEFINED
from harness.verify.window import excerpt

RULE = "blind/function"

_PADDING = (InsnKind.NOP, InsnKind.TRAP, InsnKind.UD, InsnKind.ENDBR)
_NON_STANDARD = ".discard.func_stack_frame_non_standard"


def check_blind(columns: Columns) -> Part:
    """Report the functions that have no state from their start on.

    Counts: functions with a size, and of them those without a state, explained ones
    included. Notes: fragments of dropped weak functions.
    """
    start, end = functions(columns.program)
    if not len(start):
        return Part()
    # what follows may be a dropped function's, where only the next symbol ends one
    often = np.flatnonzero(~defined(columns.lookup.at(start)))
    blind = [
        (int(start[at]), int(end[at]))
        for at in often.tolist()
        if _mostly_unknown(columns, int(start[at]), int(end[at]))
        and not _begins_stack(columns, int(start[at]))
    ]
    dropped = _dropped(columns, blind) if blind else set()
    meant = _explained(columns.program)
    findings = tuple(
        _finding(columns, first, last)
        for first, last in blind
        if first not in meant and first not in dropped
    )
    counts = {"functions": len(start), "blind functions": len(blind) - len(dropped)}
    notes = [f"{len(dropped)} fragments of dropped weak functions"] if dropped else []
    return Part(findings, counts, tuple(notes))


def _mostly_unknown(columns: Columns, start: int, end: int) -> bool:
    """Whether most of a function's instructions that do anything have no state."""
    first, last = np.searchsorted(
        columns.insns.address, np.array([start, end], np.uint64)
    ).tolist()
    real = ~np.isin(columns.insns.kind[first:last], _PADDING)
    states = columns.lookup.at(columns.insns.address[first:last][real])
    unknown = int((~defined(states)).sum())
    return unknown * 2 > len(states)


def _begins_stack(columns: Columns, start: int) -> bool:
    """Whether the stack ends at ``start``, where the first instruction loads another.

    So does start_cpu0() of 4.14 to 5.4, which nobody calls.
    """
    row = int(columns.insns.index(np.array([start], np.uint64))[0])
    if row < 0 or columns.lookup.one(start) == UNDEFINED:
        return False
    insn = columns.insns.at(row)
    return effect_of(insn.kind, insn.code)[0] is Form.SET_SP


def _dropped(columns: Columns, blind: list[tuple[int, int]]) -> set[int]:
    """Return those that are what is left of a function: only lost code goes there.

    The linker drops the symbol of a weak function that another object overrides, and
    leaves its code without a state; its cold part is a function of its own.
    """
    program, insns = columns.program, columns.insns
    first, last = (np.array(side, np.uint64) for side in zip(*blind, strict=True))
    at = holding(first, last, insns.target[columns.branches])
    rows = np.flatnonzero(at >= 0)
    source = insns.address[columns.branches[rows]]
    other = holding(first, last, source) != at[rows]
    rows, source = rows[other], source[other]
    lost = holding(*named(program), source) < 0
    lost &= columns.lookup.at(source) >> 40 & 15 == OrcType.UNDEFINED
    if columns.alternatives is not None:  # a replacement runs elsewhere
        used = columns.alternatives.replacementlen > 0
        texts = program.sections_at(columns.alternatives.replacement[used])
        lost &= ~among(program.sections_at(source), texts)
    entered = np.bincount(at[rows], minlength=len(blind))
    from_lost = np.bincount(at[rows[lost]], minlength=len(blind))
    return set(first[(entered > 0) & (entered == from_lost)].tolist())


def _explained(program: Program) -> frozenset[int]:
    """The functions that the source says have no standard frame."""
    section = program.section(_NON_STANDARD)
    if section is None:
        return frozenset()
    whole = section.data[: len(section.data) & ~7]
    return frozenset(np.ascontiguousarray(whole).view("<u8").tolist())


def _finding(columns: Columns, start: int, end: int) -> Finding:
    return Finding(
        RULE,
        columns.program.location(start),
        f"the table says nothing of its {end - start} bytes: an unwind stops there",
        declared=describe(columns.lookup.one(start)),
        window=excerpt(columns.program, columns.insns, start),
    )
