"""Noreturn: which functions never come back to their caller, proved from their code.

Where the table says nothing, or something else, behind a call, its callee must be
one of these. Of the functions asked about those can return that reach a way out:
a return, an indirect tail call, a jump to other objects. A call on the way is
passed unless its callee is asked about too and cannot return: a least fixpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from msgspec import Struct

from harness.elf.column import among
from harness.elf.export import parse_exports
from harness.text.insn import I64, U64, Insn, InsnKind
from harness.text.operand import parse_encoding
from harness.verify.edges.scope import Scope
from harness.verify.edges.thunk import Thunks
from harness.verify.successor import Bools
from harness.verify.transfer import ENTRY, is_defined
from harness.verify.verdict import Exports

EXPLORED = 50_000  # instructions of one function and what it jumps to


class Ways(Struct, frozen=True):
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


class Noreturn(Struct):
    """The proof for one program.

    Attributes:
        relied: functions of other objects that are taken to never return.
    """

    scope: Scope
    thunks: Thunks
    ways: Ways
    relied: frozenset[int] = frozenset()

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
            if not by_thunk and insn.target not in self.relied:
                yield self._row(insn.target)
        stops = insn.kind is InsnKind.CALL and (
            insn.target in silent or insn.target in self.relied
        )
        if insn.kind.falls_through and not stops:
            yield self._row(insn.end)


def _is_far(insn: Insn) -> bool:
    """Whether it is a jump into another segment, to code of another mode."""
    return parse_encoding(insn.code).reg & 7 == 5


def exports_of(prover: Noreturn, relied: Iterable[int]) -> Exports:
    """Return what the program offers, with those proved that cannot return.

    ``relied`` are addresses whose proof that of others may need. Functions with a
    plain return of their own are not looked at.
    """
    scope = prover.scope
    insns = scope.columns.insns
    offered = parse_exports(scope.columns.program)
    start = np.array(sorted(set(offered.values())), np.uint64)
    first = np.searchsorted(insns.address, start)
    last = np.searchsorted(insns.address, _extent(scope, start))
    ways_out = np.flatnonzero(_ways_out(scope, prover.relied))
    before, within = np.searchsorted(ways_out, first), np.searchsorted(ways_out, last)
    asked = start[(within == before) & (last > first)].tolist()
    proved = prover.prove([*asked, *relied])
    silent = {name for name, address in offered.items() if address in proved}
    return Exports(frozenset(offered), frozenset(silent))


def _extent(scope: Scope, start: U64) -> U64:
    """Where the functions at ``start`` end; at their start if it is none."""
    symbols = scope.columns.program.symbols
    starts = symbols.address[symbols.functions]
    sizes = symbols.size[symbols.functions]
    at = np.minimum(np.searchsorted(starts, start), max(len(starts) - 1, 0))
    if not len(starts):
        return start
    return np.where(starts[at] == start, start + sizes[at], start)


def _ways_out(scope: Scope, relied: frozenset[int]) -> Bools:
    """Returns, and jumps to a return (a thunk) or to other objects."""
    insns, goes = scope.columns.insns, scope.goes
    out = insns.kind == InsnKind.RET
    silent = np.array(sorted(relied), np.uint64)
    away = ~among(insns.target[scope.branch], silent)
    out[scope.branch[np.where(goes < 0, away, out[goes])]] = True
    return np.asarray(out)
