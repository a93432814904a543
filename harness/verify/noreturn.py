"""Noreturn: which functions never come back to their caller, proved from their code.

Where the table says nothing, or something else, behind a call, its callee must be
one of these. Of the functions asked about those can return that reach a way out:
a return, an indirect tail call, a jump to other objects. A call on the way is
passed unless its callee is asked about too and cannot return: a least fixpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.text.insn import Insn, InsnKind
from harness.verify.scope import Scope
from harness.verify.thunk import Thunks
from harness.verify.transfer import ENTRY

EXPLORED = 50_000  # instructions of one function and what it jumps to
NOWHERE = frozenset[str]()


@dataclass(slots=True)
class Noreturn:
    """The proof for one program.

    Attributes:
        ways: row -> further places where control may go from there (a switch, a
            static key, an exception, a warning, the end of an alternative site).
        names: functions of other objects that are proved.
    """

    scope: Scope
    thunks: Thunks
    ways: Mapping[int, list[int]]
    names: frozenset[str] = NOWHERE
    _seen: dict[int, set[int]] = field(default_factory=dict)

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
            return row not in self.ways and int(self.scope.state[row]) == ENTRY
        return False

    def _next(self, row: int, insn: Insn, silent: set[int]) -> Iterator[int]:
        for address in self.ways.get(row, ()):
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
