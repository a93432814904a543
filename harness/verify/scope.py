"""Scope: the instructions whose edges are checked, each with its state.

A section without any state (.altinstr_aux) has none of its own: its code is
the continuation of those who jump there, so it is lent theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.text.insn import I64, U64, InsnKind
from harness.verify.columns import Columns
from harness.verify.successor import Bools, defined
from harness.verify.transfer import UNDEFINED

_JUMPS = (InsnKind.JMP, InsnKind.JCC)
_FALLS = np.array(
    [kind not in set(InsnKind) or InsnKind(kind).falls_through for kind in range(256)]
)


@dataclass(frozen=True, slots=True)
class Scope:
    """One program's instructions as the rules for edges see them.

    Attributes:
        columns: the program.
        state: i64[n], the table's or a lent one.
        behind: i64[n], the state at the address behind each instruction.
        defined: bool[n], there is a state to check.
        inside: bool[n], it lies in an alternative site: every text of a site is
            checked elsewhere, only the ways into it and out of its end are ours.
        falls: bool[n], control can reach what lies behind it.
        branch: i64[b], rows of direct jumps outside of sites.
        goes: i64[b], rows that these jump to; -1 if it is none.
        inner: i64[c], rows of direct jumps in sites, as the file has them.
        inner_goes: i64[c], rows that those jump to; -1 if it is none.
        lent: i64[k], rows whose state is lent.
    """

    columns: Columns
    state: I64
    behind: I64
    defined: Bools
    inside: Bools
    falls: Bools
    branch: I64
    goes: I64
    inner: I64
    inner_goes: I64
    lent: I64

    def at(self, addresses: U64) -> I64:
        """Return the state at each of ``addresses``."""
        states = self.columns.lookup.at(addresses)
        if len(self.lent):
            row = self.columns.insns.index(addresses)
            known = np.isin(row, self.lent)
            states[known] = self.state[row[known]]
        return states


def scope_of(columns: Columns) -> Scope:
    """Return the scope of ``columns``."""
    insns = columns.insns
    state = columns.state
    jumps = np.flatnonzero(np.isin(insns.kind, _JUMPS) & (insns.target != 0))
    goes = insns.index(insns.target[jumps])
    falls = _FALLS[insns.kind]
    lent = _unstated(columns)
    if len(lent):
        state = state.copy()
        lent = _lend(state, falls, jumps, goes, lent)
    behind = np.append(state[1:], UNDEFINED)
    gap = np.flatnonzero(np.append(insns.address[1:] != insns.end[:-1], True))
    behind[gap] = columns.lookup.at(insns.end[gap])
    inside = _inside(columns)
    own = ~inside[jumps]
    return Scope(
        columns=columns,
        state=state,
        behind=behind,
        defined=defined(state),
        inside=inside,
        falls=falls,
        branch=jumps[own],
        goes=goes[own],
        inner=jumps[~own],
        inner_goes=goes[~own],
        lent=lent,
    )


def _inside(columns: Columns) -> Bools:
    """Rows of alternative sites."""
    inside = np.zeros(len(columns.insns), bool)
    if columns.alternatives is None:
        return inside
    start = columns.alternatives.site_address
    end = start + columns.alternatives.site_length.astype(np.uint64)
    first = np.searchsorted(columns.insns.address, start)
    last = np.searchsorted(columns.insns.address, end)
    for begin, stop in zip(first.tolist(), last.tolist(), strict=True):
        inside[begin:stop] = True
    return inside


def _unstated(columns: Columns) -> I64:
    """Rows of sections that have code and no state at all."""
    program, ip = columns.program, columns.lookup.ip
    stated = defined(columns.lookup.state)
    rows = [np.zeros(0, np.int64)]
    for section in program.executable:
        ends = np.array([section.address, section.end], np.uint64)
        first, last = np.searchsorted(ip, ends).tolist()
        if not stated[first:last].any():
            begin, stop = np.searchsorted(columns.insns.address, ends).tolist()
            rows.append(np.arange(begin, stop))
    return np.concatenate(rows)


def _lend(state: I64, falls: Bools, jumps: I64, goes: I64, unstated: I64) -> I64:
    """Give ``unstated`` rows the state of what leads there; return those that got one.

    What leads there with another state is an edge that does not hold.
    """
    empty = np.zeros(len(state) + 1, bool)
    empty[unstated] = True
    state[unstated] = UNDEFINED
    got = [np.zeros(0, np.int64)]
    inner = empty[jumps]
    follow = goes >= 0
    source, target = jumps[follow & ~inner], goes[follow & ~inner]
    within = dict(zip(jumps[follow & inner], goes[follow & inner], strict=True))
    while len(source):
        wanted = empty[target] & defined(state[source])
        source, target = source[wanted], target[wanted]
        state[target] = state[source]
        empty[target] = False
        new = np.unique(target)
        got.append(new)
        steps = new[falls[new]]
        hops = np.array([row for row in new.tolist() if row in within], np.int64)
        source = np.concatenate([steps, hops])
        landed = [within[row] for row in hops.tolist()]
        target = np.concatenate([steps + 1, np.array(landed, np.int64)])
    return np.sort(np.concatenate(got))
