"""Settle: the verdict on edges that the local rule leaves in doubt.

Each is proved, refused, or taken for a reason (:mod:`harness.verify.edges.frame.assume`),
by executing the unit that it belongs to: from the function where it lies, or from
those whose jumps lead there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import numpy as np
from msgspec import Struct

from harness.elf.column import distinct
from harness.elf.hint import parse_hints
from harness.elf.orc import OrcReg, OrcType, unpack
from harness.text.insn import I64, U8, InsnKind
from harness.verify.callee import Callees
from harness.verify.edges.edge import NO_ROW, EdgeKind, Edges
from harness.verify.edges.frame.assume import Assumption
from harness.verify.edges.frame.body import Bodies, bodies_of
from harness.verify.edges.frame.claim import Answer, is_call, weakest
from harness.verify.edges.frame.frame import Frame
from harness.verify.edges.frame.unit import Routes, Walker
from harness.verify.edges.frame.walked import Refusal, Walked
from harness.verify.edges.noreturn import Ways
from harness.verify.edges.scope import Scope
from harness.verify.successor import defined
from harness.verify.transfer import ENTRY, UNDEFINED, is_defined

_FAR = 4  # rounds of looking for those who jump to a fragment
_PADDING = (InsnKind.NOP, InsnKind.TRAP)
_UNTOLD = (Assumption.WITHOUT, Assumption.KEPT)  # by hints
_LEAVES = (EdgeKind.TAIL, EdgeKind.RETPOLINE, EdgeKind.STATIC_CALL)


class Verdict(enum.IntEnum):
    """What became of an edge."""

    UNSEEN = 0  # no walk came there
    PROVED = 1
    REFUSED = 2
    ASSUMED = 3


class Settled(Struct, frozen=True):
    """What became of the doubtful edges.

    Attributes:
        verdict: u8[n], a Verdict each.
        refusals: what the walks refused, once for each function and reason.
        assumed: i64[k], rows whose claim was taken without proof.
        executed: how many instructions were executed.
    """

    verdict: U8
    refusals: tuple[Refusal, ...]
    assumed: I64
    executed: int


def settle(
    scope: Scope, doubtful: Edges, ends: I64, ways: Ways, tables: Iterable[int]
) -> Settled:
    """Settle ``doubtful`` edges.

    ``ends`` are rows of calls that never return, ``ways`` where control goes besides
    what instructions tell, ``tables`` rows of jumps that go nowhere else.
    """
    insns = scope.columns.insns
    leaves = doubtful.source[np.isin(doubtful.kind, _LEAVES)]
    routes = Routes(
        ends=frozenset(ends.tolist()),
        silent=frozenset(insns.target[ends].tolist()) - {0},
        exits=frozenset(leaves.tolist()),
        tables=frozenset(tables),
    )
    bodies = bodies_of(scope, ways)
    callees = Callees(scope.columns.program, insns, scope.columns.lookup)
    walker = Walker(bodies, routes, callees)
    wanted = _wanted(scope, doubtful)
    begins = _begins(scope, bodies)
    for row in (*_roots(scope, bodies, [*begins, *wanted]), *begins):
        if row not in walker.walked.executed:
            walker.walk(row, _start(bodies, row))
    for row in wanted:
        first = bodies.of(row).first
        if row not in walker.walked.executed and is_defined(bodies.state(first)):
            walker.walk(first, _start(bodies, first))
    for row in wanted:
        for start in _unnamed(scope, bodies, row):
            if row in walker.walked.executed:
                break
            walker.walk(start, _start(bodies, start))
    return _settled(scope, doubtful, walker)


def _start(bodies: Bodies, row: int) -> Frame:
    return weakest(bodies.state(row), bodies.address(row))


def _wanted(scope: Scope, doubtful: Edges) -> list[int]:
    """Return the rows that must be executed to settle ``doubtful``."""
    target = scope.columns.insns.index(doubtful.target)
    source = np.where(doubtful.source == NO_ROW, target, doubtful.source)
    rows: list[int] = distinct(source[source >= 0]).tolist()
    return rows


def _begins(scope: Scope, bodies: Bodies) -> list[int]:
    """Return where code begins that runs without a state into a defined one."""
    insns = scope.columns.insns
    padding = insns.of_kind(InsnKind.NOP, InsnKind.TRAP)
    blind = ~scope.defined & scope.falls & ~scope.inside & ~padding
    blind[:-1] &= scope.defined[1:]
    blind[scope.gaps] = False
    rows = set(_dying_sites(scope))
    for row in np.flatnonzero(blind).tolist():
        first = bodies.of(row).first
        if row + 1 == bodies.of(row + 1).first:
            continue  # what lies in front of a function
        while row > first and scope.falls[row - 1]:
            row -= 1
        rows.add(row)
    return sorted(rows)


def _unnamed(scope: Scope, bodies: Bodies, row: int) -> Iterator[int]:
    """Yield where a function without a name may start that ``row`` lies in.

    The linker drops a weak function's symbol and leaves its code: nothing leads
    there. It starts as a call enters it, behind what does not run into it.
    """
    starts = np.arange(row, bodies.of(row).first, -1)
    apart = ~scope.falls[starts - 1]
    apart |= scope.columns.insns.kind[starts - 1] == InsnKind.NOP
    for start in starts[apart].tolist():
        if bodies.state(start) == ENTRY:
            yield start


def _dying_sites(scope: Scope) -> list[int]:
    """Return the rows of sites behind which the table has no state any more."""
    alternatives = scope.columns.alternatives
    if alternatives is None:
        return []
    start = alternatives.site_address
    end = start + alternatives.site_length.astype(np.uint64)
    dies = defined(scope.at(start)) & ~defined(scope.at(end))
    rows = scope.columns.insns.index(start[dies])
    found: list[int] = rows[rows >= 0].tolist()
    return found


def _roots(scope: Scope, bodies: Bodies, rows: Iterable[int]) -> list[int]:
    """Return the rows at which the units of ``rows`` start.

    A fragment starts with a frame that others made: those who jump to it do, or who
    run into it.
    """
    roots = set[int]()
    todo = {bodies.of(row).first for row in rows}
    for _ in range(_FAR):
        fragments = {row for row in todo if _is_fragment(bodies.state(row))}
        labels = {row for row in todo if _is_label(scope, row)}
        roots |= todo - fragments - labels
        before = [row - 1 for row in labels]
        todo = {
            bodies.of(row).first
            for row in (*_jumpers(scope, bodies, fragments), *before)
        }
        todo -= roots
        if not todo:
            break
    return sorted(roots)


def _is_fragment(state: int) -> bool:
    return is_call(state) and state != ENTRY


def _is_label(scope: Scope, row: int) -> bool:
    """Whether code without a state runs into ``row``, which has none either."""
    kind = scope.columns.insns.kind[row - 1]
    runs = scope.falls[row - 1] and kind not in _PADDING
    return bool(row and runs and not scope.defined[row - 1] and not scope.defined[row])


def _jumpers(scope: Scope, bodies: Bodies, fragments: set[int]) -> Iterator[int]:
    """Yield the rows from where control comes into the bodies that start there."""
    if not fragments:
        return
    first = np.array(sorted(fragments), np.int64)
    before = first[first > 0] - 1
    yield from before[scope.falls[before]].tolist()
    last = np.array([bodies.of(row).last for row in first.tolist()], np.int64)
    at = np.searchsorted(first, scope.goes, side="right") - 1
    inside = (at >= 0) & (scope.goes < last[at])
    outside = (scope.branch < first[at]) | (scope.branch >= last[at])
    yield from scope.branch[inside & outside].tolist()


def _settled(scope: Scope, doubtful: Edges, walker: Walker) -> Settled:
    walked = walker.walked
    target = scope.columns.insns.index(doubtful.target)
    verdict = [
        _verdict(walker, EdgeKind(kind), source, row)
        for kind, source, row in zip(
            doubtful.kind.tolist(),
            doubtful.source.tolist(),
            target.tolist(),
            strict=True,
        )
    ]
    rows = np.array(sorted({row for _, row in walked.assumed}), np.int64)
    for refusal in _unhinted(scope, walker):
        walked.refused.setdefault((refusal.source, refusal.row), refusal)
    refusals = tuple(_by_function(walker.bodies, walked))
    return Settled(np.array(verdict, np.uint8), refusals, rows, len(walked.executed))


def _verdict(walker: Walker, kind: EdgeKind, source: int, row: int) -> Verdict:
    walked = walker.walked
    if kind is EdgeKind.CALL:
        return _entered(walker.bodies, row)
    if kind in (EdgeKind.FUNCTION, EdgeKind.RETURN_ADDRESS):
        return Verdict.UNSEEN
    if source not in walked.executed:
        return Verdict.UNSEEN
    way = (source, row)
    if way in walked.refused or (source, source) in walked.refused:
        return Verdict.REFUSED
    return Verdict.ASSUMED if way in walked.assumed else Verdict.PROVED


def _entered(bodies: Bodies, row: int) -> Verdict:
    """Judge a call of what does not start as calls enter it.

    It claims nothing from end to end; or it is no function, and claims to be entered
    by an interrupt, whose words the caller has pushed.
    """
    if row < 0:
        return Verdict.UNSEEN
    state = bodies.state(row)
    made = _is_interrupt(state) and not bodies.is_function(row)
    return Verdict.ASSUMED if made or bodies.stateless(row) else Verdict.UNSEEN


def _is_interrupt(state: int) -> bool:
    """Whether the interrupt's words are on top, the call's return address the first."""
    entry = unpack(state)
    on_top = entry.sp_reg == OrcReg.SP and entry.sp_offset == 0
    return entry.type == OrcType.REGS_PARTIAL and on_top


def _unhinted(scope: Scope, walker: Walker) -> Iterator[Refusal]:
    """Yield the claims that were taken where an object with hints has none.

    One may stand anywhere between the entry and the row that it holds for. A stack
    that is loaded under an unchanged state needs none: objtool does not see it. Nor
    does no state behind it: that is what objtool says of a frame it lost. Nor do the
    registers that a call keeps: objtool takes all of them for kept.
    """
    columns = scope.columns
    hints = parse_hints(columns.program, columns.table)
    if hints is None:
        return
    ip, hinted = columns.lookup.ip, np.sort(hints.ip)
    for (source, row), why in walker.walked.assumed.items():
        state = int(scope.state[row])
        if why in _UNTOLD or state in (UNDEFINED, int(scope.state[source])):
            continue
        address = columns.insns.address[row]
        entry = ip[max(int(np.searchsorted(ip, address, side="right")) - 1, 0)]
        first, last = np.searchsorted(hinted, [entry, address + np.uint64(1)]).tolist()
        if first == last:
            yield Refusal(row, source, state, Answer.UNHINTED, "no hint")


def _by_function(bodies: Bodies, walked: Walked) -> Iterator[Refusal]:
    """Yield the first refusal of each kind in each function, in order of rows."""
    seen = set[tuple[int, Answer]]()
    for refusal in walked.refused.values():  # in the order of execution
        entered = refusal.state == ENTRY and refusal.source >= 0
        at = refusal.source if entered else refusal.row
        key = (bodies.of(at).first, refusal.answer)
        if key not in seen:
            seen.add(key)
            yield refusal
