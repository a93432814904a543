"""Noreturn: which functions never come back to their caller, proved from their code.

Where the table says nothing, or something else, behind a call, its callee must be
one of these. Of the functions asked about those can return that reach a way out:
a return, an indirect tail call, a jump to other objects. A call on the way is
passed unless its callee is asked about too and cannot return: a least fixpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.text.insn import I64, U64, Insn, InsnKind
from harness.verify.scope import Scope
from harness.verify.successor import Bools
from harness.verify.thunk import Thunks
from harness.verify.transfer import ENTRY

EXPLORED = 50_000  # instructions of one function and what it jumps to
NOWHERE = frozenset[str]()


@dataclass(frozen=True, slots=True)
class Ways:
    """Where control may go from a row, other than what its instruction tells.

    A switch, a static key, an exception, a warning, the end of an alternative site.

    Attributes:
        source: i64[w] rows, ascending.
        target: u64[w] addresses.
    """

    source: I64
    target: U64

    def behind(self, row: int) -> list[int]:
        """Return the addresses for ``row``."""
        first, last = np.searchsorted(self.source, (row, row + 1)).tolist()
        return [int(address) for address in self.target[first:last].tolist()]


def ways_of(parts: Sequence[tuple[I64, U64]]) -> Ways:
    """Return the ways of all ``parts``, pairs of sources and targets."""
    source = np.concatenate([source for source, _ in parts])
    target = np.concatenate([target for _, target in parts])
    order = np.argsort(source, kind="stable")
    return Ways(source[order], target[order])


@dataclass(slots=True)
class Noreturn:
    """The proof for one program.

    Attributes:
        names: functions of other objects that are proved.
    """

    scope: Scope
    thunks: Thunks
    ways: Ways
    names: frozenset[str] = NOWHERE

    def prove(self, functions: Iterable[int]) -> frozenset[int]:
        """Return those of ``functions``, addresses, that cannot return."""
        asked = {address for address in functions if self._row(address) >= 0}
        silent = set(asked)
        again = True
        while again:
            returning = {
                address for address in silent if self._returns(address, silent)
            }
            silent -= returning
            again = bool(returning)
        return frozenset(silent)

    def external(self, address: int) -> bool:
        """Tell whether ``address`` is a function of another object that is proved."""
        externals = self.scope.columns.program.externals
        return externals.get(address, "") in self.names

    def _row(self, address: int) -> int:
        wanted = np.array([address], np.uint64)
        return int(self.scope.columns.insns.index(wanted)[0])

    def _returns(self, function: int, silent: set[int]) -> bool:
        todo = [self._row(function)]
        seen: set[int] = set()
        while todo:
            row = todo.pop()
            if row < 0 or len(seen) > EXPLORED:
                return True
            if row in seen:
                continue
            seen.add(row)
            insn = self.scope.columns.insns.at(row)
            if self._leaves(row, insn):
                return True
            todo += self._next(row, insn, silent)
        return False

    def _leaves(self, row: int, insn: Insn) -> bool:
        """Whether control can get back to the caller from here."""
        if insn.kind is InsnKind.RET:
            return True
        by_thunk = insn.kind in (InsnKind.JMP, InsnKind.JCC) and (
            self.thunks.register(insn.target) >= 0
        )
        if insn.kind is InsnKind.JMP_INDIRECT or by_thunk:
            # a jump with a live frame is no tail call
            return not self.ways.behind(row) and int(self.scope.state[row]) == ENTRY
        return False

    def _next(self, row: int, insn: Insn, silent: set[int]) -> Iterator[int]:
        for address in self.ways.behind(row):
            yield self._row(address)
        if insn.kind in (InsnKind.JMP, InsnKind.JCC):
            by_thunk = self.thunks.register(insn.target) >= 0
            if not by_thunk and not self.external(insn.target):
                yield self._row(insn.target)
        stops = insn.kind is InsnKind.CALL and (
            insn.target in silent or self.external(insn.target)
        )
        if insn.kind.falls_through and not stops:
            yield self._row(insn.end)


def exported(scope: Scope) -> list[tuple[str, int]]:
    """Return names and addresses of the functions that modules can call.

    An exported name has an entry called __ksymtab_name (include/linux/export.h).
    Those that plainly return, by a return of their own, are left out.
    """
    insns, symbols = scope.columns.insns, scope.columns.program.symbols
    prefix = "__ksymtab_"
    names = [str(name) for name in symbols.names.tolist() if name.startswith(prefix)]
    rows = [symbols.find_index(name.removeprefix(prefix)) for name in names]
    known = [row for row in rows if row is not None and symbols.section[row] >= 0]
    start = symbols.address[known]
    first = np.searchsorted(insns.address, start)
    last = np.searchsorted(insns.address, start + symbols.size[known])
    ways_out = np.concatenate([[0], np.cumsum(_ways_out(scope))])
    silent = np.flatnonzero((ways_out[last] == ways_out[first]) & (last > first))
    return [(str(symbols.names[known[at]]), int(start[at])) for at in silent.tolist()]


def _ways_out(scope: Scope) -> Bools:
    """Returns, and jumps to a return (a thunk)."""
    kind = scope.columns.insns.kind
    out = kind == InsnKind.RET
    goes = scope.goes
    out[scope.branch[(goes >= 0) & (kind[np.maximum(goes, 0)] == InsnKind.RET)]] = True
    return np.asarray(out)
