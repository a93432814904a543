"""Direct: the edges that the instructions themselves tell, all in one go.

Steps to the next instruction, direct jumps and calls, returns, and the symbols at
which functions start.
"""

from __future__ import annotations

import numpy as np

from harness.elf.column import distinct
from harness.elf.orc import OrcType
from harness.text.effect import WORD, Effects, Form, effects_of
from harness.text.insn import I64, InsnKind
from harness.verify.edges.edge import NO_ROW, EdgeKind
from harness.verify.edges.ledger import Ledger
from harness.verify.edges.scope import Scope
from harness.verify.edges.thunk import Thunks
from harness.verify.successor import Bools, successors
from harness.verify.transfer import ENTRY

_CALLS = (InsnKind.CALL, InsnKind.CALL_INDIRECT)

_REGISTERS = (OrcType.REGS, OrcType.REGS_PARTIAL)
_TYPE = 40  # where a packed state has it


def enter_direct(scope: Scope, ledger: Ledger, thunks: Thunks) -> tuple[I64, Effects]:
    """Enter all of them.

    Return the rows of jumps by a thunk, which are indirect, and the stack effects.
    """
    effects = _steps(scope, ledger)
    by_thunk = _branches(scope, ledger, thunks)
    _calls(scope, ledger, thunks)
    _return_addresses(scope, ledger)
    _returns(scope, ledger)
    _functions(scope, ledger)
    ledger.reach(scope.lent)
    return by_thunk, effects


def _steps(scope: Scope, ledger: Ledger) -> Effects:
    """The next instruction's state is one that the transfer permits."""
    insns = scope.columns.insns
    changes = scope.changes
    effects = effects_of(insns, changes[insns.kind[changes] == InsnKind.OTHER])
    holds = np.ones(len(insns), bool)
    holds[changes] = False
    holds[scope.gaps] = scope.behind(scope.gaps) == scope.state[scope.gaps]
    row = effects.row
    first, second = successors(scope.state[row], effects)
    behind = scope.behind(row)
    holds[row] = (first == behind) | (second == behind)
    live = scope.defined & scope.falls & ~scope.inside
    bad = np.flatnonzero(live & ~holds)
    ledger.counts[EdgeKind.STEP] += int(live.sum()) - len(bad)
    ledger.enter(EdgeKind.STEP, bad, scope.end(bad), np.zeros(len(bad), bool))
    live &= holds
    live[scope.gaps] = False
    ledger.reached[1:] |= live[:-1]
    _pass_sites(scope, ledger)
    return effects


def _pass_sites(scope: Scope, ledger: Ledger) -> None:
    """What lies behind a site is reached through its texts, which others check."""
    alternatives = scope.columns.alternatives
    if alternatives is not None:
        length = alternatives.site_length.astype(np.uint64)
        ends = alternatives.site_address + length
        ledger.reach(scope.columns.index(ends))


def _branches(scope: Scope, ledger: Ledger, thunks: Thunks) -> I64:
    """A jump changes nothing; one out of the object is a tail call.

    Unless it passes on a frame of registers: only assembly does, and only the other
    object tells what is expected there. Jumps by a thunk are returned, not entered.
    """
    insns = scope.columns.insns
    live = scope.defined[scope.branch]
    source, goes = scope.branch[live], scope.goes[live]
    target = insns.target[source]
    here, there = scope.state[source], scope.state[np.maximum(goes, 0)]
    lost = np.flatnonzero(goes < 0)
    there[lost] = scope.at(target[lost])
    external = np.zeros(len(source), bool)
    external[lost] = scope.columns.program.sections_at(target[lost]) < 0
    holds = np.where(external, here == ENTRY, there == here)
    holds[lost] |= external[lost] & np.isin(here[lost] >> _TYPE & 0xF, _REGISTERS)
    odd = np.flatnonzero(~holds)
    by_thunk = odd[thunks.use(source[odd])]
    entered = np.ones(len(source), bool)
    entered[by_thunk] = False
    for kind, some in (
        (EdgeKind.BRANCH, ~external & entered),
        (EdgeKind.TAIL, external & entered),
    ):
        ledger.enter(kind, source[some], target[some], holds[some])
    ledger.reach(goes[holds])
    return source[by_thunk]


def _calls(scope: Scope, ledger: Ledger, thunks: Thunks) -> None:
    """A function is entered with its return address on top and nothing else."""
    live = scope.defined[scope.call] & ~scope.inside[scope.call]
    source, callee = scope.call[live], scope.callee[live]
    target = scope.columns.insns.target[source]
    holds = (callee >= 0) & (scope.state[callee] == ENTRY)
    odd = np.flatnonzero(~holds)
    holds[odd] = scope.at(target[odd]) == ENTRY
    holds[odd] |= scope.columns.program.sections_at(target[odd]) < 0
    holds[odd] |= thunks.use(source[odd])
    odd = odd[~holds[odd]]
    holds[odd] = pushes_and_jumps(scope, source[odd])
    ledger.enter(EdgeKind.CALL, source, target, holds)
    ledger.reach(callee[holds])


def pushes_and_jumps(scope: Scope, rows: I64) -> Bools:
    """Tell which of ``rows`` are calls into their own function that only push.

    The frame at the target has the return address on top of the caller's: that is
    how the return stack buffer is stuffed, and how a return is made a jump.
    """
    count = len(rows)
    push = Effects(
        rows,
        np.full(count, Form.MOVE, np.uint8),
        np.full(count, -WORD),
        np.zeros(count, bool),
    )
    pushed, _ = successors(scope.state[rows], push)
    target = scope.columns.insns.target[rows]
    return np.asarray((scope.at(target) == pushed) & ~scope.is_function(target))


def _return_addresses(scope: Scope, ledger: Ledger) -> None:
    """No entry lies within a call: its frame unwinds by the last byte's state."""
    insns, ip = scope.columns.insns, scope.columns.lookup.ip
    live = insns.of_kind(*_CALLS) & scope.defined & ~scope.inside
    odd = insns.covering(ip[scope.columns.index(ip) < 0])
    odd = distinct(odd[odd >= 0])
    odd = odd[live[odd]]
    direct = insns.target[odd] != 0
    direct[direct] = pushes_and_jumps(scope, odd[direct])
    odd = odd[~direct]  # their return address is no frame's
    last = scope.at(scope.end(odd) - np.uint64(1))
    wrong = last != scope.state[odd]
    ledger.counts[EdgeKind.RETURN_ADDRESS] += int(live.sum()) - len(odd)
    ledger.enter(EdgeKind.RETURN_ADDRESS, odd, scope.end(odd), ~wrong)


def _returns(scope: Scope, ledger: Ledger) -> None:
    """A return finds the frame as the call made it."""
    insns = scope.columns.insns
    rows = np.flatnonzero(insns.kind == InsnKind.RET)
    rows = rows[scope.defined[rows] & ~scope.inside[rows]]
    holds = scope.state[rows] == ENTRY
    ledger.enter(EdgeKind.RETURN, rows, np.zeros(len(rows), np.uint64), holds)


def _functions(scope: Scope, ledger: Ledger) -> None:
    """A function symbol starts as calls do; blind ones are counted elsewhere."""
    starts = scope.functions
    states = scope.at(starts)
    row = scope.columns.index(starts)
    live = scope.defined[np.maximum(row, 0)] & (row >= 0)
    starts, states, row = starts[live], states[live], row[live]
    holds = states == ENTRY
    none: I64 = np.full(len(starts), NO_ROW, np.int64)
    ledger.enter(EdgeKind.FUNCTION, none, starts, holds)
    ledger.reach(row[holds])
