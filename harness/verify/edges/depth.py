"""Depth: how far %rsp is below %rbp, where the CFA is not counted from %rsp.

The table does not say it there, and `pop %rbp` needs it: only where %rsp equals
%rbp does it end the frame. It is propagated from `mov %rsp,%rbp` on, on whole
columns: code is cut into blocks that are entered at their first row only, and what
is known of one block tells what its successors start with.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.orc import OrcReg
from harness.text.effect import Effects, Form
from harness.text.insn import I64, InsnKind
from harness.verify.edges.noreturn import Ways
from harness.verify.edges.scope import Scope
from harness.verify.successor import Bools

_MOVES = (Form.MOVE, Form.PUSH_BP)
_SETS = (Form.MOV_SP_BP, Form.LEA_SP_BP, Form.MOV_BP_SP)
_LOSES = (Form.SET_SP, Form.POP_SP, Form.UNKNOWN)


class _Arrows(Struct, frozen=True):
    """Ways from block to block, by source.

    What arrives is ``value``, added to what the source block starts with unless it
    is ``absolute``; nothing is known of it if it is ``lost``.
    """

    source: I64
    target: I64
    value: I64
    absolute: Bools
    lost: Bools


class Depths(Struct, frozen=True):
    """What is known of %rsp where the table counts from a frame at %rbp.

    ``start`` i64[b] are the rows at which blocks start, ``depth`` i64[b] is what each
    starts with, ``changes`` the rows that move %rsp.
    """

    start: I64
    depth: I64
    changes: _Changes

    def at(self, rows: I64) -> tuple[I64, Bools]:
        """Return how far %rsp is above %rbp in front of ``rows``, and where it is known.

        ``rows`` are some where the table counts from such a frame.
        """
        if not len(self.start):
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        home = np.maximum(np.searchsorted(self.start, rows, side="right") - 1, 0)
        value, absolute, lost = _within(self.changes, self.start[home], rows)
        begin = self.depth[home]
        known = ~lost & (absolute | (begin < _MANY))
        return np.where(absolute, value, np.where(known, begin, 0) + value), known


def depths_of(scope: Scope, effects: Effects, ways: Ways, ends: I64) -> Depths:
    """Propagate the depth; ``ends`` are the rows of calls that never return."""
    framed = scope.columns.spread(_at_bp(scope.columns.lookup.state), np.False_)
    framed[scope.lent] = _at_bp(scope.state[scope.lent])
    changes = _changes(effects)
    if not len(changes.row):  # nothing is known of %rsp anywhere
        return Depths(np.zeros(0, np.int64), np.zeros(0, np.int64), changes)
    start, arrows = _blocks(scope, changes, ways, framed, ends)
    return Depths(start, _propagate(arrows, len(start)), changes)


def _at_bp(states: I64) -> Bools:
    """Tell which states count from %rbp, or have the caller's where it points to."""
    base = states >> 32 & 15
    at_bp = (base == OrcReg.BP) | (base == OrcReg.BP_INDIRECT)
    return np.asarray(at_bp | (states >> 36 & 15 == OrcReg.BP))


def unsure_pops(scope: Scope, effects: Effects, depths: Depths) -> I64:
    """Return rows of ``pop %rbp`` at which %rsp is not proved to equal %rbp.

    Only those are looked at where the CFA is counted from %rbp.
    """
    pops = effects.row[effects.form == Form.POP_BP]
    pops = pops[scope.state[pops] >> 32 & 15 == OrcReg.BP]
    pops = pops[~scope.inside[pops]]
    depth, known = depths.at(pops)
    return np.asarray(pops[~known | (depth != 0)])


class _Changes(Struct, frozen=True):
    """Rows that move %rsp, ascending, with running totals in front of each.

    ``total`` i64[k+1] sums the moves; ``last`` i64[k+1] is the place of the latest
    set or loss before, -1 if none; ``amount`` and ``loses`` describe each row.
    """

    row: I64
    total: I64
    last: I64
    amount: I64
    loses: Bools


def _changes(effects: Effects) -> _Changes:
    moves = np.isin(effects.form, _MOVES)
    sets, loses = np.isin(effects.form, _SETS), np.isin(effects.form, _LOSES)
    some = np.flatnonzero(moves | sets | loses)
    delta = effects.delta[some]
    resets = np.where(moves[some], -1, np.arange(len(some)))
    return _Changes(
        row=effects.row[some],
        total=np.concatenate([[0], np.cumsum(np.where(moves[some], delta, 0))]),
        last=np.concatenate([[-1], np.maximum.accumulate(resets)]),
        amount=np.where(effects.form[some] == Form.LEA_SP_BP, delta, 0),
        loses=loses[some],
    )


def _within(changes: _Changes, start: I64, row: I64) -> tuple[I64, Bools, Bools]:
    """Return what lies between block ``start`` and ``row``: value, absolute, lost."""
    first = np.searchsorted(changes.row, start)
    here = np.searchsorted(changes.row, row)
    reset = changes.last[here]
    absolute = reset >= first
    since = np.where(absolute, reset + 1, first)
    value = changes.total[here] - changes.total[since]
    value += np.where(absolute, changes.amount[np.maximum(reset, 0)], 0)
    lost = absolute & changes.loses[np.maximum(reset, 0)]
    return value, absolute, lost


def _blocks(
    scope: Scope, changes: _Changes, ways: Ways, framed: Bools, ends: I64
) -> tuple[I64, _Arrows]:
    """Return the rows at which blocks start, and the ways between the blocks."""
    source = np.concatenate([scope.branch, scope.inner, ways.source])
    target = np.concatenate(
        [scope.goes, scope.inner_goes, scope.columns.index(ways.target)]
    )
    good = (source >= 0) & (target >= 0)
    source, target = source[good], target[good]
    stay = framed[source] & framed[target]
    source, target = source[stay], target[stay]
    stops = ~scope.falls
    stops[ends] = True
    cuts = framed.copy()
    cuts[1:] &= stops[:-1] | ~framed[:-1]
    cuts[target] = True
    start = np.flatnonzero(cuts)
    next_to = start[start > 0]
    padding = scope.columns.insns.kind[next_to - 1] == InsnKind.NOP
    padding &= ~scope.defined[next_to - 1]  # between loops: nothing runs through it
    next_to = next_to[~stops[next_to - 1] & ~padding]
    # a block is entered in front of its first row, by a jump or from the row before
    origin = np.concatenate([source, next_to - 1])
    leaves = np.concatenate([source, next_to])
    block = np.searchsorted(start, origin, side="right") - 1
    # from another base %rsp is told by the one instruction that makes %rbp the base
    outside = ~framed[origin]
    begin = np.where(outside, origin, start[block])
    value, absolute, lost = _within(changes, begin, leaves)
    enters = np.searchsorted(start, np.concatenate([target, next_to]))
    lost |= outside & ~absolute
    absolute |= outside
    order = np.argsort(block, kind="stable")
    arrows = _Arrows(
        source=block[order],
        target=enters[order],
        value=value[order],
        absolute=absolute[order],
        lost=lost[order],
    )
    return start, arrows


_NONE = np.iinfo(np.int64).max  # nothing has come there yet
_MANY = _NONE - 1  # different ways bring different depths


def _propagate(arrows: _Arrows, count: int) -> I64:
    """Return i64[count], the depth that each block starts with."""
    depth = np.full(count, _NONE, np.int64)
    fixed = np.flatnonzero(arrows.absolute)
    brought = np.where(arrows.lost[fixed], _MANY, arrows.value[fixed])
    changed = _arrive(depth, arrows.target[fixed], brought)
    passes = np.flatnonzero(~arrows.absolute)
    source, target = arrows.source[passes], arrows.target[passes]
    value = arrows.value[passes]
    while len(changed):
        first = np.searchsorted(source, changed)
        size = np.searchsorted(source, changed, side="right") - first
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        rows = np.repeat(first, size) + within
        begins = depth[source[rows]]
        brought = np.where(begins == _MANY, _MANY, begins + value[rows])
        changed = _arrive(depth, target[rows], brought)
    return depth


def _arrive(depth: I64, target: I64, brought: I64) -> I64:
    """Bring depths to blocks; return those for which something is new."""
    blocks, which = np.unique(target, return_inverse=True)
    least = np.full(len(blocks), _NONE, np.int64)
    most = np.full(len(blocks), -_NONE, np.int64)
    np.minimum.at(least, which, brought)
    np.maximum.at(most, which, brought)
    old = depth[blocks]
    least, most = (
        np.minimum(least, old),
        np.where(old == _NONE, most, np.maximum(most, old)),
    )
    new = np.where(least == most, least, _MANY)
    depth[blocks] = new
    return np.asarray(blocks[new != old])
