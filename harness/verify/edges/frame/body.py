"""Body: the instructions from one function's start to the next, ready to be executed.

Columns answer questions about millions of instructions; who executes some hundred
one after the other wants lists.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np
from msgspec import Struct, field

from harness.elf.column import distinct
from harness.elf.symbol import STT_FUNC, STT_NOTYPE
from harness.text.code import CODE_BYTES
from harness.text.insn import InsnKind
from harness.text.operand import SP, parse_encoding
from harness.verify.edges.frame.operation import VOLATILE, Form, Operation, operation
from harness.verify.edges.frame.site import Passage, SiteRows, passages_of, sites_of
from harness.verify.edges.noreturn import Ways
from harness.verify.edges.scope import Scope
from harness.verify.transfer import ENTRY, is_defined

_PUSH_WORD = 0x68  # push $n, four bytes


class Body(Struct, frozen=True):
    """Lists count from row ``first`` of the program's instructions.

    Attributes:
        first, last: rows [first, last).
        address: of each instruction.
        kind: InsnKind of each.
        state: the table's, of each.
        target: address of its direct branch, else 0.
        goes: row of that address, -1 if no instruction starts there.
        joined: rows to which a branch of this body goes.
        inside: rows of alternative sites, but for their first.
        passages: row of an alternative site -> its other texts.
        after: row -> rows where control goes on besides what instructions tell.
        operations: what each does to a frame.
        touched: mask of registers, behind it claims that count from them are open.
        steady: whether it has a state, as the one before it does, and is in no site.
        restored: mask of volatile registers from which %rsp is restored.
    """

    first: int
    last: int
    address: list[int]
    kind: list[int]
    state: list[int]
    target: list[int]
    goes: list[int]
    joined: frozenset[int]
    inside: frozenset[int]
    passages: dict[int, Passage]
    after: dict[int, list[int]]
    operations: list[Operation]
    touched: list[int]
    steady: list[bool]
    restored: int


class Bodies(Struct, frozen=True, dict=True):
    """The bodies of one program, made when they are asked for."""

    scope: Scope
    ways: Ways
    starts: list[int]  # rows where functions start, ascending
    _made: dict[int, Body] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The row behind the last."""
        return len(self.scope.state)

    def of(self, row: int) -> Body:
        """Return the body that ``row`` lies in."""
        index = bisect.bisect_right(self.starts, row)
        if (body := self._made.get(index)) is None:
            body = self._made[index] = self._make(index)
        return body

    def state(self, row: int) -> int:
        """Return the table's state at ``row``."""
        body = self.of(row)
        return body.state[row - body.first]

    def address(self, row: int) -> int:
        """Return the address of ``row``."""
        body = self.of(row)
        return body.address[row - body.first]

    def named(self, row: int) -> bool:
        """Whether a symbol starts at ``row``."""
        address, symbols = self.address(row), self.scope.columns.program.symbols
        index = symbols.index(address)
        return index >= 0 and int(symbols.address[index]) == address

    def is_function(self, row: int) -> bool:
        """Whether the symbol that starts at ``row`` is a function's."""
        symbols = self.scope.columns.program.symbols
        address = np.uint64(self.address(row))
        first = int(np.searchsorted(symbols.address, address))
        last = int(np.searchsorted(symbols.address, address, side="right"))
        return bool((symbols.kind[first:last] == STT_FUNC).any())

    def stateless(self, row: int) -> bool:
        """Whether ``row`` starts a function that claims nothing from end to end."""
        body = self.of(row)
        return row == body.first and not any(map(is_defined, body.state))

    def loaded(self, row: int) -> int | None:
        """Return the register that ``row`` loads from memory that no value tells."""
        encoding = parse_encoding(self.scope.columns.insns.at(row).code)
        word = encoding.opcode == 0x8B and encoding.wide and encoding.mod != 3
        return encoding.reg if word else None

    def makes(self, row: int) -> bool:
        """Whether ``row`` may put a return address of the code's own on top.

        It pushes an address of code (kretprobes), drops its caller's just before it
        returns (srso), or restores flags that lay on it (ftrace).
        """
        insn = self.scope.columns.insns.at(row)
        if insn.kind is InsnKind.PUSH and insn.code[0] == _PUSH_WORD:
            value = int.from_bytes(insn.code[1:5], "little", signed=True)
            pushed = np.array([value], np.int64).astype(np.uint64)
            return bool(self.scope.columns.program.in_code(pushed)[0])
        body, n = self.of(row), row - self.of(row).first
        if body.state[n] != ENTRY:
            return insn.kind is InsnKind.POPF
        last = row + 1 < body.last and body.kind[n + 1] == InsnKind.RET
        operation = body.operations[n]
        return last and operation.form is Form.LEA and operation.reg == SP

    def _make(self, index: int) -> Body:
        first = self.starts[index - 1] if index else 0
        insns = self.scope.columns.insns
        last = self.starts[index] if index < len(self.starts) else len(insns)
        part = slice(first, last)
        kind = insns.kind[part]
        target = insns.target[part]
        branch = np.flatnonzero(target)
        goes = np.full(last - first, -1, np.int64)
        goes[branch] = self.scope.columns.index(target[branch])
        jumps = branch[kind[branch] != InsnKind.CALL]
        blob = insns.code[part].tobytes()
        sizes = insns.size[part].tolist()
        kinds = kind.tolist()
        sites = sites_of(self.scope.columns, first, last)
        stated = self.scope.defined[part]
        within = self.scope.inside[part]
        operations = [
            operation(kinds[n], blob[n * CODE_BYTES : n * CODE_BYTES + sizes[n]])
            for n in range(last - first)
        ]
        return Body(
            first,
            last,
            insns.address[part].tolist(),
            kinds,
            self.scope.state[part].tolist(),
            target.tolist(),
            goes.tolist(),
            frozenset(goes[jumps].tolist()),
            frozenset(_inside(sites)),
            passages_of(self.scope.columns, sites),
            self._after(first, last, kinds, sites),
            operations,
            [each.touched for each in operations],
            (stated & np.append(False, stated[:-1]) & ~within).tolist(),
            _restored(operations),
        )

    def _after(
        self, first: int, last: int, kinds: list[int], sites: list[SiteRows]
    ) -> dict[int, list[int]]:
        """Return the ways of these rows, but for those over a site."""
        ways, after = self.ways, dict[int, list[int]]()
        begin, end = np.searchsorted(ways.source, [first, last]).tolist()
        over = {(site.row, site.behind) for site in sites}
        goes = self.scope.columns.index(ways.target[begin:end])
        source = ways.source[begin:end]
        for row, other in zip(source.tolist(), goes.tolist(), strict=True):
            if other >= 0 and (row, other) not in over:
                after.setdefault(row, []).append(other)
                if kinds[row - first] == InsnKind.JMP:  # or a NOP, by a static key
                    after[row].append(row + 1)
        return after


def _inside(sites: list[SiteRows]) -> Iterator[int]:
    for site in sites:
        yield from range(site.row + 1, site.behind)


def _restored(operations: list[Operation]) -> int:
    """Return the volatile registers that carry a saved %rsp, perhaps over a call."""
    mask = loaded = 0
    for each in operations:
        if each.form in (Form.POP, Form.LOAD):
            loaded |= 1 << each.reg
        elif each.reg == SP and each.form in (Form.MOVE, Form.LEA):
            mask |= 1 << each.base
    return mask & VOLATILE & ~loaded


def bodies_of(scope: Scope, ways: Ways) -> Bodies:
    """Return the bodies of ``scope``, cut at functions and labels in assembly."""
    symbols = scope.columns.program.symbols
    code = np.isin(symbols.kind, (STT_FUNC, STT_NOTYPE)) & (symbols.section >= 0)
    rows = scope.columns.index(symbols.address[code])
    return Bodies(scope, ways, distinct(rows[rows >= 0]).tolist())
