"""Indirect: the edges of jumps whose target is in a register or in memory."""

from __future__ import annotations

import numpy as np

from harness.text.insn import I64, InsnKind
from harness.verify.edges.edge import EdgeKind
from harness.verify.edges.ledger import Ledger
from harness.verify.edges.scope import Scope
from harness.verify.edges.switch import Switches, find_switches
from harness.verify.edges.thunk import Thunks
from harness.verify.transfer import ENTRY


def enter_indirect(
    scope: Scope, ledger: Ledger, thunks: Thunks, by_thunk: I64
) -> Switches:
    """Enter the edges of indirect jumps and of the rows that jump ``by_thunk``.

    Such a jump is a switch, all of whose cases have the state of the jump, or leaves
    the function for good.
    """
    insns = scope.columns.insns
    plain = np.flatnonzero(insns.kind == InsnKind.JMP_INDIRECT)
    plain = plain[scope.defined[plain] & ~scope.inside[plain]]
    # compilers that use thunks make no tables: only where it cannot be a tail call
    live = by_thunk[scope.state[by_thunk] != ENTRY]
    jumps = np.concatenate([plain, live])
    switches = find_switches(scope, jumps.tolist(), thunks)
    for row, targets in switches.targets.items():
        holds = scope.at(targets) == scope.state[row]
        source = np.full(len(targets), row, np.int64)
        ledger.enter(EdgeKind.JUMP_TABLE, source, targets, holds)
        ledger.reach(scope.columns.index(targets[holds]))
    for kind, rows in ((EdgeKind.TAIL, plain), (EdgeKind.RETPOLINE, by_thunk)):
        left = rows[[row not in switches.targets for row in rows.tolist()]]
        nowhere = np.zeros(len(left), np.uint64)
        ledger.enter(kind, left, nowhere, scope.state[left] == ENTRY)
    return switches
