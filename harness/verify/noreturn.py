"""Noreturn: which functions never come back to their caller, proved from their code.

Where the table says nothing, or something else, behind a call, its callee must be
one of these. Of the functions asked about those can return that reach a way out:
a return, an indirect tail call, a jump to other objects. A call on the way is
passed unless its callee is asked about too and cannot return: a least fixpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.text.insn import I64, U64, Insn, InsnKind
from harness.text.operand import parse_encoding
from harness.verify.scope import Scope
from harness.verify.successor import Bools
from harness.verify.thunk import Thunks
from harness.verify.transfer import ENTRY, is_defined

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

    def behind(self, first: int, last: int) -> list[int]:
        """Return the addresses for the rows from ``first`` to before ``last``."""
        begin, end = self.source.searchsorted(first), self.source.searchsorted(last)
        return self.target[begin:end].tolist() if begin < end else []


def ways_of(parts: Sequence[tuple[I64, U64]]) -> Ways:
    """Return the ways of all ``parts``, pairs of sources and targets."""
    source = np.concatenate([source for source, _ in parts])
    target = np.concatenate([target for _, target in parts])
    order = np.argsort(source, kind="stable")
    return Ways(source[order], target[order])


# Where control does more than go on to the next instruction.
_TURN = re.compile(
    b"[%s]"
    % bytes(
        kind
        for kind in InsnKind
        if not kind.falls_through or kind in (InsnKind.CALL, InsnKind.JCC)
    ).replace(b"\\", b"\\\\")
)


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
        rows = self.scope.columns.insns.address
        at = int(rows.searchsorted(np.uint64(address)))
        return at if at < len(rows) and int(rows[at]) == address else -1

    def _returns(self, function: int, silent: set[int]) -> bool:
        """Whether a way leads from ``function`` back to its caller."""
        todo = [self._row(function)]
        seen: dict[int, int] = {}  # turn -> the first row that was followed to it
        while todo:
            row = todo.pop()
            if row < 0 or len(seen) > EXPLORED:
                return True
            turn = self._turn(row)
            known = seen.get(turn, turn + 1)
            if row >= known:
                continue
            seen[turn] = row
            todo += map(self._row, self.ways.behind(row, known))
            if known <= turn:
                continue
            insn = self.scope.columns.insns.at(turn)
            if self._leaves(turn, insn):
                return True
            todo += self._next(turn, insn, silent)
        return False

    def _turn(self, row: int) -> int:
        """The first row from ``row`` on at which control may not just go on."""
        found = _TURN.search(self.scope.columns.insns.kind, row)  # type: ignore[call-overload]
        return int(found.start()) if found else len(self.scope.state) - 1

    def _leaves(self, row: int, insn: Insn) -> bool:
        """Whether control can get back to the caller from here."""
        if insn.kind is InsnKind.RET:
            return True
        indirect = insn.kind is InsnKind.JMP_INDIRECT and not _is_far(insn)
        jumps = insn.kind in (InsnKind.JMP, InsnKind.JCC)
        if indirect or (jumps and self.thunks.is_known(insn.target)):
            # a jump with a live frame is no tail call
            state = int(self.scope.state[row])
            tail = state == ENTRY or not is_defined(state)
            return tail and not self.ways.behind(row, row + 1)
        return False

    def _next(self, row: int, insn: Insn, silent: set[int]) -> Iterator[int]:
        if insn.kind in (InsnKind.JMP, InsnKind.JCC):
            by_thunk = self.thunks.is_known(insn.target)
            if not by_thunk and not self.external(insn.target):
                yield self._row(insn.target)
        stops = insn.kind is InsnKind.CALL and (
            insn.target in silent or self.external(insn.target)
        )
        if insn.kind.falls_through and not stops:
            yield self._row(insn.end)


def _is_far(insn: Insn) -> bool:
    """Whether it is a jump into another segment, to code of another mode."""
    return parse_encoding(insn.code).reg & 7 == 5


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
