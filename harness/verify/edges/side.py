"""Side: the edges that only a table of the object tells.

Exceptions, static keys and calls, warnings.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.bug import parse_warnings
from harness.elf.program import Program
from harness.elf.sites import Sites, SiteTable, parse_sites
from harness.text.insn import I64, U64, InsnKind
from harness.verify.edges.edge import EdgeKind
from harness.verify.edges.ledger import Ledger
from harness.verify.edges.scope import Scope
from harness.verify.transfer import ENTRY

TAIL_CALL = np.uint64(1)  # STATIC_CALL_SITE_TAIL, in the key's low bits


class Sides(Struct, frozen=True):
    """The side tables of a program, None where it has none.

    Attributes:
        exceptions: __ex_table.
        labels: __jump_table.
        static_calls: .static_call_sites.
        warnings: u64[n], instructions of __bug_table behind which the code goes on.
    """

    exceptions: Sites | None
    labels: Sites | None
    static_calls: Sites | None
    warnings: U64


def sides_of(program: Program) -> Sides:
    """Read the side tables of ``program``.

    Raises:
        FormatError: no known entry size makes sense of one.
    """
    return Sides(
        parse_sites(program, SiteTable.EX_TABLE),
        parse_sites(program, SiteTable.JUMP_TABLE),
        parse_sites(program, SiteTable.STATIC_CALL_SITES),
        parse_warnings(program),
    )


def enter_side(scope: Scope, ledger: Ledger, sides: Sides) -> None:
    """Enter the edges of all side tables."""
    for sites, kind in (
        (sides.exceptions, EdgeKind.EX_TABLE),
        (sides.labels, EdgeKind.JUMP_LABEL),
    ):
        if sites is not None:
            _equal(scope, ledger, kind, sites.address, sites.target)
    row = label_jumps(scope, sides)
    _equal(
        scope,
        ledger,
        EdgeKind.JUMP_LABEL,
        scope.columns.insns.address[row],
        scope.end(row),
    )
    _warnings(scope, ledger, sides.warnings)
    if sides.static_calls is not None:
        _static_calls(scope, ledger, sides.static_calls)


def label_jumps(scope: Scope, sides: Sides) -> I64:
    """Return the rows of jumps of static keys, which become NOPs when a key is turned."""
    if sides.labels is None:
        return np.zeros(0, np.int64)
    row = scope.columns.index(sides.labels.address)
    row = row[row >= 0]
    return np.asarray(row[scope.columns.insns.kind[row] == InsnKind.JMP])


def _equal(
    scope: Scope, ledger: Ledger, kind: EdgeKind, source: U64, target: U64
) -> None:
    """Control may go from ``source`` to ``target`` and changes nothing by it."""
    row = scope.columns.index(source)
    live = scope.defined[np.maximum(row, 0)] & (row >= 0)
    row, target = row[live], target[live]
    holds = scope.at(target) == scope.state[row]
    ledger.enter(kind, row, target, holds)
    ledger.reach(scope.columns.index(target[holds]))


def _warnings(scope: Scope, ledger: Ledger, warnings: U64) -> None:
    """A ud2 that only warns goes on behind it."""
    insns = scope.columns.insns
    row = scope.columns.index(warnings)
    row = row[row >= 0]
    row = row[(insns.kind[row] == InsnKind.UD) & scope.defined[row]]
    holds = scope.behind(row) == scope.state[row]
    ledger.enter(EdgeKind.BUG, row, scope.end(row), holds)
    ledger.reach(scope.columns.index(scope.end(row[holds])))


def _static_calls(scope: Scope, ledger: Ledger, sites: Sites) -> None:
    """A static call in tail position may become a return or a jump to a function."""
    tail = sites.address[sites.target & TAIL_CALL != 0]
    row = scope.columns.index(tail)
    row = row[row >= 0]
    row = row[scope.defined[row]]
    holds = scope.state[row] == ENTRY
    ledger.enter(EdgeKind.STATIC_CALL, row, np.zeros(len(row), np.uint64), holds)
