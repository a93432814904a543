"""Body: the instructions from one function's start to the next, ready to be executed.

Columns answer questions about millions of instructions; who executes some hundred
one after the other wants lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from harness.elf.symbol import STT_FUNC, STT_NOTYPE
from harness.text.insn import CODE_BYTES, I64, InsnKind
from harness.text.operand import SP, parse_encoding
from harness.verify.columns import Columns
from harness.verify.frame.operation import VOLATILE, Form, Operation, operation
from harness.verify.transfer import is_defined

_DEPTH = 8  # of calls that are followed to see what a function overwrites


@dataclass(frozen=True, slots=True)
class Routes:
    """The ways of control that no instruction tells.

    Attributes:
        after: row -> rows where control goes on from there besides: fixups of
            exceptions, entries of jump tables, targets of static keys, and the row
            behind a ud1 or ud2 that is a warning.
        ends: rows of calls that never return.
        moved: address of a function -> state behind its call, where that differs
            from the one before.
        exits: rows of jumps that leave their function for good.
        tables: rows of jumps whose targets are all in ``after``.
    """

    after: Mapping[int, Sequence[int]] = field(default_factory=dict)
    ends: Set[int] = frozenset()
    moved: Mapping[int, int] = field(default_factory=dict)
    exits: Set[int] = frozenset()
    tables: Set[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Body:
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
        operations: what each does to a frame.
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
    operations: list[Operation]
    restored: int


@dataclass(frozen=True)
class Bodies:
    """The bodies of one program, made when they are asked for."""

    columns: Columns
    starts: I64  # rows where functions start, ascending
    _made: dict[int, Body] = field(default_factory=dict)
    _covered: dict[int, bool] = field(default_factory=dict)
    _keeps: dict[int, int] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The row behind the last."""
        return len(self.columns.insns)

    def of(self, row: int) -> Body:
        """Return the body that ``row`` lies in."""
        index = int(np.searchsorted(self.starts, row, side="right"))
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
        address, symbols = self.address(row), self.columns.program.symbols
        index = symbols.index(address)
        return index >= 0 and int(symbols.address[index]) == address

    def covered(self, row: int) -> bool:
        """Whether the table tells of any frame in the section that ``row`` lies in."""
        section = self.columns.program.section_at(self.address(row))
        if section is None:
            return False
        if section.address not in self._covered:
            lookup = self.columns.lookup
            edges = np.array([section.address, section.end], np.uint64)
            begin, end = np.searchsorted(lookup.ip, edges).tolist()
            states = np.unique(lookup.state[begin:end]).tolist()
            self._covered[section.address] = any(map(is_defined, states))
        return self._covered[section.address]

    def loaded(self, row: int) -> int | None:
        """Return the register that ``row`` loads from memory that no value tells."""
        encoding = parse_encoding(self.columns.insns.at(row).code)
        word = encoding.opcode == 0x8B and encoding.wide and encoding.mod != 3
        return encoding.reg if word else None

    def keeps(self, row: int, _asked: frozenset[int] = frozenset()) -> int:
        """Return the volatile registers that the function at ``row`` leaves alone.

        gcc knows that of functions in the same file and uses it (-fipa-ra).
        """
        if row < 0 or row in _asked or len(_asked) > _DEPTH:
            return 0
        if row not in self._keeps:
            self._keeps[row] = self._judge(row, _asked | {row})
        return self._keeps[row]

    def _judge(self, row: int, asked: frozenset[int]) -> int:
        body = self.of(row)
        if row != body.first or body.inside:
            return 0
        kept = VOLATILE
        for n, kind in enumerate(body.kind):
            goes = body.goes[n]
            if kind in (InsnKind.CALL_INDIRECT, InsnKind.JMP_INDIRECT):
                return 0
            if kind == InsnKind.CALL or (goes >= 0 and self.of(goes) is not body):
                kept &= self.keeps(goes, asked)
            elif body.target[n] and goes < 0:
                return 0
            else:
                kept &= ~body.operations[n].lost & ~_written(body.operations[n])
        return kept

    def _make(self, index: int) -> Body:
        first = int(self.starts[index - 1]) if index else 0
        insns = self.columns.insns
        more = index < len(self.starts)
        last = int(self.starts[index]) if more else len(insns)
        part = slice(first, last)
        kind = insns.kind[part]
        target = insns.target[part]
        branch = np.flatnonzero(target)
        goes = np.full(last - first, -1, np.int64)
        goes[branch] = insns.index(target[branch])
        jumps = branch[kind[branch] != InsnKind.CALL]
        blob = insns.code[part].tobytes()
        sizes = insns.size[part].tolist()
        kinds = kind.tolist()
        operations = [
            operation(kinds[n], blob[n * CODE_BYTES : n * CODE_BYTES + sizes[n]])
            for n in range(last - first)
        ]
        return Body(
            first,
            last,
            insns.address[part].tolist(),
            kinds,
            self.columns.state[part].tolist(),
            target.tolist(),
            goes.tolist(),
            frozenset(goes[jumps].tolist()),
            self._inside(first, last),
            operations,
            _restored(operations),
        )

    def _inside(self, first: int, last: int) -> frozenset[int]:
        alternatives, insns = self.columns.alternatives, self.columns.insns
        if alternatives is None or first == last:
            return frozenset()
        start = alternatives.site_address
        here = (start >= insns.address[first]) & (start <= insns.address[last - 1])
        begin = start[here]
        end = begin + alternatives.site_length[here].astype(np.uint64)
        rows = np.searchsorted(insns.address, begin, side="right").tolist()
        behind = np.searchsorted(insns.address, end).tolist()
        return frozenset(
            row
            for at, last in zip(rows, behind, strict=True)
            for row in range(at, last)
        )


def _written(operation: Operation) -> int:
    """Return the register that the form itself writes, as a mask."""
    if operation.form in (Form.POP, Form.MOVE, Form.LOAD, Form.LEA, Form.SWAP_MEMORY):
        return 1 << operation.reg
    if operation.form is Form.SWAP:
        return 1 << operation.reg | 1 << operation.base
    return 0


def _restored(operations: list[Operation]) -> int:
    mask = 0
    for each in operations:
        if each.reg == SP and each.form in (Form.MOVE, Form.LEA):
            mask |= 1 << each.base
    return mask & VOLATILE


def bodies_of(columns: Columns) -> Bodies:
    """Return the bodies of ``columns``, cut at functions and labels in assembly."""
    symbols = columns.program.symbols
    code = np.isin(symbols.kind, (STT_FUNC, STT_NOTYPE)) & (symbols.section >= 0)
    rows = columns.insns.index(symbols.address[code])
    return Bodies(columns, np.unique(rows[rows >= 0]))
