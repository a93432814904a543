"""Flow: the whole text checked, every edge between instructions.

Nearly all edges hold at first sight. What is left is settled by rules that look
further: a callee that never returns, one that returns with %rsp moved, a fragment
of a function that jumps lead to. The rest is followed through its functions.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.column import among, distinct
from harness.text.insn import I64, InsnKind
from harness.verify.callee import Callees, Returns
from harness.verify.columns import Columns, Part
from harness.verify.edges.coverage import coverage
from harness.verify.edges.depth import depths_of, unsure_pops
from harness.verify.edges.direct import enter_direct, pushes_and_jumps
from harness.verify.edges.doubt import (
    drops_signal,
    findings_of,
    gains_registers,
    gains_signal,
    leads_nowhere,
    refusals_of,
)
from harness.verify.edges.edge import EdgeKind, Edges, edges, join
from harness.verify.edges.frame.settle import Verdict, settle
from harness.verify.edges.indirect import enter_indirect
from harness.verify.edges.ledger import Ledger, ledger_for
from harness.verify.edges.noreturn import Noreturn, Ways, exports_of, ways_of
from harness.verify.edges.orphan import orphans
from harness.verify.edges.realign import realign
from harness.verify.edges.scope import Scope, scope_of
from harness.verify.edges.side import Sides, enter_side, label_jumps, sides_of
from harness.verify.edges.switch import Switches
from harness.verify.edges.thunk import thunks_of
from harness.verify.edges.wholesale import broken_tables
from harness.verify.successor import Bools, defined
from harness.verify.verdict import Exports, Reliance


class Flow(Struct, frozen=True):
    """All edges of a program, as far as single instructions tell.

    Attributes:
        scope: the instructions.
        ledger: what was looked at.
        doubtful: the edges that no rule has settled.
        ends: i64[k], rows of calls that are proved never to return.
        relied: the steps over calls of other objects' functions, of ``ends``.
        switches: the tables of indirect jumps.
        noreturn: the proof that calls end.
    """

    scope: Scope
    ledger: Ledger
    doubtful: Edges
    ends: I64
    relied: Edges
    switches: Switches
    noreturn: Noreturn


def flow_of(columns: Columns) -> Flow:
    """Follow all edges of ``columns``."""
    scope = scope_of(columns)
    ledger = ledger_for(len(columns.insns))
    thunks = thunks_of(columns.program, columns.insns)
    by_thunk, effects = enter_direct(scope, ledger, thunks)
    sides = sides_of(columns.program)
    enter_side(scope, ledger, sides)
    switches = enter_indirect(scope, ledger, thunks, by_thunk)
    failed = ledger.doubtful
    doubtful = join([failed, _steps_of(scope, _last_calls(scope, failed))])
    relied = _external(scope, doubtful)
    targets = frozenset(columns.insns.target[doubtful.source[relied]].tolist())
    prover = Noreturn(scope, thunks, _ways(scope, switches, sides), targets)
    ends = relied | _ends(scope, doubtful, prover)
    never = doubtful.source[ends]
    depths = depths_of(scope, effects, prover.ways, never)
    left = ~ends
    left[len(failed) :] = False  # they hold: that they end is all that is asked
    realigned = realign(scope, doubtful, depths, prover.ways)
    ledger.reach(columns.index(doubtful.target[realigned.proved]))
    left &= ~realigned.proved
    unsure = np.concatenate([unsure_pops(scope, effects, depths), realigned.unsure])
    moved = _moved(scope, doubtful, left)
    ledger.reach(columns.index(doubtful.target[moved]))
    left &= ~moved
    left &= ~_fragments(scope, ledger, doubtful)
    return Flow(
        scope=scope,
        ledger=ledger,
        doubtful=join([doubtful.take(left), _steps_of(scope, unsure)]),
        ends=never,
        relied=doubtful.take(relied),
        switches=switches,
        noreturn=prover,
    )


def _steps_of(scope: Scope, rows: I64) -> Edges:
    return edges(EdgeKind.STEP, rows, scope.end(rows))


def _ways(scope: Scope, switches: Switches, sides: Sides) -> Ways:
    """Where control may go from a row, other than what its instruction tells."""
    columns = scope.columns
    parts = [
        (np.full(len(targets), row, np.int64), targets)
        for row, targets in switches.targets.items()
    ]
    for sites in (sides.exceptions, sides.labels):
        if sites is not None:
            parts.append((columns.index(sites.address), sites.target))
    turned = label_jumps(scope, sides)
    parts.append((turned, scope.end(turned)))
    warns = columns.index(sides.warnings)
    warns = warns[warns >= 0]
    parts.append((warns, scope.end(warns)))
    if columns.alternatives is not None:
        start = columns.alternatives.site_address
        length = columns.alternatives.site_length.astype(np.uint64)
        parts.append((columns.index(start), start + length))
    return ways_of(parts)


def _calls_behind(scope: Scope, edges: Edges) -> Bools:
    """Steps over a direct call: which of ``edges``."""
    kind = scope.columns.insns.kind[np.maximum(edges.source, 0)]
    return np.asarray((edges.kind == EdgeKind.STEP) & (kind == InsnKind.CALL))


def _external(scope: Scope, edges: Edges) -> Bools:
    """Steps over calls of other objects' functions: which of ``edges``."""
    external = np.zeros(len(edges), bool)
    at = np.flatnonzero(_calls_behind(scope, edges))
    targets = scope.columns.insns.target[edges.source[at]].tolist()
    external[at] = [target in scope.columns.program.externals for target in targets]
    return external


def _ends(scope: Scope, edges: Edges, prover: Noreturn) -> Bools:
    """Steps over calls that never return: which of ``edges``.

    Nor does anybody return to a call that only pushes, where nothing is behind it.
    """
    steps = np.flatnonzero(_calls_behind(scope, edges))
    rows = edges.source[steps]
    insns = scope.columns.insns
    target = insns.target[rows]
    proved = prover.prove(distinct(target).tolist())
    never = [address in proved for address in target.tolist()]
    nothing = ~defined(scope.behind(rows))
    ends = np.zeros(len(edges), bool)
    ends[steps] = np.array(never, bool) | (nothing & pushes_and_jumps(scope, rows))
    return ends


def _last_calls(scope: Scope, doubtful: Edges) -> I64:
    """Direct calls behind which another function starts, in the state of the call.

    So no step is ``doubtful`` that tells of their end, and nothing else does.
    """
    start = scope.functions
    row = scope.columns.index(start)
    row, start = row[row > 0] - 1, start[row > 0]
    row = row[scope.end(row) == start]
    row = row[scope.columns.insns.kind[row] == InsnKind.CALL]
    steps = doubtful.source[doubtful.kind == EdgeKind.STEP]
    return np.asarray(row[~among(row, steps)])


def _moved(scope: Scope, edges: Edges, left: Bools) -> Bools:
    """Steps over calls whose callee moves %rsp as the table says: which of ``edges``."""
    columns = scope.columns
    callees = Callees(columns.program, columns.insns, columns.lookup)
    moved = np.zeros(len(edges), bool)
    steps = np.flatnonzero(_calls_behind(scope, edges) & left)
    behind = scope.behind(edges.source[steps])
    for at, state in zip(steps.tolist(), behind.tolist(), strict=True):
        callee = callees.at(int(columns.insns.target[edges.source[at]]))
        moved[at] = callee.returns is Returns.MOVED and callee.state == state
    return moved


def _fragments(scope: Scope, ledger: Ledger, edges: Edges) -> Bools:
    """Parts of functions that have a symbol of their own: which of ``edges``.

    Jumps lead there with the frame that the table has there; no call does.
    """
    found = np.zeros(len(edges), bool)
    symbols = np.flatnonzero(edges.kind == EdgeKind.FUNCTION)
    target = edges.target[symbols]
    reached = ledger.reached[scope.columns.index(target)]
    called = among(target, edges.target[edges.kind == EdgeKind.CALL])
    found[symbols] = reached & ~called
    return found


def check_flow(columns: Columns) -> Part:
    """Check every edge between instructions.

    Counts: edges by kind, and what :func:`harness.verify.edges.coverage.coverage` tells.
    """
    if not len(columns.insns):
        return Part()
    flow = flow_of(columns)
    scope, tables = flow.scope, flow.switches.targets
    if broken := broken_tables(scope, flow.doubtful):
        unfollowed = {"not followed edges": len(flow.doubtful)}
        counts = coverage(scope, flow.ledger) | unfollowed
        note = f"{len(flow.doubtful):,} edges were not followed: it is wrong wholesale"
        return Part(broken, counts, (note,), _reliances(flow), _exports(flow))
    settled = settle(scope, flow.doubtful, flow.ends, flow.noreturn.ways, tables)
    unseen = settled.verdict == Verdict.UNSEEN
    unseen |= leads_nowhere(scope, flow.doubtful)
    unseen |= drops_signal(scope, flow.doubtful)
    gains = gains_signal(scope, flow.doubtful) | gains_registers(scope, flow.doubtful)
    unseen |= gains & (settled.verdict != Verdict.REFUSED)
    good = np.isin(settled.verdict, (Verdict.PROVED, Verdict.ASSUMED))
    flow.ledger.reach(columns.index(flow.doubtful.target[good]))
    counts = coverage(scope, flow.ledger) | {
        "calls that end": len(flow.ends),
        "switches": len(tables),
        "followed edges": len(flow.doubtful),
        "assumed": len(settled.assumed),
    }
    findings = (
        *refusals_of(scope, settled.refusals, flow.doubtful),
        *findings_of(scope, flow.doubtful.take(unseen)),
        *orphans(scope, flow.ledger, flow.switches),
    )
    return Part(findings, counts, (), _reliances(flow), _exports(flow))


def _reliances(flow: Flow) -> tuple[Reliance, ...]:
    """What must be true of other objects' functions; one for each of these."""
    program, insns = flow.scope.columns.program, flow.scope.columns.insns
    target = insns.target[flow.relied.source]
    callees, first, count = np.unique(target, return_index=True, return_counts=True)
    findings = findings_of(flow.scope, flow.relied.take(first))
    return tuple(
        Reliance(
            program.externals[callee],
            replace(
                finding,
                cause=f"callee {program.externals[callee]}",
                occurrences=number,
            ),
        )
        for callee, number, finding in zip(
            callees.tolist(), count.tolist(), findings, strict=True
        )
    )


def _exports(flow: Flow) -> Exports | None:
    columns = flow.scope.columns
    if not columns.offers:
        return None
    return exports_of(flow.noreturn, distinct(columns.insns.target[flow.ends]).tolist())
