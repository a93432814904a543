"""Inlined: where a boot executed what its kernel wrote over a call through pv_ops.

Up to 5.12 that may be the operation itself (:mod:`harness.text.patch.paravirt`): code
that objtool has never seen, so that the table has one state for all of it. An
instruction that starts inside of it was written there: the call that was linked, and the
one that another machine gets, has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.boot.shadow.code import Code
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program
from harness.text.patch.kind import Era
from harness.text.patch.paravirt import (
    Action,
    Operation,
    decoded,
    read_operations,
    read_paravirt,
)

_Starts = Mapping[int, str]  # address -> the operation's name


class Inlined:
    """The instructions inside of inlined operations, of a kernel and its modules."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._operations = read_operations(code.program)
        self._starts: dict[str, _Starts] = {}

    def at(self, address: int, row: int) -> str:
        """Name the operation that ``address`` is inside of, where ``row`` held; or ""."""
        owner = self._code.owner(row)
        if owner is None:
            return self._of(self._code.program).get(address, "")
        place = owner.address(address)
        return "" if place is None else self._of(owner.program).get(place, "")

    def _of(self, program: Program) -> _Starts:
        if program.name not in self._starts:
            self._starts[program.name] = starts(program, self._operations)
        return self._starts[program.name]


def starts(program: Program, operations: tuple[Operation, ...]) -> _Starts:
    """Return each such instruction of ``program``; see ``read_paravirt``."""
    sites = parse_parainstructions(program)
    if sites is None:
        return {}
    found = read_paravirt(program, sites, Era.E1, operations)
    return {
        at + insn.address: operation.name
        for at, row in zip(
            found.address.tolist(), found.operation.tolist(), strict=True
        )
        if (operation := found.operations[row]).action is Action.INLINE
        for insn in decoded(operation.code)[1:]
    }
