"""Scope: the instructions whose edges are checked, each with its state.

A section without any state (.altinstr_aux) has none of its own: its code is
the continuation of those who jump there, so it is lent theirs.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.column import among, distinct, pieces
from harness.text.insn import I64, U64, InsnKind, Insns
from harness.verify.columns import Columns
from harness.verify.successor import Bools, defined
from harness.verify.transfer import UNDEFINED

_JUMPS = np.isin(np.arange(256), (InsnKind.JMP, InsnKind.JCC))
_ENDS = [kind for kind in InsnKind if not kind.falls_through]


class Scope(Struct, frozen=True):
    """One program's instructions as the rules for edges see them.

    Attributes:
        columns: the program.
        state: i64[n], the table's or a lent one.
        defined: bool[n], there is a state to check.
        inside: bool[n], it lies in an alternative site: every text of a site is
            checked elsewhere, only the ways into it and out of its end are ours.
        falls: bool[n], control can reach what lies behind it.
        gaps: i64[g], rows right behind which no instruction starts.
        branch: i64[b], rows of direct jumps outside of sites.
        goes: i64[b], rows that these jump to; -1 if it is none.
        inner: i64[c], rows of direct jumps in sites, as the file has them.
        inner_goes: i64[c], rows that those jump to; -1 if it is none.
        call: i64[d], rows of direct calls.
        callee: i64[d], rows that these call; -1 if it is none.
        lent: i64[k], rows whose state is lent.
        functions: u64[f], where function symbols are, each once, ascending.
    """

    columns: Columns
    state: I64
    defined: Bools
    inside: Bools
    falls: Bools
    gaps: I64
    branch: I64
    goes: I64
    inner: I64
    inner_goes: I64
    call: I64
    callee: I64
    lent: I64
    functions: U64

    def at(self, addresses: U64) -> I64:
        """Return the state at each of ``addresses``."""
        states = self.columns.lookup.at(addresses)
        if len(self.lent):
            first, last = self.lent[[0, -1]]
            row = self.columns.index(addresses)
            near = np.flatnonzero((row >= first) & (row <= last))
            known = near[among(row[near], self.lent)]
            states[known] = self.state[row[known]]
        return states

    @property
    def changes(self) -> I64:
        """Rows behind which the state is another one, ascending."""
        begins = np.concatenate([self.columns.begins, self.lent, self.lent + 1])
        begins = distinct(begins[(begins > 0) & (begins < len(self.state))])
        return np.asarray(begins[self.state[begins] != self.state[begins - 1]] - 1)

    def end(self, rows: I64) -> U64:
        """Return the address of the byte behind each of ``rows``."""
        return self.columns.insns.ends(rows)

    def behind(self, rows: I64) -> I64:
        """Return the state at the address behind each of ``rows``."""
        states = self.state[np.minimum(rows + 1, len(self.state) - 1)]
        at = np.minimum(np.searchsorted(self.gaps, rows), len(self.gaps) - 1)
        gap = np.flatnonzero(self.gaps[at] == rows)
        states[gap] = self.columns.lookup.at(self.end(rows[gap]))
        return np.asarray(states)

    def is_function(self, addresses: U64) -> Bools:
        """Tell at which of ``addresses`` a function symbol is."""
        if not len(self.functions):
            return np.zeros(len(addresses), bool)
        at = np.searchsorted(self.functions, addresses)
        at = np.minimum(at, len(self.functions) - 1)
        return np.asarray(self.functions[at] == addresses)


def scope_of(columns: Columns) -> Scope:
    """Return the scope of ``columns``."""
    insns = columns.insns
    state = columns.state
    stated = columns.spread(defined(columns.lookup.state), np.False_)
    branches = columns.branches
    leads = columns.index(insns.target[branches])
    calls = np.flatnonzero(insns.kind[branches] == InsnKind.CALL)
    jump = np.flatnonzero(_JUMPS[insns.kind[branches]])
    jumps, goes = branches[jump], leads[jump]
    falls = ~insns.of_kind(*_ENDS)
    lent = _unstated(columns)
    if len(lent):
        state = state.copy()
        lent = _lend(state, falls, jumps, goes, lent)
        stated[lent] = True
    inside = _inside(columns)
    own = ~inside[jumps]
    symbols = columns.program.symbols
    functions = symbols.address[symbols.functions]
    return Scope(
        columns=columns,
        state=state,
        defined=stated,
        inside=inside,
        falls=falls,
        gaps=_gaps(insns),
        branch=jumps[own],
        goes=goes[own],
        inner=jumps[~own],
        inner_goes=goes[~own],
        call=branches[calls],
        callee=leads[calls],
        lent=lent,
        functions=functions[
            np.append(True, functions[1:] != functions[:-1])[: len(functions)]
        ],
    )


def _gaps(insns: Insns) -> I64:
    """Rows right behind which no instruction starts, the last one among them."""
    address, last = insns.address, len(insns) - 1
    rows = []
    here, behind, size = address[:-1], address[1:], insns.size[:-1]
    for some in pieces(last):
        away = behind[some] - here[some] != size[some]
        rows.append(np.flatnonzero(away) + some.start)
    return np.concatenate([*rows, np.array([last], np.int64)[: len(insns)]])


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
        new = distinct(target)
        got.append(new)
        steps = new[falls[new]]
        hops = np.array([row for row in new.tolist() if row in within], np.int64)
        source = np.concatenate([steps, hops])
        landed = [within[row] for row in hops.tolist()]
        target = np.concatenate([steps + 1, np.array(landed, np.int64)])
    return np.sort(np.concatenate(got))
