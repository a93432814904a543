"""Entry: where hardware and hypervisors come in, and no instruction tells the frame.

The first claim of such code follows from nothing. What can be said of it: hardware
pushes the interrupt's words, and before a fault's or an abort's an error code; the
registers are the interrupted context's, so that only %rsp leads there.
"""

from __future__ import annotations

import enum

import numpy as np
from msgspec.structs import replace

from harness.elf.column import among, distinct
from harness.elf.orc import SIGNAL, OrcReg, OrcType, describe
from harness.finding import Finding
from harness.text.effect import WORD
from harness.text.insn import I64, U64, InsnKind
from harness.verify.columns import Columns, Part
from harness.verify.extent import functions, holding
from harness.verify.successor import Bools, interrupted
from harness.verify.window import excerpt

_JUMPS = (InsnKind.JMP, InsnKind.JCC)
_FALLS = np.array([kind.falls_through for kind in InsnKind])


class Rule(enum.StrEnum):
    """Ids of the findings about entries."""

    FRAME = "entry/frame"
    LOST = "entry/lost"


_BASE = "hardware makes a frame that only %rsp leads to"
_TRAP = "an error code is a fault's, whose address is the instruction that faulted"
_ORIGIN = "a trap's frame is hardware's to make, and nothing leads here with one"
_FIRST = "the table has no state at the first instruction, and one behind it"
_JUMP = "code without a state jumps to where an interrupt's frame is"


def check_entries(columns: Columns) -> Part:
    """Check the first claims of what begins with an interrupt's frame."""
    if not len(columns.insns):
        return Part()
    start, end = functions(columns.program)
    row = columns.index(start)
    start, end, row = start[row >= 0], end[row >= 0], row[row >= 0]
    state = columns.state
    found = [
        *_frames(columns, distinct(np.append(row, _landings(columns)))),
        *_rows(columns, _from_nowhere(columns, row), Rule.FRAME, _ORIGIN),
        *_rows(columns, row[_begins_late(columns, row, end)], Rule.LOST, _FIRST),
        *(_of_function(f) for f in _rows(columns, _jumps(columns), Rule.LOST, _JUMP)),
    ]
    begins = int(interrupted(state[row]).sum())
    return Part(tuple(found), {"interrupt entries": begins})


def _landings(columns: Columns) -> I64:
    """Rows of ENDBR, which an indirect branch or hardware goes to."""
    landings: I64 = np.flatnonzero(columns.insns.kind == InsnKind.ENDBR)
    return landings


def _frames(columns: Columns, rows: I64) -> list[Finding]:
    """What claims an interrupt's frame that hardware does not make: of ``rows``."""
    rows = rows[interrupted(columns.state[rows])]
    state = columns.state[rows]
    by_sp = state >> 32 & 15 == OrcReg.SP
    coded = (state >> 40 & 15 == OrcType.REGS_PARTIAL) & (state & 0xFFFF == WORD)
    trap = by_sp & coded & (state & SIGNAL == 0)
    return [
        *_rows(columns, rows[~by_sp], Rule.FRAME, _BASE),
        *_rows(columns, rows[trap], Rule.FRAME, _TRAP),
    ]


def _from_nowhere(columns: Columns, entered: I64) -> I64:
    """Rows of entries for a trap's frame that none leads to, other than ``entered``.

    Instructions keep such a frame or copy it; of a copy hints say that it is a fault's.
    """
    insns, state = columns.insns, columns.state
    trap = _is_trap(columns.lookup.state)
    rows = distinct(columns.begins[trap])
    rows = rows[rows < len(insns)]
    entered = np.append(entered, _landings(columns))
    rows = rows[~among(rows, entered)]
    if not len(rows):
        return rows
    before = np.maximum(rows - 1, 0)
    steps = (insns.ends(before) == insns.address[rows]) & (before < rows)
    steps &= _FALLS[insns.kind[before]] & _is_trap(state[before])
    jumps = columns.branches[_is_trap(columns.branch_state)]
    led = among(insns.address[rows], insns.target[jumps])
    return np.asarray(rows[~steps & ~led])


def _is_trap(states: I64) -> Bools:
    """Tell which states are an interrupt's whose address is not where it struck."""
    return np.asarray(interrupted(states) & (states & SIGNAL == 0))


def _begins_late(columns: Columns, row: I64, end: U64) -> Bools:
    """Which symbols have no state at their first instruction, and one at the second."""
    following = np.minimum(row + 1, len(columns.insns) - 1)
    inside = columns.insns.address[following] < end
    here, behind = (columns.state[at] >> 40 & 15 for at in (row, following))
    known = behind != OrcType.UNDEFINED
    return np.asarray((here == OrcType.UNDEFINED) & known & inside)


def _jumps(columns: Columns) -> I64:
    """Rows of jumps from where no state is to an interrupt's frame."""
    insns, state = columns.insns, columns.state
    lost = columns.branch_state >> 40 & 15 == OrcType.UNDEFINED
    rows: I64 = columns.branches[lost]
    rows = rows[np.isin(insns.kind[rows], _JUMPS)]
    goes = columns.index(insns.target[rows])
    rows, goes = rows[goes >= 0], goes[goes >= 0]
    rows = np.asarray(rows[interrupted(state[goes])])
    if columns.alternatives is None:
        return rows
    texts = columns.alternatives  # a replacement runs in its site
    order = np.argsort(texts.replacement, kind="stable")
    first = texts.replacement[order]
    last = first + texts.replacementlen[order].astype(np.uint64)
    return np.asarray(rows[holding(first, last, insns.address[rows]) < 0])


def _of_function(finding: Finding) -> Finding:
    """One finding for all jumps of a function: an array of stubs is one cause."""
    return replace(finding, cause=f"jumps of {finding.location.symbol}")


def _rows(columns: Columns, rows: I64, rule: Rule, message: str) -> list[Finding]:
    addresses = columns.insns.address[rows].tolist()
    return [
        Finding(
            rule.value,
            columns.program.location(address),
            message,
            declared=describe(columns.lookup.one(address)),
            window=excerpt(columns.program, columns.insns, address),
        )
        for address in addresses
    ]
