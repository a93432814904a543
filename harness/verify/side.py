"""Side: the edges that only a table of the object tells.

Exceptions, static keys and calls, warnings.
"""

from __future__ import annotations

import numpy as np

from harness.elf.bug import parse_warnings
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import U64, InsnKind
from harness.verify.edge import EdgeKind
from harness.verify.ledger import Ledger
from harness.verify.scope import Scope
from harness.verify.transfer import ENTRY

TAIL_CALL = np.uint64(1)  # STATIC_CALL_SITE_TAIL, in the key's low bits


def enter_side(scope: Scope, ledger: Ledger) -> None:
    """Enter the edges of all side tables that the program has."""
    program = scope.columns.program
    for table, kind in (
        (SiteTable.EX_TABLE, EdgeKind.EX_TABLE),
        (SiteTable.JUMP_TABLE, EdgeKind.JUMP_LABEL),
    ):
        sites = parse_sites(program, table)
        if sites is not None:
            _equal(scope, ledger, kind, sites.address, sites.target)
    _warnings(scope, ledger)
    _static_calls(scope, ledger)


def _equal(
    scope: Scope, ledger: Ledger, kind: EdgeKind, source: U64, target: U64
) -> None:
    """Control may go from ``source`` to ``target`` and changes nothing by it."""
    insns = scope.columns.insns
    row = insns.index(source)
    live = scope.defined[np.maximum(row, 0)] & (row >= 0)
    row, target = row[live], target[live]
    holds = scope.at(target) == scope.state[row]
    ledger.enter(kind, row, target, holds)
    ledger.reach(insns.index(target[holds]))


def _warnings(scope: Scope, ledger: Ledger) -> None:
    """A ud2 that only warns goes on behind it."""
    insns = scope.columns.insns
    row = insns.index(parse_warnings(scope.columns.program))
    row = row[row >= 0]
    row = row[(insns.kind[row] == InsnKind.UD) & scope.defined[row]]
    holds = scope.behind[row] == scope.state[row]
    ledger.enter(EdgeKind.BUG, row, insns.end[row], holds)
    ledger.reach(insns.index(insns.end[row[holds]]))


def _static_calls(scope: Scope, ledger: Ledger) -> None:
    """A static call in tail position may become a return or a jump to a function."""
    sites = parse_sites(scope.columns.program, SiteTable.STATIC_CALL_SITES)
    if sites is None:
        return
    tail = sites.address[sites.target & TAIL_CALL != 0]
    row = scope.columns.insns.index(tail)
    row = row[row >= 0]
    row = row[scope.defined[row]]
    holds = scope.state[row] == ENTRY
    ledger.enter(EdgeKind.STATIC_CALL, row, np.zeros(len(row), np.uint64), holds)
