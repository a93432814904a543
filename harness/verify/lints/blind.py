"""Blind: functions of which the table says nothing, or only that the stack ends there.

An unwind stops in both; where it ends the stack it is complete, else it is an error. No
rule has anything to compare: a table that loses a whole function is consistent. So each
function without a state is reported, the entries of assembly (SYM_CODE_START) among
them, and those that are meant to have none live in the reviewed baseline: it is the
ratchet. An object before the link explains them itself (STACK_FRAME_NON_STANDARD); a
stack may end in what begins by loading another. Which of the two holds nothing changes
on the way from one instruction to the next.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np

from harness.elf.column import among, distinct
from harness.elf.orc import OrcType, describe
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.effect import Form, effect_of
from harness.text.insn import I64, U64, InsnKind
from harness.verify.columns import Columns, Part
from harness.verify.extent import functions, holding, named
from harness.verify.successor import Bools, defined
from harness.verify.transfer import UNDEFINED
from harness.verify.window import excerpt


class Rule(enum.StrEnum):
    """Ids of the findings about code without a state."""

    FUNCTION = "blind/function"
    END = "blind/end"
    STEP = "blind/step"


_STEP = "only one of two instructions ends the stack, and the first leads to the second"
_FILL = (InsnKind.NOP, InsnKind.TRAP)
_PADDING = (*_FILL, InsnKind.UD, InsnKind.ENDBR)
_FALLS = np.array([kind.falls_through for kind in InsnKind])
_NON_STANDARD = ".discard.func_stack_frame_non_standard"


def check_blind(columns: Columns) -> Part:
    """Report functions without a state from their start on, and where that changes.

    Counts: functions with a size, and of them those without a state, explained ones
    included. Notes: fragments of dropped weak functions.
    """
    start, end = functions(columns.program)
    steps = _steps(columns, start)
    if not len(start):
        return Part(tuple(steps))
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
    findings = [
        _finding(columns, first, last)
        for first, last in blind
        if first not in meant and first not in dropped
    ]
    counts = {"functions": len(start), "blind functions": len(blind) - len(dropped)}
    notes = [f"{len(dropped)} fragments of dropped weak functions"] if dropped else []
    return Part((*findings, *steps), counts, tuple(notes))


def _mostly_unknown(columns: Columns, start: int, end: int) -> bool:
    """Whether most of a function's instructions that do anything have no state.

    One that does nothing but BUG(), as abort() does, is asked for that.
    """
    first, last = np.searchsorted(
        columns.insns.address, np.array([start, end], np.uint64)
    ).tolist()
    kind = columns.insns.kind[first:last]
    real = ~np.isin(kind, _PADDING)
    if not real.any():
        real = ~np.isin(kind, _FILL)
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
    lost &= ~_in_replacement(columns, source)
    entered = np.bincount(at[rows], minlength=len(blind))
    from_lost = np.bincount(at[rows[lost]], minlength=len(blind))
    return set(first[(entered > 0) & (entered == from_lost)].tolist())


def _in_replacement(columns: Columns, addresses: U64) -> Bools:
    """Tell which of ``addresses`` are where replacements lie, which run elsewhere."""
    program, table = columns.program, columns.alternatives
    if table is None:
        return np.zeros(len(addresses), bool)
    texts = program.sections_at(table.replacement[table.replacementlen > 0])
    return np.asarray(among(program.sections_at(addresses), texts))


def _explained(program: Program) -> frozenset[int]:
    """The functions that the source says have no standard frame."""
    section = program.section(_NON_STANDARD)
    if section is None:
        return frozenset()
    whole = section.data[: len(section.data) & ~7]
    return frozenset(np.ascontiguousarray(whole).view("<u8").tolist())


def _finding(columns: Columns, start: int, end: int) -> Finding:
    state, size = columns.lookup.one(start), end - start
    rule = Rule.FUNCTION if state == UNDEFINED else Rule.END
    says = {
        Rule.FUNCTION: f"the table says nothing of its {size} bytes",
        Rule.END: f"the table ends the stack in its {size} bytes",
    }
    return Finding(
        rule.value,
        columns.program.location(start),
        f"{says[rule]}: an unwind stops there",
        declared=describe(state),
        window=excerpt(columns.program, columns.insns, start),
    )


# --- from one instruction to the next -----------------------------------------------


def _steps(columns: Columns, starts: U64) -> Iterator[Finding]:
    """Report where control goes from what ends the stack to what says nothing, or back."""
    falls, jumps = _falls(columns, starts), _jumps(columns)
    for source, target in (*zip(*falls, strict=True), *zip(*jumps, strict=True)):
        address = int(columns.insns.address[target])
        yield Finding(
            Rule.STEP.value,
            columns.program.location(address),
            _STEP,
            declared=describe(int(columns.state[target])),
            actual=describe(int(columns.state[source])),
            window=excerpt(columns.program, columns.insns, address),
        )


def _falls(columns: Columns, starts: U64) -> tuple[list[int], list[int]]:
    """From one instruction to the one behind it; an entry begins there.

    Padding has no state, and is not led to: in front of what has a name NOPs align it.
    Nor has what lies before a function's entry, as kCFI's preamble (``__cfi_``) does.
    """
    insns, symbols = columns.insns, columns.program.symbols
    if not len(insns):
        return [], []
    target = distinct(columns.begins[_stateless(columns.lookup.state)])
    target = target[(target > 0) & (target < len(insns))]
    source = target - 1
    goes = insns.ends(source) == insns.address[target]
    goes &= _FALLS[insns.kind[source]] & _turned(columns, source, target)
    aligns = insns.kind[source] == InsnKind.NOP
    goes &= ~(aligns & among(insns.address[target], symbols.address))
    before = columns.state[source] == UNDEFINED
    goes &= ~(before & among(insns.address[target], starts))
    rows = [row for row in target[goes].tolist() if not _is_padding(columns, row)]
    return [row - 1 for row in rows], rows


def _is_padding(columns: Columns, row: int) -> bool:
    """Whether there is int3, or NOPs up to what has a name, and no state."""
    insns, symbols = columns.insns, columns.program.symbols
    if columns.state[row] != UNDEFINED:
        return False
    last = row
    while last < len(insns) and insns.kind[last] == InsnKind.NOP:
        last += 1
    if last == len(insns) or insns.kind[last] == InsnKind.TRAP:
        return True
    adjacent = insns.at(last - 1).end == insns.address[last]
    return last > row and not (adjacent and insns.address[last] not in symbols.address)


def _jumps(columns: Columns) -> tuple[list[int], list[int]]:
    """From a jump to where it leads; a replacement, which has no state, runs elsewhere."""
    insns = columns.insns
    source = columns.branches[_stateless(columns.branch_state)]
    source = source[insns.kind[source] != InsnKind.CALL]
    target = columns.index(insns.target[source])
    source, target = source[target >= 0], target[target >= 0]
    turned = _turned(columns, source, target)
    source, target = source[turned], target[turned]
    runs = ~_in_replacement(columns, insns.address[source])
    return source[runs].tolist(), target[runs].tolist()


def _stateless(states: I64) -> Bools:
    return np.asarray(states >> 40 & 15 <= OrcType.END_OF_STACK)


def _turned(columns: Columns, source: I64, target: I64) -> Bools:
    """Whether one of two ends the stack, and the other says nothing."""
    before, after = columns.state[source], columns.state[target]
    differ = before >> 40 & 15 != after >> 40 & 15
    return np.asarray(_stateless(before) & _stateless(after) & differ)
